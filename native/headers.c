/* headers.c: what the batches of a stretch of the log say of themselves, records left alone. */
#include "error.h"
#include "partition.h"

#define FIELDS 13

/* The headers in one segment from *offset on. Moves *offset behind the last batch looked at. */
static int32_t read_segment(el_partition *p, el_map *map, int64_t *offset, int64_t end_offset,
                            int32_t producers_only, int64_t *fields, int32_t capacity,
                            int32_t *count) {
    int64_t position = el_map_lookup(map, *offset);
    while (*count < capacity && *offset < end_offset) {
        int64_t size = atomic_load(&map->readable_size);
        if (position >= size) return EL_OK;
        el_batch_header header;
        int32_t result = el_map_verify_once(map, position, &header);
        if (result != EL_OK) return result;
        int64_t last = header.base_offset + header.last_offset_delta;
        if (last >= end_offset) {
            *offset = end_offset;
            return EL_OK;
        }
        if (last >= *offset) {
            if (!producers_only || header.producer_id >= 0) {
                if (el_batch_check((const char *)map->data + position, header.size_bytes,
                                   fields + (int64_t)*count * FIELDS) < 0)
                    return EL_ERR_CORRUPT;
                *count += 1;
            }
            *offset = last + 1;
        }
        position += header.size_bytes;
    }
    return EL_OK;
}

int32_t el_partition_headers(el_partition *p, int64_t offset, int64_t end_offset,
                             int32_t producers_only, int64_t *fields, int32_t capacity,
                             int64_t *next_offset) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    int32_t count = 0;
    while (result == EL_OK && count < capacity && offset < end_offset) {
        int64_t segment_end = INT64_MAX;
        el_map *map = el_partition_map(p, offset, &segment_end);
        if (map == NULL) {
            result = EL_ERR_OS;
            break;
        }
        int64_t before = offset;
        result = read_segment(p, map, &offset, end_offset, producers_only, fields, capacity, &count);
        el_map_release(map);
        if (result != EL_OK || count == capacity || offset >= end_offset) break;
        /* The rest of the segment is empty: go on in the next one, or end where there is none. */
        if (segment_end != INT64_MAX) offset = segment_end;
        else if (offset == before) break;
    }
    *next_offset = offset;
    el_partition_leave(p);
    return result == EL_OK ? count : result;
}
