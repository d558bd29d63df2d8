/* segment.h: one segment file, its two indexes, and its read-only mapping. */
#ifndef EL_SEGMENT_H
#define EL_SEGMENT_H

#include <stdatomic.h>
#include <stdint.h>

#include "batch.h"
#include "file.h"

#define EL_INDEX_ENTRY 8       /* int32 offset - base, int32 position */
#define EL_TIME_INDEX_ENTRY 12 /* int64 timestamp, int32 offset - base */

/* <directory>/<20 digits><suffix>; EL_ERR_ARGUMENT if it does not fit. */
int32_t el_segment_path(char out[EL_PATH_MAX], const char *directory, int64_t base_offset,
                        const char *suffix);
/* Base offsets of the .log files of a directory, ascending, in *bases (free() it). Count or error. */
int64_t el_segment_list(const char *directory, int64_t **bases);

/* May a batch with this base offset follow, where the batch before ended at `expected`? */
static inline int el_offset_follows(int64_t base_offset, int64_t expected, int32_t has_gaps) {
    return base_offset == expected || (has_gaps && base_offset > expected);
}

/* Kafka's rule for one appended batch (LogSegment.append): updates `end`, returns which entries are
 * to be added. Used by appends and by rebuilding, so both give the same bytes. */
#define EL_ADD_INDEX 1
#define EL_ADD_TIME 2
int el_index_step(el_log_end *end, int64_t interval_bytes, int64_t size, int64_t last_offset,
                  int64_t max_timestamp);
void el_index_entry(uint8_t out[EL_INDEX_ENTRY], int64_t relative_offset, int64_t position);
void el_time_index_entry(uint8_t out[EL_TIME_INDEX_ENTRY], int64_t timestamp,
                         int64_t relative_offset);

/* A mapping of one segment file for reading; shared by reference count, so that a segment table may
 * drop it while a cursor still looks at its records. */
typedef struct {
    _Atomic int32_t references;
    int fd;       /* kept to see the file grow, and to notice if somebody cut it */
    int index_fd; /* -1: no index file; lookups then scan from the start */
    int64_t base_offset;
    uint8_t *data;
    int64_t mapped_size;          /* may be more than the file has: never read past readable_size */
    _Atomic int64_t readable_size;
    _Atomic int32_t is_outgrown; /* the file is larger than the mapping: map it anew to read on */
    _Atomic(_Atomic uint64_t *) verified; /* a bit per 64 bytes: the batch that begins there is sound */
    char path[EL_PATH_MAX];
} el_map;

/* `expected_size`: map at least so much address space, so that a growing file needs no new map. */
el_map *el_map_open(const char *directory, int64_t base_offset, int64_t expected_size);
el_map *el_map_hold(el_map *map);
void el_map_release(el_map *map);
/* Make readable_size and is_outgrown current; readable_size stays within size_limit. */
int32_t el_map_refresh(el_map *map, int64_t size_limit);
/* Position of a batch at or before the one that holds `offset`, by the index; 0 without one. */
int64_t el_map_lookup(const el_map *map, int64_t offset);
/* As el_map_lookup, by time: position from which a batch with max timestamp >= the given one can be. */
int64_t el_map_lookup_time(const el_map *map, int64_t timestamp);
/* Verify the batch at `position`, once: later calls trust the mark. */
int32_t el_map_verify_once(el_map *map, int64_t position, el_batch_header *header);
/* As el_batch_verify, with the error told as of this file. */
int32_t el_map_verify(const el_map *map, int64_t position, el_batch_header *header);

#endif
