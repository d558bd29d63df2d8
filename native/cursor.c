/* cursor.c: reading records in order, or by where they lie.
 *
 * A cursor belongs to one reader at a time. Its views point into mapped segments (or into a batch
 * that Python decompressed for it), which it holds until its next move. Every batch is verified
 * before a byte of its records is looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "os.h"
#include "partition.h"

struct el_cursor {
    el_partition *p;
    el_view *views;
    int32_t capacity, count;
    int unsynced; /* reads up to the log end */
    el_map **held; /* segments that the views point into */
    int32_t held_count, held_capacity;

    int64_t next_offset; /* of the first record not yet given */
    el_map *map;         /* of the segment that is being read; NULL: find it by next_offset */
    int64_t position;    /* of the current batch, or of the next one */
    uint32_t layout;     /* of the partition, when `map` was taken */
    int64_t read_from;   /* all from there to `position` was read in order */
    int64_t batch_offset; /* where the batch at `position` has to begin; -1: an index led here */
    int64_t record_offset; /* of the last record read in this batch, -1 none */
    int is_inside;       /* in the middle of the batch `header` */
    el_batch_header header;
    const uint8_t *records;
    int64_t records_size, records_position;
    int32_t records_left;
    uint8_t *supplied; /* decompressed payload of the current batch */
};

el_cursor *el_cursor_open(el_partition *p, int32_t capacity, int32_t unsynced) {
    if (capacity < 1) {
        el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, -1, "a cursor holds at least one record");
        return NULL;
    }
    el_cursor *c = calloc(1, sizeof *c);
    if (c != NULL) c->views = malloc((size_t)capacity * sizeof *c->views);
    if (c == NULL || c->views == NULL) {
        free(c);
        el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a cursor");
        return NULL;
    }
    c->p = p;
    c->capacity = capacity;
    c->unsynced = unsynced != 0;
    return c;
}

/* What the views pointed into may go: the caller makes its next move. */
static void let_go(el_cursor *c) {
    for (int32_t i = 0; i < c->held_count; i++) el_map_release(c->held[i]);
    c->held_count = 0;
    c->count = 0;
}

static void leave_batch(el_cursor *c) {
    c->is_inside = 0;
    free(c->supplied);
    c->supplied = NULL;
}

/* Who reads a large log from end to end shall not seem to fill the memory: mapped pages count as the
 * process's own for as long as they are mapped. */
#define FORGET_SIZE (32 << 20)
#define FORGET_REST_SIZE (1 << 20) /* at the end of a segment; less is not worth the call */

static void forget(el_cursor *c, int64_t size_min) {
    if (c->map != NULL && c->position - c->read_from >= size_min) {
        el_os_forget(c->map->data + c->read_from, (size_t)(c->position - c->read_from));
        c->read_from = c->position;
    }
}

static void leave_map(el_cursor *c) {
    leave_batch(c);
    forget(c, FORGET_REST_SIZE);
    el_map_release(c->map);
    c->map = NULL;
    c->position = 0;
}

void el_cursor_close(el_cursor *c) {
    if (c == NULL) return;
    let_go(c);
    leave_map(c);
    free(c->held);
    free(c->views);
    free(c);
}

int32_t el_cursor_seek(el_cursor *c, int64_t offset) {
    let_go(c);
    leave_map(c);
    c->next_offset = offset;
    return EL_OK;
}

const el_view *el_cursor_views(el_cursor *c) { return c->views; }

int32_t el_cursor_count(const el_cursor *c) { return c->count; }

/* The code of the error that a function returning a pointer has just told. */
static int32_t last_code(void) {
    el_error told;
    el_error_last(&told);
    return told.code;
}

/* The base offset is outside the CRC: it has to be where the batch before ended. */
static int follows(const el_cursor *c, const el_batch_header *header) {
    return c->batch_offset < 0 ||
           el_offset_follows(header->base_offset, c->batch_offset, el_partition_has_gaps(c->p));
}

/* Stand at the batch that holds next_offset, or at the first one after it. */
static int32_t find_batch(el_cursor *c) {
    c->layout = el_partition_layout(c->p);
    c->map = el_partition_map(c->p, c->next_offset, NULL);
    if (c->map == NULL || (c->map->base_offset > c->next_offset && !el_partition_has_gaps(c->p))) {
        if (c->map == NULL && last_code() != EL_ERR_RANGE) return last_code();
        const char *where = c->map != NULL ? c->map->path : c->p->directory;
        int32_t result = el_fail(EL_ERR_CORRUPT, 0, where, 0, c->next_offset,
                                 "the segment with these records is missing");
        leave_map(c);
        return result;
    }
    c->position = el_map_lookup(c->map, c->next_offset);
    c->batch_offset = c->position == 0 ? c->map->base_offset : -1;
    int64_t readable = atomic_load(&c->map->readable_size);
    while (c->position < readable) {
        el_batch_header header;
        if (el_batch_header_read(c->map->data + c->position, readable - c->position, &header) != EL_OK)
            break; /* reading will say what is wrong here */
        if (!follows(c, &header) || header.base_offset + header.last_offset_delta >= c->next_offset) break;
        c->position += header.size_bytes;
        c->batch_offset = header.base_offset + header.last_offset_delta + 1;
    }
    c->read_from = c->position;
    return EL_OK;
}

static int is_reading_beyond(const el_cursor *c) {
    return c->position >= atomic_load_explicit(&c->map->readable_size, memory_order_relaxed);
}

/* Verify the batch at the cursor's position and step into it. EL_COMPRESSED: its payload is needed. */
static int32_t enter_batch(el_cursor *c) {
    int32_t result = el_map_verify(c->map, c->position, &c->header);
    if (result != EL_OK) {
        el_error told;
        el_error_last(&told);
        return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset, "%s", told.what);
    }
    if (!follows(c, &c->header) || c->header.base_offset < c->map->base_offset)
        return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset,
                       "the base offset does not follow");
    c->records_position = 0;
    c->record_offset = -1;
    c->records_left = el_batch_is_control(&c->header) ? 0 : c->header.record_count;
    if (c->records_left > 0 && el_batch_codec(&c->header) != 0) return EL_COMPRESSED;
    c->is_inside = 1;
    c->records = c->map->data + c->position + EL_BATCH_HEADER_SIZE;
    c->records_size = c->header.size_bytes - EL_BATCH_HEADER_SIZE;
    return EL_OK;
}

static int32_t read_record(el_cursor *c, el_view *view) {
    int64_t at = c->records_position;
    if (el_record_read(&c->header, c->records, c->records_size, &c->records_position, view) != EL_OK ||
        view->offset <= c->record_offset ||
        (c->records_left == 1 && c->records_position != c->records_size)) {
        c->records_position = at;
        return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset,
                       "a record does not fit its batch");
    }
    c->records_left--;
    c->record_offset = view->offset;
    if (el_batch_is_log_append_time(&c->header)) view->timestamp = c->header.max_timestamp;
    view->batch_position = c->position;
    view->record_position = (int32_t)(at + EL_BATCH_HEADER_SIZE);
    return EL_OK;
}

static void step_over_batch(el_cursor *c) {
    leave_batch(c);
    int64_t end = c->header.base_offset + c->header.last_offset_delta + 1;
    if (c->next_offset < end) c->next_offset = end;
    c->position += c->header.size_bytes;
    c->batch_offset = end;
    forget(c, FORGET_SIZE);
}

/* At the end of a segment: go on with the next one. */
static int32_t next_segment(el_cursor *c) {
    if (c->layout != el_partition_layout(c->p)) {
        /* The one that follows may have been merged into this one, by compaction: look by offset. */
        leave_map(c);
        return EL_OK;
    }
    el_map *next = el_partition_map_after(c->p, c->map->base_offset);
    if (next == NULL) {
        el_error told;
        el_error_last(&told);
        if (told.code != EL_ERR_RANGE) return told.code;
        return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset,
                       "the file ends before the log does");
    }
    if (next->base_offset > c->next_offset && !el_partition_has_gaps(c->p)) {
        el_map_release(next);
        return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset,
                       "records are missing between two segments");
    }
    leave_map(c);
    c->map = next;
    c->read_from = 0;
    c->batch_offset = next->base_offset;
    return EL_OK;
}

static int32_t hold(el_cursor *c, el_map *map) {
    if (c->held_count == c->held_capacity) {
        int32_t capacity = c->held_capacity ? 2 * c->held_capacity : 4;
        el_map **larger = realloc(c->held, (size_t)capacity * sizeof *larger);
        if (larger == NULL)
            return el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a cursor");
        c->held = larger;
        c->held_capacity = capacity;
    }
    c->held[c->held_count++] = map;
    return EL_OK;
}

/* The records from next_offset on, as far as they stand together in one segment (and, if compressed,
 * in one batch): what the views point into has to stay until the next move. */
static int32_t fill(el_cursor *c, int64_t limit, int64_t most, int64_t size_bytes_max) {
    int32_t result = c->map != NULL ? el_partition_refresh(c->p, c->map) : EL_OK;
    int64_t size = 0;
    while (result == EL_OK && c->count < most && size < size_bytes_max && c->next_offset < limit) {
        if (c->map == NULL) {
            result = find_batch(c);
        } else if (!c->is_inside && atomic_load_explicit(&c->map->is_outgrown, memory_order_relaxed)) {
            if (c->count > 0) break;
            leave_map(c);
        } else if (!c->is_inside && is_reading_beyond(c)) {
            if (c->count > 0) break;
            result = next_segment(c);
        } else if (!c->is_inside) {
            result = enter_batch(c);
        } else if (c->records_left == 0) {
            if (c->supplied != NULL && c->count > 0) break;
            step_over_batch(c);
        } else {
            el_view *view = &c->views[c->count];
            int64_t at = c->records_position;
            result = read_record(c, view);
            if (result != EL_OK || view->offset < c->next_offset) continue;
            if (view->offset >= limit) { /* the limit lies inside the batch: leave it unread */
                c->records_position = at;
                c->records_left++;
                c->record_offset = view->offset - 1;
                break;
            }
            c->next_offset = view->offset + 1;
            c->count++;
            size += view->value_size + view->key_size + view->headers_size;
        }
    }
    if (c->count > 0 && hold(c, c->map) == EL_OK) el_map_hold(c->map);
    /* What was read before the trouble is good; the trouble is met again by the next call. */
    if (c->count > 0) return EL_OK;
    return result == EL_OK ? EL_END : result;
}

/* The offset up to which a read may go, and whether `offset` is still kept. */
static int32_t bounds(const el_cursor *c, int64_t offset, int64_t *limit) {
    const el_control *page = atomic_load_explicit(&c->p->page, memory_order_acquire);
    if (page == NULL) page = el_partition_page(c->p);
    if (page == NULL)
        return el_fail(EL_ERR_NOT_RUNNING, 0, c->p->control_path, -1, -1, "no writer has begun here");
    int64_t watermark = c->unsynced && c->p->has_begun
                            ? atomic_load_explicit(&page->log_end_offset, memory_order_acquire)
                            : atomic_load_explicit(&page->high_watermark, memory_order_acquire);
    if (*limit < 0 || *limit > watermark) *limit = watermark;
    if (offset < atomic_load(&page->log_start_offset) && offset < *limit)
        return el_fail(EL_ERR_RANGE, 0, c->p->directory, -1, offset, "the offset is below the log start");
    return EL_OK;
}

int32_t el_cursor_next(el_cursor *c, int64_t end_offset, int64_t record_count_max,
                       int64_t size_bytes_max, int32_t *count) {
    *count = 0;
    int32_t result = el_partition_enter(c->p);
    if (result != EL_OK) return result;
    let_go(c);
    int64_t limit = end_offset;
    result = bounds(c, c->next_offset, &limit);
    if (result == EL_OK)
        result = fill(c, limit, record_count_max < c->capacity ? record_count_max : c->capacity,
                      size_bytes_max);
    /* What it was looking for may have been deleted meanwhile. */
    if (result < 0 && bounds(c, c->next_offset, &limit) == EL_ERR_RANGE) result = EL_ERR_RANGE;
    *count = c->count;
    el_partition_leave(c->p);
    return result;
}

const char *el_cursor_payload(el_cursor *c, int64_t *size, int32_t *codec) {
    *size = c->header.size_bytes - EL_BATCH_HEADER_SIZE;
    *codec = el_batch_codec(&c->header);
    return (const char *)c->map->data + c->position + EL_BATCH_HEADER_SIZE;
}

int32_t el_cursor_refuse(el_cursor *c) {
    return el_fail(EL_ERR_CORRUPT, 0, c->map->path, c->position, c->next_offset,
                   "a batch cannot be decompressed, though its CRC fits");
}

int32_t el_cursor_supply(el_cursor *c, const char *data, int64_t size) {
    if (c->map == NULL || c->is_inside)
        return el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, -1, "the cursor does not stand at a compressed batch");
    c->supplied = malloc((size_t)size + 1);
    if (c->supplied == NULL)
        return el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a decompressed batch");
    memcpy(c->supplied, data, (size_t)size);
    c->records = c->supplied;
    c->records_size = size;
    c->is_inside = 1;
    return EL_OK;
}

/* A held map that reaches `offset`, and the offset at which its segment ends. */
static el_map *map_for(el_cursor *c, int64_t offset, int64_t *end_offset) {
    el_map *map = el_partition_map(c->p, offset, end_offset);
    if (map == NULL) return NULL;
    if (hold(c, map) == EL_OK) return map;
    el_map_release(map);
    return NULL;
}

#define AHEAD 12

/* Each run is several cache misses, and as many page walks: have a later one on its way. The
 * addresses are only hints, and a prefetch of a wrong one is harmless. */
static void prefetch_run(const el_map *map, int64_t batch_position, int64_t record_position) {
    if (batch_position < 0 || batch_position >= map->mapped_size) return;
    const uint8_t *batch = map->data + batch_position;
    _Atomic uint64_t *verified = atomic_load_explicit(&map->verified, memory_order_relaxed);
    if (verified != NULL) __builtin_prefetch((const void *)&verified[batch_position / 64 / 64]);
    __builtin_prefetch(batch);
    __builtin_prefetch(batch + EL_BATCH_HEADER_SIZE - 1);
    __builtin_prefetch(batch + record_position);
    __builtin_prefetch(batch + record_position + 64);
}

/* The batch where one is said to be. In a log that is compacted that may be a place in a former file. */
static int32_t enter_hinted(const el_cursor *c, el_map *map, int64_t position, int64_t offset,
                            el_batch_header *header) {
    int32_t result = el_map_verify_once(map, position, header);
    if (result != EL_ERR_CORRUPT || !el_partition_has_gaps(c->p)) return result;
    return el_fail(EL_ERR_RANGE, 0, map->path, position, offset, "the record is elsewhere");
}

/* One run of records in a row, from where the first lies. */
static int32_t gather_run(el_cursor *c, el_map *map, int64_t offset, int64_t batch_position,
                          int64_t record_position, int32_t wanted) {
    el_batch_header header;
    int32_t result = enter_hinted(c, map, batch_position, offset, &header);
    int64_t position = record_position - EL_BATCH_HEADER_SIZE, before = 0;
    while (result == EL_OK && wanted > 0) {
        int64_t size = header.size_bytes - EL_BATCH_HEADER_SIZE;
        if (el_batch_codec(&header) != 0 || position < 0)
            return el_fail(EL_ERR_RANGE, 0, map->path, batch_position, offset, "read it in order");
        const uint8_t *records = map->data + batch_position + EL_BATCH_HEADER_SIZE;
        while (wanted > 0 && position < size) {
            if (c->count == c->capacity)
                return el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, offset, "more records than the cursor holds");
            el_view *view = &c->views[c->count];
            before = position;
            if (el_record_read(&header, records, size, &position, view) != EL_OK || view->offset != offset)
                return el_fail(EL_ERR_RANGE, 0, map->path, batch_position, offset, "the record is elsewhere");
            if (el_batch_is_log_append_time(&header)) view->timestamp = header.max_timestamp;
            view->batch_position = batch_position;
            view->record_position = (int32_t)(before + EL_BATCH_HEADER_SIZE);
            c->count++;
            offset++;
            wanted--;
        }
        if (wanted > 0) {
            batch_position += header.size_bytes;
            position = 0;
            result = enter_hinted(c, map, batch_position, offset, &header);
        }
    }
    return result;
}

int32_t el_cursor_gather(el_cursor *c, const int64_t *offsets, const int64_t *batch_positions,
                         const int32_t *record_positions, const int32_t *counts, int32_t runs,
                         int32_t *count) {
    *count = 0;
    int32_t result = el_partition_enter(c->p);
    if (result != EL_OK) return result;
    let_go(c);
    leave_map(c);
    int64_t limit = -1;
    if (runs > 0) result = bounds(c, offsets[0], &limit);
    el_map *map = NULL;
    int64_t start_offset = 0, end_offset = 0;
    for (int32_t i = 0; i < runs && result == EL_OK; i++) {
        if (offsets[i] < 0 || counts[i] < 1 || offsets[i] + counts[i] > limit) {
            result = el_fail(EL_ERR_RANGE, 0, c->p->directory, -1, offsets[i], "the offset is not readable");
            break;
        }
        if (map == NULL || offsets[i] < start_offset || offsets[i] >= end_offset) {
            map = map_for(c, offsets[i], &end_offset);
            if (map == NULL) {
                result = last_code();
                break;
            }
            start_offset = map->base_offset;
        }
        if (i + AHEAD < runs && offsets[i + AHEAD] < end_offset)
            prefetch_run(map, batch_positions[i + AHEAD], record_positions[i + AHEAD]);
        result = gather_run(c, map, offsets[i], batch_positions[i], record_positions[i], counts[i]);
    }
    *count = result == EL_OK ? c->count : 0;
    el_partition_leave(c->p);
    return result;
}

/* Look through one segment for a batch that reaches `timestamp`, as far as it can be read. *found is
 * left alone if there is none; *next_offset comes to stand behind what was looked at. */
static int32_t find_time_in(const el_cursor *c, const el_map *map, int64_t timestamp, int64_t limit,
                            int64_t *next_offset, int64_t *found) {
    int64_t readable = atomic_load(&map->readable_size);
    int64_t position = el_map_lookup_time(map, timestamp);
    *next_offset = map->base_offset;
    for (int is_by_index = position > 0; position < readable && *next_offset < limit; is_by_index = 0) {
        el_batch_header header;
        if (el_map_verify(map, position, &header) != EL_OK) {
            el_error told;
            el_error_last(&told);
            return el_fail(EL_ERR_CORRUPT, 0, map->path, position, *next_offset, "%s", told.what);
        }
        if (!is_by_index &&
            !el_offset_follows(header.base_offset, *next_offset, el_partition_has_gaps(c->p)))
            return el_fail(EL_ERR_CORRUPT, 0, map->path, position, *next_offset,
                           "the base offset does not follow");
        *next_offset = header.base_offset;
        if (header.base_offset >= limit) break;
        if (header.max_timestamp >= timestamp) {
            *found = header.base_offset;
            break;
        }
        *next_offset = header.base_offset + header.last_offset_delta + 1;
        position += header.size_bytes;
    }
    return EL_OK;
}

int64_t el_cursor_find_time(el_cursor *c, int64_t timestamp) {
    int32_t result = el_partition_enter(c->p);
    if (result != EL_OK) return result;
    let_go(c);
    leave_map(c);
    int64_t limit = -1;
    result = bounds(c, INT64_MAX, &limit);
    int64_t found = limit, next_offset = 0;
    el_map *map = NULL;
    if (result == EL_OK) next_offset = atomic_load(&el_partition_page(c->p)->log_start_offset);
    uint32_t layout = 0;
    while (result == EL_OK && found == limit && next_offset < limit) {
        /* What followed may have been merged into another segment meanwhile: look by offset then. */
        int is_known = map != NULL && layout == el_partition_layout(c->p);
        layout = el_partition_layout(c->p);
        el_map *next = is_known ? el_partition_map_after(c->p, map->base_offset)
                                : el_partition_map(c->p, next_offset, NULL);
        if (next == NULL && last_code() != EL_ERR_RANGE) {
            result = last_code();
        } else if (next == NULL || (next->base_offset > next_offset && !el_partition_has_gaps(c->p))) {
            result = el_fail(EL_ERR_CORRUPT, 0, next != NULL ? next->path : c->p->directory, 0,
                             next_offset, "the segment with these records is missing");
        } else {
            result = find_time_in(c, next, timestamp, limit, &next_offset, &found);
        }
        el_map_release(map);
        map = next;
    }
    el_map_release(map);
    limit = -1;
    if (result != EL_OK && bounds(c, next_offset, &limit) == EL_ERR_RANGE) result = EL_ERR_RANGE;
    el_partition_leave(c->p);
    return result == EL_OK ? found : result;
}

int32_t el_cursor_numbers(el_cursor *c, const char *name, int64_t missing, int64_t *out) {
    int32_t name_size = (int32_t)strlen(name);
    for (int32_t i = 0; i < c->count; i++)
        out[i] = el_header_number(c->views[i].headers, c->views[i].headers_size,
                                  (const uint8_t *)name, name_size, missing);
    return EL_OK;
}

int32_t el_cursor_locations(el_cursor *c, int64_t *offsets, int64_t *batch_positions,
                            int32_t *record_positions) {
    for (int32_t i = 0; i < c->count; i++) {
        offsets[i] = c->views[i].offset;
        batch_positions[i] = c->views[i].batch_position;
        record_positions[i] = c->views[i].record_position;
    }
    return EL_OK;
}
