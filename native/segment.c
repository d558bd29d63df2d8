/* segment.c: scanning, indexing and mapping of segment files.
 *
 * Facts of the format: kafka-format A.4/A.5 as written down in docs/FORMAT.md. The indexes carry no
 * checksum: they are rebuilt from the log whenever they are in doubt, and a lookup that leads to the
 * wrong place is found out by the batch that is there.
 */
#include "segment.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "os.h"

static int64_t load_int(const uint8_t *data, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value = value << 8 | data[i];
    return size == 4 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value;
}

static void store_int(uint8_t *out, int64_t value, int size) {
    for (int i = size - 1; i >= 0; i--, value = (int64_t)((uint64_t)value >> 8))
        out[i] = (uint8_t)value;
}

int32_t el_segment_path(char out[EL_PATH_MAX], const char *directory, int64_t base_offset,
                        const char *suffix) {
    int length = snprintf(out, EL_PATH_MAX, "%s/%020" PRId64 "%s", directory, base_offset, suffix);
    if (length < 0 || length >= EL_PATH_MAX - 8)
        return el_fail(EL_ERR_ARGUMENT, ENAMETOOLONG, directory, -1, base_offset,
                       "the path is longer than %d bytes", EL_PATH_MAX - 8);
    return EL_OK;
}

static int compare_bases(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int64_t el_segment_list(const char *directory, int64_t **bases) {
    DIR *stream = opendir(directory);
    if (stream == NULL)
        return el_fail(EL_ERR_OS, errno, directory, -1, -1, "cannot list the partition directory");
    int64_t count = 0, capacity = 16, *list = malloc((size_t)capacity * sizeof *list);
    for (struct dirent *entry; list != NULL && (entry = readdir(stream)) != NULL;) {
        const char *name = entry->d_name;
        if (strspn(name, "0123456789") != 20 || strcmp(name + 20, ".log") != 0) continue;
        if (count == capacity) {
            int64_t *larger = realloc(list, (size_t)(capacity *= 2) * sizeof *list);
            if (larger == NULL) free(list);
            list = larger;
            if (list == NULL) break;
        }
        list[count++] = strtoll(name, NULL, 10);
    }
    closedir(stream);
    if (list == NULL)
        return el_fail(EL_ERR_MEMORY, ENOMEM, directory, -1, -1, "no memory to list the segments");
    qsort(list, (size_t)count, sizeof *list, compare_bases);
    *bases = list;
    return count;
}

/* -- indexes ---------------------------------------------------------------------------------- */

int el_index_step(el_log_end *end, int64_t interval_bytes, int64_t size, int64_t last_offset,
                  int64_t max_timestamp) {
    int add = 0;
    if (end->first_timestamp < 0) end->first_timestamp = max_timestamp;
    if (max_timestamp > end->max_timestamp) {
        end->max_timestamp = max_timestamp;
        end->max_timestamp_offset = last_offset;
    }
    if (end->bytes_since_index > interval_bytes) {
        add = EL_ADD_INDEX;
        end->index_entries++;
        end->bytes_since_index = 0;
        if (end->max_timestamp > end->last_indexed_timestamp) {
            add |= EL_ADD_TIME;
            end->time_index_entries++;
            end->last_indexed_timestamp = end->max_timestamp;
        }
    }
    end->bytes_since_index += size;
    return add;
}

void el_index_entry(uint8_t out[EL_INDEX_ENTRY], int64_t relative_offset, int64_t position) {
    store_int(out, relative_offset, 4);
    store_int(out + 4, position, 4);
}

void el_time_index_entry(uint8_t out[EL_TIME_INDEX_ENTRY], int64_t timestamp,
                         int64_t relative_offset) {
    store_int(out, timestamp, 8);
    store_int(out + 8, relative_offset, 4);
}

static void reset_segment(el_log_end *end, int64_t base_offset) {
    end->active_base_offset = base_offset;
    end->active_position = 0;
    end->log_end_offset = base_offset;
    end->index_entries = end->time_index_entries = end->bytes_since_index = 0;
    end->max_timestamp = end->first_timestamp = end->last_indexed_timestamp = -1;
    end->max_timestamp_offset = base_offset;
}

/* <...>.log -> <...>.index and the like; what stands behind .log (.cleaned, .swap) stays. */
static int32_t sibling(char out[EL_PATH_MAX], const char *log_path, const char *suffix) {
    const char *slash = strrchr(log_path, '/');
    const char *dot = strchr(slash != NULL ? slash : log_path, '.');
    if (dot == NULL || strncmp(dot, ".log", 4) != 0 || (dot[4] != 0 && dot[4] != '.') ||
        snprintf(out, EL_PATH_MAX, "%.*s%s%s", (int)(dot - log_path), log_path, suffix, dot + 4) >=
            EL_PATH_MAX - 4)
        return el_fail(EL_ERR_ARGUMENT, 0, log_path, -1, -1, "not the path of a .log file");
    return EL_OK;
}

/* The whole file, mapped. An empty one gives a valid pointer and size 0. */
static int32_t map_file(const char *path, uint8_t **data, int64_t *size) {
    static uint8_t nothing[1];
    int fd = el_os_open(path, EL_OS_READ);
    if (fd < 0) return el_fail(EL_ERR_OS, -fd, path, -1, -1, "cannot open the segment");
    *size = el_os_size(fd);
    *data = nothing;
    int32_t result = EL_OK;
    if (*size < 0) {
        result = el_fail(EL_ERR_OS, (int)-*size, path, -1, -1, "cannot see the segment's size");
    } else if (*size > 0 && (*data = el_os_map(fd, (size_t)*size, 0)) == NULL) {
        result = el_fail(EL_ERR_OS, errno, path, -1, -1, "cannot map the segment");
    }
    el_os_close(fd);
    return result;
}

static void unmap_file(uint8_t *data, int64_t size) {
    if (size > 0) el_os_unmap(data, (size_t)size);
}

int32_t el_segment_index(const char *log_path, int64_t base_offset, int64_t end_position,
                         int32_t sealed, const el_partition_options *options, el_log_end *end) {
    char index_path[EL_PATH_MAX], time_path[EL_PATH_MAX];
    int32_t result = sibling(index_path, log_path, ".index");
    if (result == EL_OK) result = sibling(time_path, log_path, ".timeindex");
    if (result != EL_OK) return result;
    uint8_t *data;
    int64_t size;
    result = map_file(log_path, &data, &size);
    if (result != EL_OK) return result;
    int64_t entries_max = end_position / (options->index_interval_bytes + 1) + 2;
    uint8_t *index = malloc((size_t)entries_max * EL_INDEX_ENTRY);
    uint8_t *times = malloc((size_t)entries_max * EL_TIME_INDEX_ENTRY);
    reset_segment(end, base_offset);
    int64_t position = 0;
    if (index == NULL || times == NULL)
        result = el_fail(EL_ERR_MEMORY, ENOMEM, log_path, -1, -1, "no memory for the index");
    while (result == EL_OK && position < end_position) {
        el_batch_header header;
        int32_t found = end_position > size ? EL_ERR_SHORT
                                            : el_batch_header_read(data + position,
                                                                   end_position - position, &header);
        if (found == EL_OK && !el_offset_follows(header.base_offset, end->log_end_offset, options->has_gaps))
            found = EL_ERR_CORRUPT;
        if (found != EL_OK) {
            result = el_fail(EL_ERR_CORRUPT, 0, log_path, position, end->log_end_offset,
                             "no whole batch where the index is to be built");
            break;
        }
        int64_t last_offset = header.base_offset + header.last_offset_delta;
        int add = el_index_step(end, options->index_interval_bytes, header.size_bytes, last_offset,
                                header.max_timestamp);
        if (add & EL_ADD_INDEX)
            el_index_entry(index + (end->index_entries - 1) * EL_INDEX_ENTRY,
                           last_offset - base_offset, position);
        if (add & EL_ADD_TIME)
            el_time_index_entry(times + (end->time_index_entries - 1) * EL_TIME_INDEX_ENTRY,
                                end->max_timestamp, end->max_timestamp_offset - base_offset);
        end->log_end_offset = last_offset + 1;
        position += header.size_bytes;
    }
    end->active_position = position;
    if (result == EL_OK && sealed && end->max_timestamp > end->last_indexed_timestamp) {
        el_time_index_entry(times + end->time_index_entries++ * EL_TIME_INDEX_ENTRY,
                            end->max_timestamp, end->max_timestamp_offset - base_offset);
        end->last_indexed_timestamp = end->max_timestamp;
    }
    unmap_file(data, size);
    if (result == EL_OK)
        result = el_file_replace(index_path, (const char *)index,
                                 end->index_entries * EL_INDEX_ENTRY);
    if (result == EL_OK)
        result = el_file_replace(time_path, (const char *)times,
                                 end->time_index_entries * EL_TIME_INDEX_ENTRY);
    free(index);
    free(times);
    return result;
}

/* Read a whole index file; *size is a multiple of `entry`, or EL_ERR_CORRUPT. */
static int32_t read_index(const char *path, int entry, uint8_t **data, int64_t *size) {
    int fd = el_os_open(path, EL_OS_READ);
    if (fd < 0) return el_fail(EL_ERR_CORRUPT, -fd, path, -1, -1, "the index cannot be opened");
    *size = el_os_size(fd);
    int32_t result = EL_OK;
    if (*size < 0 || *size % entry || *size > INT32_MAX) {
        result = el_fail(EL_ERR_CORRUPT, 0, path, *size, -1, "the index has an impossible size");
    } else if ((*data = malloc((size_t)*size + 1)) == NULL) {
        result = el_fail(EL_ERR_MEMORY, ENOMEM, path, -1, -1, "no memory for the index");
    } else if (el_file_read_all(fd, *data, (size_t)*size, 0) != *size) {
        free(*data);
        *data = NULL; /* the caller frees what it has */
        result = el_fail(EL_ERR_CORRUPT, 0, path, -1, -1, "the index cannot be read");
    }
    el_os_close(fd);
    return result;
}

int32_t el_segment_resume(const char *log_path, int64_t base_offset,
                          const el_partition_options *options, el_log_end *end) {
    char index_path[EL_PATH_MAX], time_path[EL_PATH_MAX];
    int32_t result = sibling(index_path, log_path, ".index");
    if (result == EL_OK) result = sibling(time_path, log_path, ".timeindex");
    if (result != EL_OK) return result;
    reset_segment(end, base_offset);
    uint8_t *index = NULL, *times = NULL, *data = NULL;
    int64_t index_size = 0, times_size = 0, size = 0;
    result = read_index(index_path, EL_INDEX_ENTRY, &index, &index_size);
    if (result != EL_OK) return result;
    result = read_index(time_path, EL_TIME_INDEX_ENTRY, &times, &times_size);
    if (result == EL_OK) result = map_file(log_path, &data, &size);
    if (result != EL_OK) {
        free(index);
        free(times);
        return result;
    }
    const char *wrong = NULL;
    int64_t position = 0, last_relative = -1;
    for (int64_t i = 0; i < index_size && wrong == NULL; i += EL_INDEX_ENTRY) {
        int64_t relative = load_int(index + i, 4), at = load_int(index + i + 4, 4);
        if (relative <= last_relative || at <= position || at >= size) wrong = "the index is out of order";
        last_relative = relative;
        position = at;
    }
    int64_t last_time = -1, last_time_relative = -1;
    for (int64_t i = 0; i < times_size && wrong == NULL; i += EL_TIME_INDEX_ENTRY) {
        int64_t timestamp = load_int(times + i, 8), relative = load_int(times + i + 8, 4);
        if (timestamp <= last_time || relative <= last_time_relative) wrong = "the time index is out of order";
        last_time = timestamp;
        last_time_relative = relative;
    }
    end->index_entries = index_size / EL_INDEX_ENTRY;
    end->time_index_entries = times_size / EL_TIME_INDEX_ENTRY;
    /* The entry that closing forced is taken back, so that the index goes on as if it had never
     * been closed: a regular time entry never lies behind the last entry of the offset index. */
    if (end->time_index_entries > 0 && last_time_relative > last_relative) end->time_index_entries--;
    if (end->time_index_entries > 0) {
        const uint8_t *entry = times + (end->time_index_entries - 1) * EL_TIME_INDEX_ENTRY;
        end->last_indexed_timestamp = end->max_timestamp = load_int(entry, 8);
        end->max_timestamp_offset = base_offset + load_int(entry + 8, 4);
    }
    el_batch_header header;
    if (wrong == NULL && size > 0) {
        if (el_batch_header_read(data, size, &header) != EL_OK) wrong = "the first batch is not whole";
        else end->first_timestamp = header.max_timestamp;
    }
    for (int first = index_size > 0; wrong == NULL && position < size; first = 0) {
        if (el_batch_verify(data + position, size - position, &header) != EL_OK ||
            !(first ? header.base_offset >= base_offset
                    : el_offset_follows(header.base_offset, end->log_end_offset, options->has_gaps))) {
            wrong = "what follows the last index entry is not whole";
            break;
        }
        int64_t last_offset = header.base_offset + header.last_offset_delta;
        if (first) { /* the batch of the last entry: counted, but it has its entry already */
            if (last_offset - base_offset != last_relative) wrong = "the index points elsewhere";
            end->bytes_since_index = header.size_bytes;
        } else if (el_index_step(end, options->index_interval_bytes, header.size_bytes, last_offset,
                                 header.max_timestamp)) {
            wrong = "the index misses entries";
        }
        end->log_end_offset = last_offset + 1;
        position += header.size_bytes;
    }
    end->active_position = position;
    unmap_file(data, size);
    free(index);
    free(times);
    if (wrong != NULL)
        return el_fail(EL_ERR_CORRUPT, 0, log_path, position, end->log_end_offset, "%s", wrong);
    return EL_OK;
}

/* -- scanning --------------------------------------------------------------------------------- */

/* Look for the first sound batch behind a bad place: evidence that what is bad was once durable.
 * Its offset must fit: above what was expected, and within one segment's reach. */
static int64_t find_sound(const uint8_t *data, int64_t from, int64_t size, int64_t offset,
                          el_batch_header *header) {
    for (int64_t at = from; at + EL_BATCH_HEADER_SIZE <= size; at++) {
        const uint8_t *magic = memchr(data + at + 16, 2, (size_t)(size - at - 16));
        if (magic == NULL) return -1;
        at = magic - data - 16;
        if (at + EL_BATCH_HEADER_SIZE > size) return -1;
        int64_t base = load_int(data + at, 8);
        if (base < offset || base - offset > INT32_MAX) continue;
        if (el_batch_verify(data + at, size - at, header) == EL_OK) return at;
    }
    return -1;
}

static int is_zero(const uint8_t *eight) {
    uint64_t word;
    memcpy(&word, eight, sizeof word);
    return word == 0;
}

int32_t el_segment_scan(const char *log_path, int64_t position, int64_t offset, int32_t has_gaps,
                        el_scan *out) {
    uint8_t *data;
    int64_t size;
    int32_t result = map_file(log_path, &data, &size);
    if (result != EL_OK) return result;
    memset(out, 0, sizeof *out);
    out->file_size = size;
    out->last_offset = out->max_timestamp = out->first_timestamp = -1;
    out->sound_position = out->sound_offset = -1;
    if (position > size) position = size;
    const char *what = NULL;
    while (position < size) {
        el_batch_header header;
        int32_t found = el_batch_verify(data + position, size - position, &header);
        if (found == EL_ERR_SHORT) what = "the file ends inside a batch";
        else if (found != EL_OK) what = "not a sound batch";
        else if (!el_offset_follows(header.base_offset, offset, has_gaps))
            what = "the base offset does not follow";
        if (what != NULL) break;
        if (out->batches++ == 0) out->first_timestamp = header.max_timestamp;
        out->records += header.record_count;
        if (header.max_timestamp > out->max_timestamp) out->max_timestamp = header.max_timestamp;
        out->last_offset = header.base_offset + header.last_offset_delta;
        offset = out->last_offset + 1;
        position += header.size_bytes;
    }
    out->end_position = position;
    out->end_offset = offset;
    int64_t used = size; /* behind the last byte that is not zero */
    while (used - 8 >= position && is_zero(data + used - 8)) used -= 8;
    while (used > position && data[used - 1] == 0) used--;
    out->sound_end_position = used;
    if (position == size) {
        out->stop = EL_SCAN_END;
    } else if (used == position) {
        out->stop = EL_SCAN_ZEROS;
    } else {
        out->stop = EL_SCAN_BAD;
        snprintf(out->what, sizeof out->what, "%s", what ? what : "");
        el_batch_header header;
        out->sound_position = find_sound(data, position + 1, size, offset, &header);
        if (out->sound_position >= 0) out->sound_offset = header.base_offset;
    }
    unmap_file(data, size);
    return EL_OK;
}

/* -- mappings --------------------------------------------------------------------------------- */

el_map *el_map_open(const char *directory, int64_t base_offset, int64_t expected_size) {
    el_map *map = calloc(1, sizeof *map);
    if (map == NULL) {
        el_fail(EL_ERR_MEMORY, ENOMEM, directory, -1, base_offset, "no memory for a segment");
        return NULL;
    }
    char index_path[EL_PATH_MAX];
    if (el_segment_path(map->path, directory, base_offset, ".log") != EL_OK ||
        el_segment_path(index_path, directory, base_offset, ".index") != EL_OK) {
        free(map);
        return NULL;
    }
    map->references = 1;
    map->base_offset = base_offset;
    map->fd = el_os_open(map->path, EL_OS_READ);
    if (map->fd < 0) {
        el_fail(EL_ERR_OS, -map->fd, map->path, -1, base_offset, "cannot open the segment");
        free(map);
        return NULL;
    }
    int64_t size = el_os_size(map->fd);
    map->readable_size = size < 0 ? 0 : size;
    /* Larger than expected and still growing: the writer's settings are others than ours. */
    map->mapped_size = size <= expected_size ? expected_size : expected_size > 0 ? 2 * size : size;
    if (map->mapped_size < EL_BATCH_HEADER_SIZE) map->mapped_size = EL_BATCH_HEADER_SIZE;
    map->data = el_os_map(map->fd, (size_t)map->mapped_size, 0);
    if (map->data == NULL) {
        el_fail(EL_ERR_OS, errno, map->path, -1, base_offset, "cannot map the segment");
        el_os_close(map->fd);
        free(map);
        return NULL;
    }
    map->index_fd = el_os_open(index_path, EL_OS_READ);
    return map;
}

el_map *el_map_hold(el_map *map) {
    atomic_fetch_add_explicit(&map->references, 1, memory_order_relaxed);
    return map;
}

void el_map_release(el_map *map) {
    if (map == NULL ||
        atomic_fetch_sub_explicit(&map->references, 1, memory_order_acq_rel) != 1)
        return;
    el_os_unmap(map->data, (size_t)map->mapped_size);
    el_os_close(map->fd);
    if (map->index_fd >= 0) el_os_close(map->index_fd);
    free((void *)atomic_load(&map->verified));
    free(map);
}

int32_t el_map_refresh(el_map *map, int64_t size_limit) {
    int64_t size = el_os_size(map->fd);
    if (size < 0)
        return el_fail(EL_ERR_OS, (int)-size, map->path, -1, map->base_offset,
                       "cannot see the segment's size");
    if (size > map->mapped_size) {
        size = map->mapped_size;
        atomic_store(&map->is_outgrown, 1);
    }
    atomic_store(&map->readable_size, size < size_limit ? size : size_limit);
    return EL_OK;
}

static int64_t search(int fd, int entry, int64_t key, int key_size, uint8_t found[EL_TIME_INDEX_ENTRY]) {
    /* Greatest entry with key <= the given one. Entries past the end of a growing file do not exist
     * for us; what a lookup misses costs a longer scan, never a record. */
    int64_t size = fd < 0 ? 0 : el_os_size(fd);
    int64_t low = 0, high = size < 0 ? 0 : size / entry, hit = -1;
    uint8_t buffer[EL_TIME_INDEX_ENTRY];
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (el_file_read_all(fd, buffer, (size_t)entry, middle * entry) != entry) break;
        if (load_int(buffer, key_size) <= key) {
            memcpy(found, buffer, (size_t)entry);
            hit = middle;
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return hit;
}

int64_t el_map_lookup(const el_map *map, int64_t offset) {
    uint8_t entry[EL_TIME_INDEX_ENTRY];
    /* An entry holds the last offset of its batch: the batch at the greatest entry <= offset ends at
     * or before it, so the scan begins there. */
    if (search(map->index_fd, EL_INDEX_ENTRY, offset - map->base_offset, 4, entry) < 0) return 0;
    int64_t position = load_int(entry + 4, 4);
    el_batch_header header;
    int64_t readable = atomic_load(&map->readable_size);
    if (position < 0 || position >= readable ||
        el_batch_verify(map->data + position, readable - position, &header) != EL_OK ||
        header.base_offset < map->base_offset ||
        header.base_offset + header.last_offset_delta != map->base_offset + load_int(entry, 4))
        return 0;
    return position;
}

int64_t el_map_lookup_time(const el_map *map, int64_t timestamp) {
    char path[EL_PATH_MAX];
    uint8_t entry[EL_TIME_INDEX_ENTRY];
    if (sibling(path, map->path, ".timeindex") != EL_OK) return 0;
    int fd = el_os_open(path, EL_OS_READ);
    if (fd < 0) return 0;
    int64_t hit = search(fd, EL_TIME_INDEX_ENTRY, timestamp - 1, 8, entry);
    el_os_close(fd);
    if (hit < 0) return 0;
    /* All batches up to the entry's offset are older: begin at the batch that holds it. It has the
     * entry's time, or the entry is damaged and says nothing. */
    int64_t offset = map->base_offset + load_int(entry + 8, 4);
    int64_t readable = atomic_load(&map->readable_size);
    el_batch_header header;
    for (int64_t position = el_map_lookup(map, offset); position < readable;) {
        if (el_batch_verify(map->data + position, readable - position, &header) != EL_OK) return 0;
        int64_t last_offset = header.base_offset + header.last_offset_delta;
        if (last_offset >= offset)
            return last_offset == offset && header.max_timestamp == load_int(entry, 8) ? position : 0;
        position += header.size_bytes;
    }
    return 0;
}

int32_t el_map_verify(const el_map *map, int64_t position, el_batch_header *header) {
    int64_t readable = atomic_load(&map->readable_size);
    if (position < 0 || position >= readable)
        return el_fail(EL_ERR_CORRUPT, 0, map->path, position, -1,
                       "the file ends before the log does");
    int32_t result = el_batch_verify(map->data + position, readable - position, header);
    if (result == EL_OK) return EL_OK;
    return el_fail(EL_ERR_CORRUPT, 0, map->path, position, -1,
                   result == EL_ERR_SHORT ? "the file ends inside a batch"
                                          : "a batch is damaged (CRC or header)");
}

int32_t el_map_verify_once(el_map *map, int64_t position, el_batch_header *header) {
    _Atomic uint64_t *verified = atomic_load_explicit(&map->verified, memory_order_acquire);
    if (verified == NULL) {
        /* A batch that holds a record is longer than 64 bytes: one bit each is enough. */
        _Atomic uint64_t *fresh = calloc((size_t)(map->mapped_size / 64 / 64 + 1), sizeof *fresh);
        if (fresh == NULL) return el_map_verify(map, position, header);
        if (atomic_compare_exchange_strong(&map->verified, &verified, fresh)) verified = fresh;
        else free((void *)fresh);
    }
    int64_t readable = atomic_load_explicit(&map->readable_size, memory_order_relaxed);
    if (position >= 0 && position < readable) {
        uint64_t bit = 1ULL << (position / 64 % 64);
        _Atomic uint64_t *word = &verified[position / 64 / 64];
        /* The mark may be that of the batch behind, if this one is shorter. */
        if (atomic_load_explicit(word, memory_order_relaxed) & bit &&
            el_batch_header_read(map->data + position, readable - position, header) == EL_OK &&
            header->size_bytes >= 64)
            return EL_OK;
        int32_t result = el_map_verify(map, position, header);
        if (result == EL_OK && header->size_bytes >= 64)
            atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
        return result;
    }
    return el_map_verify(map, position, header);
}
