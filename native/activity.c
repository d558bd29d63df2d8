/* activity.c: see activity.h. */
#include "activity.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "error.h"
#include "os.h"

#define PAGE_SIZE_BYTES 4096
/* Who may not write the page, or has a private one, cannot ask to be woken; it looks this often. */
#define POLL_NS 5000000
/* Others look, too: who was killed amid waking them has taken their mark and woken nobody. */
#define LOOK_AGAIN_NS 1000000000

typedef struct {
    _Atomic uint32_t sequence; /* futex word */
    _Atomic uint32_t waiting;  /* set before waiting, cleared by who wakes */
} page;

struct el_activity {
    _Atomic int32_t references;
    int is_writable, is_mapped;
    page *shared;
};

el_activity *el_activity_open(const char *path) {
    el_activity *a = calloc(1, sizeof *a);
    if (a == NULL) {
        el_fail(EL_ERR_MEMORY, ENOMEM, path, -1, -1, "no memory for the activity page");
        return NULL;
    }
    a->references = 1;
    a->is_writable = 1;
    int fd = el_os_open(path, EL_OS_WRITE);
    if (fd < 0) {
        a->is_writable = 0;
        fd = el_os_open(path, EL_OS_READ);
    }
    if (fd >= 0) {
        if (el_os_size(fd) >= PAGE_SIZE_BYTES)
            a->shared = el_os_map(fd, PAGE_SIZE_BYTES, a->is_writable);
        el_os_close(fd);
    }
    a->is_mapped = a->shared != NULL;
    if (a->shared == NULL) {
        /* No writer has been here: a page of one's own, on which nothing happens. */
        a->is_writable = 0;
        a->shared = calloc(1, sizeof *a->shared);
        if (a->shared == NULL) {
            free(a);
            el_fail(EL_ERR_MEMORY, ENOMEM, path, -1, -1, "no memory for the activity page");
            return NULL;
        }
    }
    return a;
}

el_activity *el_activity_hold(el_activity *a) {
    if (a != NULL) atomic_fetch_add(&a->references, 1);
    return a;
}

void el_activity_close(el_activity *a) {
    if (a == NULL || atomic_fetch_sub(&a->references, 1) != 1) return;
    if (a->is_mapped) el_os_unmap(a->shared, PAGE_SIZE_BYTES);
    else free(a->shared);
    free(a);
}

void el_activity_touch(el_activity *a) {
    if (a == NULL || !a->is_writable) return;
    /* What happened was stored before; if we see no mark, the waiter, who marks before looking, sees
     * what happened. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&a->shared->waiting, memory_order_relaxed) == 0) return;
    atomic_store(&a->shared->waiting, 0);
    atomic_fetch_add(&a->shared->sequence, 1);
    el_os_futex_wake_all((uint32_t *)&a->shared->sequence);
}

uint32_t el_activity_ticket(el_activity *a) {
    uint32_t ticket = atomic_load(&a->shared->sequence);
    if (a->is_writable) atomic_store(&a->shared->waiting, 1);
    atomic_thread_fence(memory_order_seq_cst);
    return ticket;
}

int32_t el_activity_wait(el_activity *a, uint32_t ticket, int64_t timeout_ns) {
    int64_t slice = a->is_writable ? LOOK_AGAIN_NS : POLL_NS;
    if (timeout_ns >= 0 && timeout_ns < slice) slice = timeout_ns;
    int result = el_os_futex_wait((uint32_t *)&a->shared->sequence, ticket, slice);
    if (result == -EINTR) return EL_INTERRUPTED;
    if (result == -ETIMEDOUT) return slice == timeout_ns ? EL_TIMEOUT : EL_OK;
    return EL_OK;
}

void el_activity_wake(el_activity *a) {
    if (!a->is_writable) return;
    atomic_store(&a->shared->waiting, 0);
    atomic_fetch_add(&a->shared->sequence, 1);
    el_os_futex_wake_all((uint32_t *)&a->shared->sequence);
}
