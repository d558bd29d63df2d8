/* partition.h: a partition as one process has it open. Shared state is in its control page. */
#ifndef EL_PARTITION_H
#define EL_PARTITION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "activity.h"
#include "batch.h"
#include "control.h"
#include "segment.h"

/* An open .log file that is being appended to; kept while an fdatasync runs on it. */
typedef struct {
    _Atomic int32_t references;
    int fd;
    int64_t base_offset;
} el_log_file;

#define EL_BUFFERS_KEPT 4
#define EL_BUFFER_SIZE_KEPT_MAX (24 << 20) /* a batch of the default largest size, as rounded up */

typedef struct {
    uint8_t *data;
    int64_t capacity;
} el_buffer;

struct el_partition {
    char directory[EL_PATH_MAX];
    char control_path[EL_PATH_MAX];
    el_partition_options options;
    int is_writable, has_begun;
    uint64_t fork_count; /* of the process that opened it */

    _Atomic int32_t users; /* calls under way; closing waits for them */
    _Atomic int32_t is_closed;

    /* The shared page, or a private one while no writer has made a live one. Readers move from the
     * second to the first (el_partition_attach); the pointer is then swapped, never freed before
     * the handle is. */
    _Atomic(el_control *) page;
    el_control *private_page;
    el_control *shared_page;
    int shared_is_writable;

    el_activity *activity; /* of the store; may be NULL */

    /* Writer only; guarded by the page mutex. Index files of the segment at index_base_offset. */
    int index_fd, time_index_fd;
    int64_t index_base_offset;

    pthread_mutex_t table_mutex; /* guards the two below */
    el_log_file *active; /* as far as this process knows: another one may have rolled since */
    el_map **maps; /* by base offset, ascending; entries may lack behind the directory */
    int64_t map_count, map_capacity;
    uint32_t layout; /* of the page, when the maps were made */

    pthread_mutex_t sync_mutex; /* guards group commit */
    pthread_cond_t synced;
    int is_syncing;
    int32_t group_expected;   /* how many came for the last fdatasync */
    _Atomic int32_t arrivals; /* have come for the next one */
    _Atomic int64_t sync_counts[EL_SYNC_TIMES], sync_total_ns; /* see el_sync_times */

    pthread_mutex_t buffer_mutex;
    el_buffer buffers[EL_BUFFERS_KEPT];
};

/* Every public call stands between these two. EL_ERR_CLOSED, EL_ERR_FORKED, or EL_OK. */
int32_t el_partition_enter(el_partition *p);
void el_partition_leave(el_partition *p);

el_buffer el_partition_buffer_take(el_partition *p, int64_t size); /* data NULL: no memory */
void el_partition_buffer_give(el_partition *p, el_buffer buffer);

/* Append an encoded batch whose last offset delta, record count and max timestamp are known; sets
 * its base offset in place. First offset or an error. */
int64_t el_partition_write(el_partition *p, uint8_t *batch, int64_t size,
                           int64_t expected_end_offset, int32_t durability,
                           int64_t *batch_position);

el_control *el_partition_page(el_partition *p);
/* Make the map's size current. The room that is reserved behind the log end is left out: sealing cuts
 * it off, and whoever read there at that moment would be killed. */
int32_t el_partition_refresh(el_partition *p, el_map *map);
/* A held map of the segment that can contain `offset`, or of the first one after it, its size
 * current. NULL: error.
 * *end_offset (may be NULL): where the next segment begins, INT64_MAX for the newest. */
el_map *el_partition_map(el_partition *p, int64_t offset, int64_t *end_offset);
/* May offsets be missing? Also where another process made it so and this one has not heard of it. */
int el_partition_has_gaps(const el_partition *p);
/* Counts the times that sealed segments were removed or replaced: a place in an older one may mean
 * nothing in the files that are there now. */
uint32_t el_partition_layout(el_partition *p);
/* As that, of the segment that follows `base_offset`; NULL with EL_ERR_RANGE when there is none. */
el_map *el_partition_map_after(el_partition *p, int64_t base_offset);


/* How many views the cursor's last move filled. */
int32_t el_cursor_count(const el_cursor *c);

#endif
