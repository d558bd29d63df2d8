/* control.c: see control.h. */
#include "control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file.h"
#include "os.h"

/* A reader that may not write the page cannot ask to be woken; it looks this often. */
#define READ_ONLY_POLL_NS 5000000
/* Others look, too: who was killed amid waking them has taken their mark and woken nobody. */
#define LOOK_AGAIN_NS 1000000000

static int is_this_file(const el_control *page, int fd) {
    uint64_t device = 0, inode = 0;
    return el_os_identity(fd, &device, &inode) == 0 && page->device == device &&
           page->inode == inode;
}

el_control *el_control_map(const char *path, int mode) {
    int writable = mode != EL_CONTROL_LOOK;
    if (mode == EL_CONTROL_MAKE) {
        /* Real blocks, so that a full disk is an error here and never a SIGBUS later. */
        if (el_file_reserve(path, EL_CONTROL_SIZE) != EL_OK) return NULL;
    }
    int fd = el_os_open(path, writable ? EL_OS_WRITE : EL_OS_READ);
    if (fd < 0) {
        el_fail(EL_ERR_OS, -fd, path, -1, -1, "cannot open the control page");
        return NULL;
    }
    int64_t size = el_os_size(fd);
    if (size < 0) {
        el_os_close(fd);
        el_fail(EL_ERR_OS, (int)-size, path, -1, -1, "cannot see the control page's size");
        return NULL;
    }
    if (size < EL_CONTROL_SIZE) {
        el_os_close(fd);
        el_fail(EL_ERR_NOT_RUNNING, 0, path, size, -1, "the control page is not made yet");
        return NULL;
    }
    el_control *page = el_os_map(fd, EL_CONTROL_SIZE, writable);
    int error = errno;
    if (page == NULL) {
        el_os_close(fd);
        el_fail(EL_ERR_OS, error, path, -1, -1, "cannot map the control page");
        return NULL;
    }
    if (mode == EL_CONTROL_MAKE && !(page->magic == EL_CONTROL_MAGIC && is_this_file(page, fd))) {
        memset(page, 0, EL_CONTROL_SIZE);
        el_os_identity(fd, &page->device, &page->inode);
        page->magic = EL_CONTROL_MAGIC;
    }
    int is_ours = page->magic == EL_CONTROL_MAGIC && is_this_file(page, fd);
    el_os_close(fd);
    if (!is_ours) {
        el_os_unmap(page, EL_CONTROL_SIZE);
        el_fail(EL_ERR_NOT_RUNNING, 0, path, -1, -1, "the control page is of another directory");
        return NULL;
    }
    return page;
}

void el_control_unmap(el_control *page) { el_os_unmap(page, EL_CONTROL_SIZE); }

int el_control_is_live(const el_control *page) {
    if (!atomic_load_explicit(&page->ready, memory_order_acquire)) return 0;
    uint8_t boot_id[16];
    el_os_boot_id(boot_id);
    return memcmp(boot_id, page->boot_id, sizeof boot_id) == 0;
}

/* In an order that readers can rely on: see el_partition_refresh. */
static void tell(el_control *page, const el_append_state *state) {
    const el_log_end *end = &state->end;
    atomic_store(&page->log_start_offset, end->log_start_offset);
    if (atomic_load_explicit(&page->active_base_offset, memory_order_relaxed) !=
        end->active_base_offset) {
        atomic_store(&page->active_position, 0);
        atomic_store(&page->active_base_offset, end->active_base_offset);
    }
    atomic_store_explicit(&page->active_position, end->active_position, memory_order_release);
    atomic_store_explicit(&page->appended_batches, state->appended_batches, memory_order_relaxed);
    atomic_store_explicit(&page->log_end_offset, end->log_end_offset, memory_order_release);
    /* after the end: see sync_to in partition.c */
    atomic_store_explicit(&page->appended_bytes, state->appended_bytes, memory_order_release);
}

el_append_state *el_control_change(el_control *page) {
    uint32_t current = atomic_load_explicit(&page->current, memory_order_relaxed) & 1;
    el_append_state *state = &page->states[current ^ 1];
    *state = page->states[current];
    return state;
}

void el_control_commit(el_control *page, const el_append_state *state) {
    atomic_store_explicit(&page->current, (uint32_t)(state - page->states), memory_order_release);
    tell(page, state);
}

static void fill(el_control *page, const el_log_end *end, int64_t allocated) {
    memset(page->states, 0, sizeof page->states);
    page->states[0].end = *end;
    page->states[0].allocated = allocated;
    atomic_store(&page->current, 0);
    tell(page, &page->states[0]);
    atomic_store(&page->durable_end_offset, end->log_end_offset);
    atomic_store(&page->durable_bytes, 0);
    atomic_store(&page->sync_count, 0);
    atomic_store(&page->high_watermark, end->log_end_offset);
    atomic_store(&page->poisoned_errno, 0);
    atomic_store(&page->is_deleted, 0);
    page->is_torn = 0;
}

int32_t el_control_begin(el_control *page, const el_log_end *end, int64_t allocated) {
    atomic_store(&page->ready, 0);
    el_os_boot_id(page->boot_id);
    /* The mutex is made anew: whatever state a killed owner or a former boot left is forgotten. */
    memset(&page->mutex, 0, sizeof page->mutex);
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);
    if (!error) error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
#ifdef __linux__
    if (!error) error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
#endif
    if (!error) error = pthread_mutex_init(&page->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (error) return el_fail(EL_ERR_OS, error, NULL, -1, -1, "cannot make the append lock");
    fill(page, end, allocated);
    atomic_fetch_add(&page->generation, 1);
    atomic_fetch_add(&page->layout, 1);
    atomic_store_explicit(&page->ready, 1, memory_order_release);
    el_control_wake(page);
    return EL_OK;
}

el_control *el_control_private(const el_log_end *end) {
    el_control *page = calloc(1, EL_CONTROL_SIZE);
    if (page == NULL) {
        el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a control page");
        return NULL;
    }
    fill(page, end, 0);
    atomic_store(&page->ready, 1);
    return page;
}

int32_t el_control_lock(el_control *page) {
    int error = pthread_mutex_lock(&page->mutex);
    if (error == 0) return EL_OK;
#ifdef __linux__
    if (error == EOWNERDEAD) {
        pthread_mutex_consistent(&page->mutex);
        page->is_torn = 1;
        return EL_OK;
    }
#endif
    return el_fail(EL_ERR_OS, error, NULL, -1, -1, "cannot take the append lock");
}

void el_control_unlock(el_control *page) { pthread_mutex_unlock(&page->mutex); }

void el_control_wake(el_control *page) {
    atomic_fetch_add(&page->sequence, 1); /* sequentially consistent: see el_control_wait */
    if (atomic_exchange(&page->waiting, 0)) el_os_futex_wake_all((uint32_t *)&page->sequence);
}

int el_control_publish(el_control *page, int64_t high_watermark) {
    int64_t seen = atomic_load_explicit(&page->high_watermark, memory_order_relaxed);
    while (seen < high_watermark)
        if (atomic_compare_exchange_weak_explicit(&page->high_watermark, &seen, high_watermark,
                                                  memory_order_release, memory_order_relaxed)) {
            el_control_wake(page);
            return 1;
        }
    return 0;
}

int el_control_wait(el_control *page, uint32_t sequence, int64_t timeout_ns, int is_writable) {
    int64_t slice = is_writable ? LOOK_AGAIN_NS : READ_ONLY_POLL_NS;
    if (timeout_ns >= 0 && timeout_ns < slice) slice = timeout_ns;
    /* Between our look at the sequence and the mark a writer may have passed: it saw no mark, but it
     * changed the word, and then the wait returns at once. */
    if (is_writable) atomic_store(&page->waiting, 1);
    int result = el_os_futex_wait((uint32_t *)&page->sequence, sequence, slice);
    return result == -ETIMEDOUT && slice != timeout_ns ? 0 : result;
}
