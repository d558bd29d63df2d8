/* partition.c: open, append, make durable, close.
 *
 * Any number of processes append to one partition: what they share is in its control page, and each
 * opens the active segment's files for itself, again after another one has rolled.
 *
 * An append encodes outside every lock (base offset and epoch are not under the CRC), then under the
 * page mutex: roll if it must, one pwrite behind the last batch, index entries, move the log end.
 * What must be durable then waits for an fdatasync that began after its write: the first who waits
 * becomes the leader and syncs for all (group commit). An fdatasync that failed is never tried
 * again: the kernel may have dropped the pages and would report success. The partition is poisoned,
 * everyone who waits or comes later is told, in all processes, and only reopening (which reads what
 * the disk has) clears it.
 */
#include "partition.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "os.h"

#define PREALLOCATION_FIRST (256 << 10)

/* -- fork ------------------------------------------------------------------------------------- */

/* Counts the forks that this process descends from, so that a handle of the parent is known as such
 * in the child. Written only by the child's fork handler, while it has one thread. */
static _Atomic uint64_t fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static void after_fork(void) { atomic_fetch_add(&fork_count, 1); }
static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* -- users of the handle ---------------------------------------------------------------------- */

/* What has been closed because its topic is no more is told as such. */
static int32_t fail_closed(const el_partition *p) {
    if (p->shared_page != NULL && atomic_load(&p->shared_page->is_deleted))
        return el_fail(EL_ERR_DELETED, 0, p->directory, -1, -1, "the topic was deleted");
    return el_fail(EL_ERR_CLOSED, 0, p->directory, -1, -1, "the partition is closed");
}

int32_t el_partition_enter(el_partition *p) {
    if (p->fork_count != atomic_load_explicit(&fork_count, memory_order_relaxed))
        return el_fail(EL_ERR_FORKED, 0, p->directory, -1, -1,
                       "the partition was opened before a fork");
    atomic_fetch_add(&p->users, 1);
    if (!atomic_load(&p->is_closed)) return EL_OK;
    el_partition_leave(p);
    return fail_closed(p);
}

void el_partition_leave(el_partition *p) {
    if (atomic_fetch_sub(&p->users, 1) == 1 && atomic_load(&p->is_closed))
        el_os_futex_wake_all((uint32_t *)&p->users);
}

el_control *el_partition_page(el_partition *p) {
    el_control *page = atomic_load_explicit(&p->page, memory_order_acquire);
    if (page != NULL && page == p->shared_page) return page;
    /* A reader without a writer: look whether one has come. */
    pthread_mutex_lock(&p->table_mutex);
    if (p->shared_page == NULL) {
        p->shared_page = el_control_map(p->control_path, EL_CONTROL_SHARE);
        p->shared_is_writable = p->shared_page != NULL;
    }
    if (p->shared_page == NULL) p->shared_page = el_control_map(p->control_path, EL_CONTROL_LOOK);
    if (p->shared_page != NULL && el_control_is_live(p->shared_page))
        atomic_store(&p->page, p->shared_page);
    page = atomic_load(&p->page);
    pthread_mutex_unlock(&p->table_mutex);
    return page;
}

/* -- buffers ---------------------------------------------------------------------------------- */

/* First touch of fresh memory is slow, so a few buffers stay with the handle. */
el_buffer el_partition_buffer_take(el_partition *p, int64_t size) {
    el_buffer best = {NULL, 0};
    pthread_mutex_lock(&p->buffer_mutex);
    for (int i = 0; i < EL_BUFFERS_KEPT; i++)
        if (p->buffers[i].data != NULL && p->buffers[i].capacity >= size) {
            best = p->buffers[i];
            p->buffers[i].data = NULL;
            break;
        }
    pthread_mutex_unlock(&p->buffer_mutex);
    if (best.data == NULL) {
        best.capacity = 4096;
        while (best.capacity < size) best.capacity += best.capacity / 2;
        best.data = malloc((size_t)best.capacity);
        if (best.data == NULL)
            el_fail(EL_ERR_MEMORY, ENOMEM, p->directory, -1, -1, "no memory for a batch of %" PRId64 " bytes", size);
    }
    return best;
}

void el_partition_buffer_give(el_partition *p, el_buffer buffer) {
    if (buffer.data == NULL) return;
    if (buffer.capacity <= EL_BUFFER_SIZE_KEPT_MAX) {
        pthread_mutex_lock(&p->buffer_mutex);
        int smallest = 0;
        for (int i = 0; i < EL_BUFFERS_KEPT; i++) {
            if (p->buffers[i].data == NULL) {
                smallest = i;
                break;
            }
            if (p->buffers[i].capacity < p->buffers[smallest].capacity) smallest = i;
        }
        if (p->buffers[smallest].data == NULL || p->buffers[smallest].capacity < buffer.capacity) {
            el_buffer other = p->buffers[smallest];
            p->buffers[smallest] = buffer;
            buffer = other;
        }
        pthread_mutex_unlock(&p->buffer_mutex);
    }
    free(buffer.data);
}

/* -- open and begin --------------------------------------------------------------------------- */

static int32_t check_options(const el_partition_options *o) {
    if (o->segment_size_bytes_max < 256 || o->segment_size_bytes_max > INT32_MAX ||
        o->batch_size_bytes_max < 128 || o->index_interval_bytes < 0 ||
        o->index_size_bytes_max < EL_TIME_INDEX_ENTRY || o->preallocation_bytes_max < 0 ||
        o->segment_ms < 1 || o->durability < EL_DURABILITY_OS ||
        o->durability > EL_DURABILITY_SYNC || o->gather_us < 0)
        return el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, -1, "a partition option is outside its limits");
    return EL_OK;
}

el_partition *el_partition_open(const char *directory, const char *control_path, int32_t writable,
                                const el_partition_options *options, el_activity *activity) {
    pthread_once(&fork_once, watch_forks);
    if (check_options(options) != EL_OK) return NULL;
    if (strlen(directory) >= EL_PATH_MAX - 32 || strlen(control_path) >= EL_PATH_MAX) {
        el_fail(EL_ERR_ARGUMENT, ENAMETOOLONG, directory, -1, -1, "the path is too long");
        return NULL;
    }
    el_partition *p = calloc(1, sizeof *p);
    if (p == NULL) {
        el_fail(EL_ERR_MEMORY, ENOMEM, directory, -1, -1, "no memory for a partition");
        return NULL;
    }
    strcpy(p->directory, directory);
    strcpy(p->control_path, control_path);
    p->options = *options;
    p->is_writable = writable != 0;
    p->fork_count = atomic_load(&fork_count);
    p->index_fd = p->time_index_fd = -1;
    p->index_base_offset = -1;
    p->activity = el_activity_hold(activity);
    pthread_mutex_init(&p->table_mutex, NULL);
    pthread_mutex_init(&p->sync_mutex, NULL);
    pthread_mutex_init(&p->buffer_mutex, NULL);
    pthread_cond_init(&p->synced, NULL);
    if (writable) {
        p->shared_page = el_control_map(control_path, EL_CONTROL_MAKE);
        p->shared_is_writable = 1;
        if (p->shared_page == NULL) {
            el_partition_free(p);
            return NULL;
        }
    }
    return p;
}

static void log_file_release(el_log_file *file) {
    if (file != NULL && atomic_fetch_sub(&file->references, 1) == 1) {
        el_os_close(file->fd);
        free(file);
    }
}

static int open_for_append(char path[EL_PATH_MAX], const el_partition *p, int64_t base_offset,
                           const char *suffix) {
    int32_t result = el_segment_path(path, p->directory, base_offset, suffix);
    if (result != EL_OK) return -ENAMETOOLONG;
    return el_os_open(path, EL_OS_WRITE);
}

static el_log_file *log_file_make(el_partition *p, int fd, int64_t base_offset) {
    el_log_file *file = malloc(sizeof *file);
    if (file == NULL) {
        el_os_close(fd);
        el_fail(EL_ERR_MEMORY, ENOMEM, p->directory, -1, -1, "no memory for a segment");
        return NULL;
    }
    file->references = 1;
    file->fd = fd;
    file->base_offset = base_offset;
    return file;
}

/* A held .log file of the segment, which is or was the active one; NULL: error. table_mutex held. */
static el_log_file *log_file_take(el_partition *p, int64_t base_offset) {
    if (p->active == NULL || p->active->base_offset != base_offset) {
        char path[EL_PATH_MAX] = "";
        int fd = open_for_append(path, p, base_offset, ".log");
        if (fd < 0) {
            el_fail(EL_ERR_OS, -fd, path, -1, base_offset, "cannot open the active segment");
            return NULL;
        }
        el_log_file *file = log_file_make(p, fd, base_offset);
        if (file == NULL) return NULL;
        if (p->active != NULL && p->active->base_offset > base_offset) return file;
        log_file_release(p->active);
        p->active = file;
    }
    atomic_fetch_add(&p->active->references, 1);
    return p->active;
}

/* Make p->active and the index files those of the segment that is appended to. Page mutex held, so
 * that segment stays the same, and p->active with it. */
static int32_t take_active(el_partition *p, int64_t base_offset) {
    pthread_mutex_lock(&p->table_mutex);
    el_log_file *file = log_file_take(p, base_offset);
    pthread_mutex_unlock(&p->table_mutex);
    if (file == NULL) return EL_ERR_OS;
    log_file_release(file); /* p->active holds it */
    if (p->index_base_offset == base_offset) return EL_OK;
    char path[EL_PATH_MAX] = "";
    int index_fd = open_for_append(path, p, base_offset, ".index");
    int time_index_fd = index_fd < 0 ? index_fd : open_for_append(path, p, base_offset, ".timeindex");
    if (time_index_fd < 0) {
        if (index_fd >= 0) el_os_close(index_fd);
        return el_fail(EL_ERR_OS, -time_index_fd, path, -1, base_offset, "cannot open the active segment");
    }
    if (p->index_fd >= 0) el_os_close(p->index_fd);
    if (p->time_index_fd >= 0) el_os_close(p->time_index_fd);
    p->index_fd = index_fd;
    p->time_index_fd = time_index_fd;
    p->index_base_offset = base_offset;
    return EL_OK;
}

/* Make the files of a new segment, each whole and durable under its name; the .log comes last, since
 * it is what makes the segment exist. Returns the size of the .log file. */
static int64_t create_active(el_partition *p, int64_t base_offset) {
    static const char *const suffixes[3] = {".timeindex", ".index", ".log"};
    int fds[3];
    char path[EL_PATH_MAX];
    int64_t reserve = p->options.preallocation_bytes_max;
    if (reserve > PREALLOCATION_FIRST) reserve = PREALLOCATION_FIRST;
    if (reserve > p->options.segment_size_bytes_max) reserve = p->options.segment_size_bytes_max;
    for (int i = 0; i < 3; i++) {
        int32_t result = el_segment_path(path, p->directory, base_offset, suffixes[i]);
        fds[i] = result == EL_OK ? el_file_create(path, i == 2 ? reserve : 0) : -ENAMETOOLONG;
        if (fds[i] >= 0) continue;
        for (int k = 0; k < i; k++) el_os_close(fds[k]);
        return el_fail(EL_ERR_OS, -fds[i], path, -1, base_offset, "cannot make a new segment");
    }
    el_log_file *file = log_file_make(p, fds[2], base_offset);
    if (file == NULL) {
        el_os_close(fds[0]);
        el_os_close(fds[1]);
        return EL_ERR_MEMORY;
    }
    if (p->index_fd >= 0) el_os_close(p->index_fd);
    if (p->time_index_fd >= 0) el_os_close(p->time_index_fd);
    p->index_fd = fds[1];
    p->time_index_fd = fds[0];
    p->index_base_offset = base_offset;
    pthread_mutex_lock(&p->table_mutex);
    log_file_release(p->active);
    p->active = file;
    pthread_mutex_unlock(&p->table_mutex);
    return reserve;
}

static el_log_end fresh_end(int64_t log_start_offset, int64_t log_end_offset) {
    return (el_log_end){.log_start_offset = log_start_offset,
                        .log_end_offset = log_end_offset,
                        .active_base_offset = log_end_offset,
                        .max_timestamp = -1,
                        .max_timestamp_offset = log_end_offset,
                        .first_timestamp = -1,
                        .last_indexed_timestamp = -1};
}

static int32_t begin_to_write(el_partition *p, const el_log_end *end) {
    if (end->active_base_offset < 0) {
        int64_t size = create_active(p, end->log_end_offset);
        if (size < 0) return (int32_t)size;
        el_log_end fresh = fresh_end(end->log_start_offset, end->log_end_offset);
        return el_control_begin(p->shared_page, &fresh, size);
    }
    int32_t result = take_active(p, end->active_base_offset);
    if (result != EL_OK) return result;
    /* Cut what a clean close or recovery left behind the last entries that count. */
    int error = el_file_set_size(p->index_fd, end->index_entries * EL_INDEX_ENTRY);
    if (!error) error = el_file_set_size(p->time_index_fd, end->time_index_entries * EL_TIME_INDEX_ENTRY);
    if (error)
        return el_fail(EL_ERR_OS, -error, p->directory, -1, -1, "cannot cut an index");
    int64_t size = el_os_size(p->active->fd);
    return el_control_begin(p->shared_page, end, size < 0 ? 0 : size);
}

/* Before the first offset goes missing everybody has to reckon with it: compaction comes later. */
static void tell_gaps(el_partition *p) {
    if (p->options.has_gaps) atomic_store(&p->shared_page->has_gaps, 1);
}

int el_partition_has_gaps(const el_partition *p) {
    const el_control *page = atomic_load_explicit(&p->page, memory_order_acquire);
    return p->options.has_gaps ||
           (page != NULL && atomic_load_explicit(&page->has_gaps, memory_order_relaxed));
}

int32_t el_partition_begin(el_partition *p, const el_log_end *end) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    if (!p->is_writable) {
        if (p->private_page == NULL) {
            p->private_page = el_control_private(end);
            if (p->private_page == NULL) result = EL_ERR_MEMORY;
            atomic_store(&p->page, p->private_page);
        }
    } else {
        atomic_store(&p->shared_page->has_gaps, p->options.has_gaps != 0);
        result = begin_to_write(p, end);
        if (result == EL_OK) {
            atomic_store(&p->page, p->shared_page);
            p->has_begun = 1;
        }
    }
    el_partition_leave(p);
    return result;
}

int32_t el_partition_attach(el_partition *p) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    if (!p->is_writable || !el_control_is_live(p->shared_page)) {
        result = el_fail(EL_ERR_NOT_RUNNING, 0, p->control_path, -1, -1, "no writer has begun here");
    } else {
        tell_gaps(p);
        atomic_store(&p->page, p->shared_page);
        p->has_begun = 1;
    }
    el_partition_leave(p);
    return result;
}

int32_t el_partition_configure(el_partition *p, const el_partition_options *options) {
    int32_t result = check_options(options);
    if (result == EL_OK) result = el_partition_enter(p);
    if (result != EL_OK) return result;
    if (p->has_begun) el_control_lock(p->shared_page);
    p->options = *options;
    if (p->has_begun) tell_gaps(p);
    if (p->has_begun) el_control_unlock(p->shared_page);
    el_partition_leave(p);
    return EL_OK;
}

/* -- append ----------------------------------------------------------------------------------- */

static int32_t fail_poisoned(const el_partition *p, int error) {
    return el_fail(EL_ERR_POISONED, error, p->directory, -1, -1,
                   "an earlier fdatasync of this partition failed");
}

static void poison(el_partition *p, el_control *page, int error) {
    int32_t clean = 0;
    atomic_compare_exchange_strong(&page->poisoned_errno, &clean, error ? error : EIO);
    el_control_wake(page);
    el_activity_touch(p->activity);
}

static void publish(el_partition *p, el_control *page, int64_t high_watermark) {
    if (el_control_publish(page, high_watermark)) el_activity_touch(p->activity);
}

/* Take the pending index entries to the files. Indexes can be rebuilt, so an error here is told but
 * harms nothing. Page mutex held; the state is to be committed before entries are added. */
static int flush_index(el_partition *p, el_control *page, el_append_state *state) {
    int error = 0;
    if (state->pending_index_count > 0) {
        int64_t at = state->end.index_entries - state->pending_index_count;
        error = el_file_write_all(p->index_fd, page->pending_index,
                                  (size_t)state->pending_index_count * EL_INDEX_ENTRY,
                                  at * EL_INDEX_ENTRY, NULL);
        if (!error) state->pending_index_count = 0;
    }
    if (!error && state->pending_time_count > 0) {
        int64_t at = state->end.time_index_entries - state->pending_time_count;
        error = el_file_write_all(p->time_index_fd, page->pending_time,
                                  (size_t)state->pending_time_count * EL_TIME_INDEX_ENTRY,
                                  at * EL_TIME_INDEX_ENTRY, NULL);
        if (!error) state->pending_time_count = 0;
    }
    return error;
}

/* Sealing or closing: all entries in the files, and the closing time entry that Kafka forces. */
static int finish_index(el_partition *p, el_control *page, el_append_state *state) {
    int error = flush_index(p, page, state);
    el_log_end *end = &state->end;
    if (!error && end->max_timestamp > end->last_indexed_timestamp) {
        uint8_t entry[EL_TIME_INDEX_ENTRY];
        el_time_index_entry(entry, end->max_timestamp,
                            end->max_timestamp_offset - end->active_base_offset);
        error = el_file_write_all(p->time_index_fd, entry, sizeof entry,
                                  end->time_index_entries * EL_TIME_INDEX_ENTRY, NULL);
    }
    if (!error) error = el_file_fsync(p->index_fd);
    if (!error) error = el_file_fsync(p->time_index_fd);
    return error;
}

/* Cut the preallocation and make the active segment durable as a whole. */
static int seal_log(el_partition *p, el_control *page, el_append_state *state) {
    int error = 0;
    if (state->allocated != state->end.active_position)
        error = el_file_set_size(p->active->fd, state->end.active_position);
    if (error) return error;
    state->allocated = state->end.active_position;
    error = el_file_fsync(p->active->fd);
    if (error) {
        poison(p, page, -error);
        return error;
    }
    atomic_fetch_add(&page->sync_count, 1);
    return 0;
}

static void move_up(_Atomic int64_t *what, int64_t to) {
    int64_t seen = atomic_load(what);
    while (seen < to && !atomic_compare_exchange_weak(what, &seen, to)) {
    }
}

static void move_durable(el_partition *p, el_control *page, int64_t end_offset, int64_t bytes) {
    move_up(&page->durable_bytes, bytes);
    publish(p, page, end_offset); /* first: who is told that it is durable can read it */
    move_up(&page->durable_end_offset, end_offset);
}

static int must_roll(const el_partition *p, const el_append_state *state, int64_t size,
                     int64_t last_offset, int64_t max_timestamp) {
    const el_partition_options *o = &p->options;
    const el_log_end *end = &state->end;
    if (state->is_sealed) return 1;
    if (end->active_position == 0) return 0;
    if (end->active_position + size > o->segment_size_bytes_max) return 1;
    if (end->first_timestamp >= 0 && max_timestamp - end->first_timestamp > o->segment_ms) return 1;
    if ((end->index_entries + 1) * EL_INDEX_ENTRY > o->index_size_bytes_max) return 1;
    /* one entry stays free for the one that sealing forces */
    if ((end->time_index_entries + 2) * EL_TIME_INDEX_ENTRY > o->index_size_bytes_max) return 1;
    return last_offset - end->active_base_offset > INT32_MAX;
}

/* Page mutex held. Commits: what was changed before counts, too. */
static int32_t roll(el_partition *p, el_control *page, el_append_state **state_in_use) {
    el_append_state *state = *state_in_use;
    int error = finish_index(p, page, state);
    if (!error) error = seal_log(p, page, state);
    /* From here on the file of the next segment may be there, even if making it fails: nothing more may
     * be written to this one, or the two would overlap. */
    if (!error) state->is_sealed = 1;
    el_control_commit(page, state);
    state = *state_in_use = el_control_change(page);
    if (error)
        return el_fail(error && atomic_load(&page->poisoned_errno) ? EL_ERR_POISONED : EL_ERR_OS,
                       -error, p->directory, state->end.active_position,
                       state->end.active_base_offset, "cannot seal the active segment");
    int64_t next = state->end.log_end_offset;
    int64_t size = create_active(p, next);
    if (size < 0) return (int32_t)size;
    state->is_sealed = 0;
    state->allocated = size;
    state->end = fresh_end(state->end.log_start_offset, next);
    el_control_commit(page, state);
    *state_in_use = el_control_change(page);
    move_durable(p, page, next, (*state_in_use)->appended_bytes);
    return EL_OK;
}

/* Reserve blocks ahead of the writes: an fdatasync then has no file size to write down. */
static int preallocate(el_partition *p, el_append_state *state, int64_t needed) {
    int64_t step = p->options.preallocation_bytes_max, allocated = state->allocated;
    if (needed <= allocated || step == 0) return 0;
    int64_t target = allocated * 2;
    if (target > allocated + step) target = allocated + step;
    if (target < PREALLOCATION_FIRST) target = PREALLOCATION_FIRST;
    if (target > p->options.segment_size_bytes_max) target = p->options.segment_size_bytes_max;
    if (target < needed) target = needed;
    int error = el_file_allocate(p->active->fd, allocated, target - allocated);
    if (error && target > needed) /* little room left: take what this batch needs */
        error = el_file_allocate(p->active->fd, allocated, (target = needed) - allocated);
    if (!error) state->allocated = target;
    return error;
}

/* Take back what a failed or interrupted append left behind the log end, and commit that. Page mutex
 * held, p->active taken. */
static int undo_tail(el_partition *p, el_control *page) {
    el_append_state *state = el_control_change(page);
    int error = el_file_set_size(p->active->fd, state->end.active_position);
    if (error) {
        /* Half a batch stays in the file; nothing may be written behind it. */
        poison(p, page, -error);
        return error;
    }
    state->allocated = state->end.active_position;
    el_control_commit(page, state);
    return 0;
}

static void account_index(el_partition *p, el_control *page, el_append_state *state,
                          int64_t position, int64_t size, int64_t last_offset,
                          int64_t max_timestamp) {
    el_log_end *end = &state->end;
    /* No room if the index files could not be written: then this entry is left out. */
    if (state->pending_index_count == EL_PENDING_MAX || state->pending_time_count == EL_PENDING_MAX)
        return;
    int add = el_index_step(end, p->options.index_interval_bytes, size, last_offset, max_timestamp);
    if (add & EL_ADD_INDEX)
        el_index_entry(page->pending_index + state->pending_index_count++ * EL_INDEX_ENTRY,
                       last_offset - end->active_base_offset, position);
    if (add & EL_ADD_TIME)
        el_time_index_entry(page->pending_time + state->pending_time_count++ * EL_TIME_INDEX_ENTRY,
                            end->max_timestamp, end->max_timestamp_offset - end->active_base_offset);
}

static int32_t sync_to(el_partition *p, el_control *page, int64_t end_offset);

/* Take the append lock, with the active segment's files open here. */
static int32_t lock_active(el_partition *p, el_control *page) {
    int32_t result = el_control_lock(page);
    if (result < 0) return result;
    const el_append_state *state = &page->states[atomic_load(&page->current) & 1];
    result = take_active(p, state->end.active_base_offset);
    if (result == EL_OK && page->is_torn) {
        /* C-I: what the dead owner committed counts, and is told if he did not come to it. What lies
         * behind it in the file is cut. */
        el_control_commit(page, el_control_change(page));
        if (p->options.durability != EL_DURABILITY_SYNC)
            publish(p, page, atomic_load(&page->log_end_offset));
        undo_tail(p, page);
        page->is_torn = 0;
    }
    if (result != EL_OK) el_control_unlock(page);
    return result;
}

/* The same for appending; in a partition that promises `sync`, with the unsynced bytes bounded. */
static int32_t lock_for(el_partition *p, el_control *page) {
    for (;;) {
        int32_t result = lock_active(p, page);
        if (result < 0) return result;
        /* All durable, though the count of bytes may not know yet: see sync_to. */
        int64_t end_offset = atomic_load(&page->log_end_offset);
        if (p->options.durability != EL_DURABILITY_SYNC ||
            atomic_load(&page->durable_end_offset) >= end_offset ||
            atomic_load(&page->appended_bytes) - atomic_load(&page->durable_bytes) <=
                EL_UNSYNCED_BYTES_MAX)
            return EL_OK;
        el_control_unlock(page);
        result = sync_to(p, page, end_offset);
        if (result != EL_OK) return result;
    }
}

/* Write the batch and commit. Page mutex held. Its first offset, or an error. */
static int64_t write_locked(el_partition *p, el_control *page, uint8_t *batch, int64_t size,
                            const el_batch_header *header, int64_t expected_end_offset,
                            int64_t *batch_position) {
    int poisoned = atomic_load(&page->poisoned_errno);
    if (poisoned) return fail_poisoned(p, poisoned);
    if (atomic_load(&page->is_deleted))
        return el_fail(EL_ERR_DELETED, 0, p->directory, -1, -1, "the topic was deleted");
    el_append_state *state = el_control_change(page);
    int64_t first = state->end.log_end_offset, last = first + header->last_offset_delta;
    if (expected_end_offset >= 0 && expected_end_offset != first)
        return el_fail(EL_ERR_MOVED, 0, p->directory, -1, first, "others have appended");
    if (must_roll(p, state, size, last, header->max_timestamp)) {
        int32_t result = roll(p, page, &state);
        if (result != EL_OK) return result;
    }
    if (state->pending_index_count == EL_PENDING_MAX || state->pending_time_count == EL_PENDING_MAX) {
        flush_index(p, page, state);
        el_control_commit(page, state);
        state = el_control_change(page);
    }
    int64_t position = state->end.active_position;
    el_batch_set_base_offset(batch, first);
    int error = preallocate(p, state, position + size);
    if (!error) error = el_file_write_all(p->active->fd, batch, (size_t)size, position, NULL);
    if (error) {
        undo_tail(p, page);
        return el_fail(EL_ERR_OS, -error, p->directory, position, first,
                       "cannot write a batch of %" PRId64 " bytes", size);
    }
    account_index(p, page, state, position, size, last, header->max_timestamp);
    state->end.active_position = position + size;
    if (state->allocated < position + size) state->allocated = position + size;
    state->end.log_end_offset = last + 1;
    state->appended_batches += 1;
    state->appended_bytes += size;
    el_control_commit(page, state);
    if (p->options.durability != EL_DURABILITY_SYNC) publish(p, page, last + 1);
    if (batch_position != NULL) *batch_position = position;
    return first;
}

int64_t el_partition_write(el_partition *p, uint8_t *batch, int64_t size,
                           int64_t expected_end_offset, int32_t durability,
                           int64_t *batch_position) {
    el_control *page = p->shared_page;
    if (!p->has_begun)
        return el_fail(EL_ERR_READ_ONLY, EROFS, p->directory, -1, -1, "the store is open for reading only");
    int64_t limit = p->options.batch_size_bytes_max;
    if (p->options.segment_size_bytes_max < limit) limit = p->options.segment_size_bytes_max;
    if (size > limit)
        return el_fail(EL_ERR_TOO_LARGE, 0, p->directory, size, limit,
                       "a batch of %" PRId64 " bytes; the limit is %" PRId64, size, limit);
    el_batch_header header;
    int32_t result = el_batch_header_read(batch, size, &header);
    if (result != EL_OK) return el_fail(EL_ERR_ARGUMENT, 0, p->directory, -1, -1, "not a whole batch");
    result = lock_for(p, page);
    if (result < 0) return result;
    int64_t first = write_locked(p, page, batch, size, &header, expected_end_offset, batch_position);
    el_control_unlock(page);
    if (first >= 0 && durability == EL_DURABILITY_SYNC)
        result = sync_to(p, page, first + header.last_offset_delta + 1);
    return result == EL_OK ? first : result;
}

int64_t el_partition_append_batch(el_partition *p, const char *batch, int64_t size,
                                  int64_t expected_end_offset, int32_t durability,
                                  int64_t *batch_position) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    el_batch_header header;
    int64_t first;
    el_buffer buffer = {NULL, 0};
    if (el_batch_verify((const uint8_t *)batch, size, &header) != EL_OK || header.size_bytes != size) {
        first = el_fail(EL_ERR_ARGUMENT, 0, p->directory, -1, -1, "not exactly one sound batch");
    } else {
        buffer = el_partition_buffer_take(p, size);
        first = EL_ERR_MEMORY;
    }
    if (buffer.data != NULL) {
        memcpy(buffer.data, batch, (size_t)size);
        first = el_partition_write(p, buffer.data, size, expected_end_offset, durability, batch_position);
        el_partition_buffer_give(p, buffer);
    }
    el_partition_leave(p);
    return first;
}

int64_t el_partition_append(el_partition *p, const char *key, int64_t key_size, const char *value,
                            int64_t value_size, const char *headers, int64_t headers_size,
                            int64_t timestamp, int64_t expected_end_offset, int32_t durability) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    el_slice key_slice = {(const uint8_t *)key, key_size};
    el_slice value_slice = {(const uint8_t *)value, value_size};
    el_slice header_slice = {(const uint8_t *)headers, headers_size};
    el_batch_input input = {.count = 1,
                            .values = &value_slice,
                            .keys = key_size < 0 ? NULL : &key_slice,
                            .headers = headers_size > 0 ? &header_slice : NULL,
                            .timestamp = timestamp};
    int64_t size = el_batch_size(&input), first = size;
    if (size >= 0 && size > p->options.batch_size_bytes_max)
        first = el_fail(EL_ERR_TOO_LARGE, 0, p->directory, size, p->options.batch_size_bytes_max,
                        "a record of %" PRId64 " bytes", size);
    else if (size >= 0) {
        el_buffer buffer = el_partition_buffer_take(p, size);
        first = EL_ERR_MEMORY;
        if (buffer.data != NULL) {
            first = el_batch_encode_into(&input, buffer.data, buffer.capacity);
            if (first >= 0)
                first = el_partition_write(p, buffer.data, size, expected_end_offset, durability, NULL);
            el_partition_buffer_give(p, buffer);
        }
    }
    el_partition_leave(p);
    return first;
}

/* -- durability ------------------------------------------------------------------------------- */

/* Let those who were just here write their next batch before the fdatasync begins, so that one
 * serves them all. Only when the last one served several; never longer than gather_us. */
static void gather(el_partition *p) {
    if (p->group_expected <= 1 || p->options.gather_us == 0) return;
    int64_t until = el_os_monotonic_ns() + p->options.gather_us * 1000LL;
    while (atomic_load_explicit(&p->arrivals, memory_order_relaxed) < p->group_expected &&
           el_os_monotonic_ns() < until)
        sched_yield();
}

static void note_sync_time(el_partition *p, int64_t ns) {
    static const int64_t steps[3] = {1000, 2000, 5000};
    int64_t scale = 1;
    int i = 0;
    for (; i < EL_SYNC_TIMES - 1 && ns > steps[i % 3] * scale; i++)
        if (i % 3 == 2) scale *= 10;
    atomic_fetch_add_explicit(&p->sync_counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->sync_total_ns, ns, memory_order_relaxed);
}

void el_partition_sync_times(el_partition *p, el_sync_times *out) {
    for (int i = 0; i < EL_SYNC_TIMES; i++)
        out->counts[i] = atomic_load_explicit(&p->sync_counts[i], memory_order_relaxed);
    out->total_ns = atomic_load_explicit(&p->sync_total_ns, memory_order_relaxed);
}

static int32_t sync_to(el_partition *p, el_control *page, int64_t end_offset) {
    atomic_fetch_add(&p->arrivals, 1);
    pthread_mutex_lock(&p->sync_mutex);
    int32_t result = EL_OK;
    while (atomic_load(&page->durable_end_offset) < end_offset) {
        int poisoned = atomic_load(&page->poisoned_errno);
        if (poisoned) {
            result = fail_poisoned(p, poisoned);
            break;
        }
        if (p->is_syncing) {
            pthread_cond_wait(&p->synced, &p->sync_mutex);
            continue;
        }
        p->is_syncing = 1;
        pthread_mutex_unlock(&p->sync_mutex);
        gather(p);
        /* First the end, then the file: if the segment rolls between, in whatever process, rolling
         * synced the former. */
        pthread_mutex_lock(&p->table_mutex);
        int64_t bytes = atomic_load(&page->appended_bytes); /* first: never more than the end has */
        int64_t target = atomic_load(&page->log_end_offset);
        el_log_file *file = log_file_take(p, atomic_load(&page->active_base_offset));
        pthread_mutex_unlock(&p->table_mutex);
        int32_t group = atomic_exchange(&p->arrivals, 0);
        int error = 0;
        if (file == NULL) {
            result = EL_ERR_OS;
        } else {
            int64_t begun_ns = el_os_monotonic_ns();
            error = el_file_fdatasync(file->fd);
            note_sync_time(p, el_os_monotonic_ns() - begun_ns);
            log_file_release(file);
            atomic_fetch_add(&page->sync_count, 1);
        }
        pthread_mutex_lock(&p->sync_mutex);
        p->is_syncing = 0;
        p->group_expected = group;
        if (error) poison(p, page, -error);
        else if (result == EL_OK) move_durable(p, page, target, bytes);
        pthread_cond_broadcast(&p->synced);
        if (result != EL_OK) break;
    }
    pthread_mutex_unlock(&p->sync_mutex);
    return result;
}

int32_t el_partition_sync(el_partition *p) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    el_control *page = p->shared_page;
    if (!p->has_begun)
        result = el_fail(EL_ERR_READ_ONLY, EROFS, p->directory, -1, -1, "the store is open for reading only");
    else
        result = sync_to(p, page, atomic_load(&page->log_end_offset));
    el_partition_leave(p);
    return result;
}

/* -- looking and waiting ---------------------------------------------------------------------- */

int32_t el_partition_state_read(el_partition *p, el_partition_state *out) {
    int32_t result = el_partition_enter(p);
    int is_inside = result == EL_OK;
    if (!is_inside && result != EL_ERR_CLOSED && result != EL_ERR_DELETED) return result;
    /* A closed handle is told as such, and also where it ended: closing reads that. */
    el_control *page = is_inside ? el_partition_page(p) : atomic_load(&p->page);
    if (page == NULL) {
        if (is_inside) result = el_fail(EL_ERR_NOT_RUNNING, 0, p->control_path, -1, -1, "no writer has begun here");
    } else {
        out->high_watermark = atomic_load(&page->high_watermark);
        out->durable_end_offset = atomic_load(&page->durable_end_offset);
        out->log_start_offset = atomic_load(&page->log_start_offset);
        out->log_end_offset = atomic_load(&page->log_end_offset);
        out->appended_batches = atomic_load(&page->appended_batches);
        out->appended_bytes = atomic_load(&page->appended_bytes);
        out->sync_count = atomic_load(&page->sync_count);
        out->active_base_offset = atomic_load(&page->active_base_offset);
        out->active_position = atomic_load(&page->active_position);
        out->poisoned_errno = atomic_load(&page->poisoned_errno);
        out->is_deleted = (int32_t)atomic_load(&page->is_deleted);
        out->generation = atomic_load(&page->generation);
    }
    if (is_inside) el_partition_leave(p);
    return result;
}

int32_t el_partition_wait(el_partition *p, int64_t offset, int64_t timeout_ns) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    int64_t until = timeout_ns < 0 ? -1 : el_os_monotonic_ns() + timeout_ns;
    for (;;) {
        el_control *page = el_partition_page(p);
        if (page == NULL) {
            result = el_fail(EL_ERR_NOT_RUNNING, 0, p->control_path, -1, -1, "no writer has begun here");
            break;
        }
        uint32_t sequence = atomic_load_explicit(&page->sequence, memory_order_acquire);
        if (atomic_load_explicit(&page->high_watermark, memory_order_acquire) > offset) break;
        if (atomic_load(&p->is_closed)) {
            result = fail_closed(p);
            break;
        }
        if (atomic_load(&page->is_deleted)) {
            result = el_fail(EL_ERR_DELETED, 0, p->directory, -1, -1, "the topic was deleted");
            break;
        }
        int64_t left = until < 0 ? -1 : until - el_os_monotonic_ns();
        if (until >= 0 && left <= 0) {
            result = EL_TIMEOUT;
            break;
        }
        /* A private page never changes: look now and then whether a writer has come. */
        int may_mark = page == p->shared_page && p->shared_is_writable;
        int waited = el_control_wait(page, sequence, left, may_mark);
        if (waited == -EINTR) {
            result = EL_INTERRUPTED;
            break;
        }
    }
    el_partition_leave(p);
    return result;
}

/* -- segments for readers --------------------------------------------------------------------- */

uint32_t el_partition_layout(el_partition *p) {
    el_control *page = atomic_load_explicit(&p->page, memory_order_acquire);
    return page == NULL ? 0 : atomic_load_explicit(&page->layout, memory_order_acquire);
}

/* Forget maps of files that are not the segments any more. table_mutex held. */
static void drop_stale_maps(el_partition *p) {
    uint32_t layout = el_partition_layout(p);
    if (layout == p->layout) return;
    for (int64_t i = 0; i < p->map_count; i++) el_map_release(p->maps[i]);
    p->map_count = 0;
    p->layout = layout;
}

/* Maps of all segments that are there now, in place of the former ones. table_mutex held. */
static int32_t list_table(el_partition *p) {
    int64_t *bases = NULL;
    /* A segment that is just being made, or whose maker was killed, is not of the log yet. */
    el_control *page = atomic_load(&p->page);
    int64_t newest = page != NULL && page == p->shared_page ? atomic_load(&page->active_base_offset)
                                                            : INT64_MAX;
    int64_t count = el_segment_list(p->directory, &bases);
    if (count < 0) return (int32_t)count;
    while (count > 0 && bases[count - 1] > newest) count--;
    el_map **maps = calloc((size_t)count + 1, sizeof *maps);
    if (maps == NULL) {
        free(bases);
        return el_fail(EL_ERR_MEMORY, ENOMEM, p->directory, -1, -1, "no memory for the segments");
    }
    int32_t result = EL_OK;
    int64_t old = 0;
    for (int64_t i = 0; i < count && result == EL_OK; i++) {
        while (old < p->map_count && p->maps[old]->base_offset < bases[i]) old++;
        if (old < p->map_count && p->maps[old]->base_offset == bases[i] &&
            !atomic_load(&p->maps[old]->is_outgrown)) {
            maps[i] = el_map_hold(p->maps[old]);
            continue;
        }
        /* Only the newest segment grows. */
        maps[i] = el_map_open(p->directory, bases[i],
                              i == count - 1 ? p->options.segment_size_bytes_max : 0);
        if (maps[i] == NULL) result = EL_ERR_OS;
    }
    free(bases);
    el_map **drop = result == EL_OK ? p->maps : maps;
    int64_t drop_count = result == EL_OK ? p->map_count : count;
    if (result == EL_OK) {
        p->maps = maps;
        p->map_count = count;
    }
    for (int64_t i = 0; i < drop_count; i++) el_map_release(drop[i]);
    free(drop);
    return result;
}

#define LOOKS_MAX 100

/* Look at the directory again. Maps of segments that are gone are dropped. table_mutex held. */
static int32_t refresh_table(el_partition *p) {
    for (int looks = 1;; looks++) {
        int32_t result = list_table(p);
        el_error told;
        if (looks == LOOKS_MAX) return result;
        if (result == EL_OK) {
            /* What was listed may lack a segment whose records another one has by now, while a former map
             * of that one was kept. It goes only after the layout has changed. */
            if (p->layout == el_partition_layout(p)) return EL_OK;
            drop_stale_maps(p);
            continue;
        }
        /* Segments are deleted and replaced at any time, also between listing and opening them. */
        el_error_last(&told);
        if (result != EL_ERR_OS || told.os_errno != ENOENT) return result;
    }
}

/* Index of the last map with base <= offset, or -1. */
static int64_t find_map(const el_partition *p, int64_t offset) {
    int64_t low = 0, high = p->map_count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (p->maps[middle]->base_offset <= offset) low = middle + 1;
        else high = middle;
    }
    return low - 1;
}

int32_t el_partition_refresh(el_partition *p, el_map *map) {
    int64_t limit = INT64_MAX;
    el_control *page = atomic_load_explicit(&p->page, memory_order_acquire);
    if (page != NULL && page == p->shared_page) {
        int64_t base_offset = atomic_load(&page->active_base_offset);
        int64_t position = atomic_load(&page->active_position);
        /* Still the active one: written up to there. Else the file has been cut to its exact size. */
        if (base_offset == map->base_offset && position > 0 &&
            atomic_load(&page->active_base_offset) == base_offset)
            limit = position;
    }
    return el_map_refresh(map, limit);
}

/* Hold map i with its size made current, mapping it anew where the file has outgrown it. Maps that
 * cursors hold stay as they are. table_mutex held. */
static el_map *take_map(el_partition *p, int64_t i) {
    int64_t base_offset = p->maps[i]->base_offset;
    for (;;) {
        if (el_partition_refresh(p, p->maps[i]) != EL_OK) return NULL;
        if (!atomic_load(&p->maps[i]->is_outgrown)) return el_map_hold(p->maps[i]);
        if (refresh_table(p) != EL_OK) return NULL;
        i = find_map(p, base_offset);
        if (i < 0 || p->maps[i]->base_offset != base_offset) {
            el_fail(EL_ERR_RANGE, 0, p->directory, -1, base_offset, "the segment is gone");
            return NULL;
        }
    }
}

el_map *el_partition_map(el_partition *p, int64_t offset, int64_t *end_offset) {
    el_map *map = NULL;
    pthread_mutex_lock(&p->table_mutex);
    drop_stale_maps(p);
    int64_t i = find_map(p, offset);
    /* In the newest segment that we know there may be newer ones, unless the writer is still in it. */
    el_control *page = atomic_load(&p->page);
    int is_newest = i == p->map_count - 1;
    if (i >= 0 && is_newest && page != NULL && atomic_load(&page->active_base_offset) == p->maps[i]->base_offset)
        is_newest = 0;
    int32_t result = i < 0 || is_newest ? refresh_table(p) : EL_OK;
    if (result == EL_OK) {
        i = find_map(p, offset);
        if (i < 0) i = 0;
        if (i < p->map_count) map = take_map(p, i);
        else el_fail(EL_ERR_RANGE, 0, p->directory, -1, offset, "the partition has no segments");
        if (map != NULL) i = find_map(p, map->base_offset);
        if (end_offset != NULL)
            *end_offset = i + 1 < p->map_count ? p->maps[i + 1]->base_offset : INT64_MAX;
    }
    pthread_mutex_unlock(&p->table_mutex);
    return map;
}

el_map *el_partition_map_after(el_partition *p, int64_t base_offset) {
    el_map *map = NULL;
    pthread_mutex_lock(&p->table_mutex);
    drop_stale_maps(p);
    for (int attempt = 0; attempt < 2 && map == NULL; attempt++) {
        if (attempt == 1 && refresh_table(p) != EL_OK) break;
        int64_t i = find_map(p, base_offset) + 1;
        if (i < p->map_count) {
            map = take_map(p, i);
            break;
        }
        if (attempt == 1)
            el_fail(EL_ERR_RANGE, 0, p->directory, -1, base_offset, "no segment follows");
    }
    pthread_mutex_unlock(&p->table_mutex);
    return map;
}

/* -- close ------------------------------------------------------------------------------------ */

static int32_t finish(el_partition *p, el_control *page) {
    int32_t result = lock_active(p, page);
    if (result < 0) return result;
    el_append_state *state = el_control_change(page);
    int error = 0;
    if (!state->is_sealed) {
        error = finish_index(p, page, state);
        if (!error) error = seal_log(p, page, state);
        el_control_commit(page, state);
    }
    el_control_unlock(page);
    if (error)
        return el_fail(EL_ERR_OS, -error, p->directory, -1, -1, "cannot close the active segment");
    return EL_OK;
}

/* What is done under the append lock by those who look after segments. */
typedef int32_t (*locked_action)(el_partition *p, el_control *page, int64_t argument);

static int64_t do_locked(el_partition *p, locked_action action, int64_t argument) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    el_control *page = p->shared_page;
    int64_t told = 0;
    if (!p->has_begun) {
        result = el_fail(EL_ERR_READ_ONLY, EROFS, p->directory, -1, -1, "the store is open for reading only");
    } else if ((result = lock_active(p, page)) == EL_OK) {
        int poisoned = atomic_load(&page->poisoned_errno);
        result = poisoned ? fail_poisoned(p, poisoned) : action(p, page, argument);
        told = atomic_load(&page->active_base_offset);
        el_control_unlock(page);
    }
    el_partition_leave(p);
    return result == EL_OK ? told : result;
}

static int32_t roll_if_any(el_partition *p, el_control *page, int64_t unused) {
    (void)unused;
    el_append_state *state = el_control_change(page);
    return state->end.active_position > 0 || state->is_sealed ? roll(p, page, &state) : EL_OK;
}

int64_t el_partition_roll(el_partition *p) { return do_locked(p, roll_if_any, 0); }

static int32_t move_start(el_partition *p, el_control *page, int64_t offset) {
    el_append_state *state = el_control_change(page);
    if (offset > state->end.log_end_offset)
        return el_fail(EL_ERR_RANGE, 0, p->directory, -1, offset, "the log start cannot be past the log end");
    if (offset > state->end.log_start_offset) {
        state->end.log_start_offset = offset;
        el_control_commit(page, state);
    }
    return EL_OK;
}

int32_t el_partition_move_start(el_partition *p, int64_t offset) {
    int64_t result = do_locked(p, move_start, offset);
    return result < 0 ? (int32_t)result : EL_OK;
}

static int32_t change_layout(el_partition *p, el_control *page, int64_t unused) {
    (void)p;
    (void)unused;
    atomic_fetch_add(&page->layout, 1);
    return EL_OK;
}

int32_t el_partition_segments_changed(el_partition *p) {
    int64_t result = do_locked(p, change_layout, 0);
    return result < 0 ? (int32_t)result : EL_OK;
}

int32_t el_partition_delete(el_partition *p) {
    int32_t result = el_partition_enter(p);
    if (result != EL_OK) return result;
    el_control *page = p->shared_page;
    if (!p->has_begun) {
        result = el_fail(EL_ERR_READ_ONLY, EROFS, p->directory, -1, -1, "the store is open for reading only");
    } else if ((result = el_control_lock(page)) == EL_OK) {
        atomic_store(&page->is_deleted, 1);
        el_control_unlock(page);
        el_control_wake(page);
        el_activity_touch(p->activity);
    }
    el_partition_leave(p);
    return result;
}

int32_t el_partition_close(el_partition *p, int32_t how) {
    if (p->fork_count != atomic_load(&fork_count)) return EL_OK; /* the parent's affair */
    if (atomic_exchange(&p->is_closed, 1)) return EL_OK;
    el_control *page = atomic_load(&p->page);
    /* Whoever may not write the page looks again by himself: see el_control_wait. */
    int may_wake = page != NULL && (page == p->private_page || p->shared_is_writable);
    if (may_wake) el_control_wake(page);
    pthread_mutex_lock(&p->sync_mutex);
    pthread_cond_broadcast(&p->synced);
    pthread_mutex_unlock(&p->sync_mutex);
    for (int32_t users; (users = atomic_load(&p->users)) > 0;) {
        /* Those who wait for the high watermark are woken again and again until all are out. */
        if (may_wake) el_control_wake(page);
        el_os_futex_wait((uint32_t *)&p->users, (uint32_t)users, 10000000);
    }
    int32_t result = EL_OK;
    if (how != EL_CLOSE_DROP && p->has_begun)
        result = sync_to(p, page, atomic_load(&page->log_end_offset));
    if (how == EL_CLOSE_CLEAN && p->has_begun && result == EL_OK) result = finish(p, page);
    log_file_release(p->active);
    p->active = NULL;
    if (p->index_fd >= 0) el_os_close(p->index_fd);
    if (p->time_index_fd >= 0) el_os_close(p->time_index_fd);
    p->index_fd = p->time_index_fd = -1;
    for (int64_t i = 0; i < p->map_count; i++) el_map_release(p->maps[i]);
    free(p->maps);
    p->maps = NULL;
    p->map_count = 0;
    return result;
}

void el_partition_free(el_partition *p) {
    if (p == NULL) return;
    if (p->fork_count == atomic_load(&fork_count)) {
        el_partition_close(p, EL_CLOSE_DROP);
        el_activity_close(p->activity);
        if (p->shared_page != NULL) el_control_unmap(p->shared_page);
        for (int i = 0; i < EL_BUFFERS_KEPT; i++) free(p->buffers[i].data);
        free(p->private_page);
        pthread_cond_destroy(&p->synced);
        pthread_mutex_destroy(&p->buffer_mutex);
        pthread_mutex_destroy(&p->sync_mutex);
        pthread_mutex_destroy(&p->table_mutex);
        free(p);
    }
}
