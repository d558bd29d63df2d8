/* os_fault.c: os.h with a memory and with faults on order, for the test-only module.
 *
 * The real os.c is compiled in under other names and does the work. What changes the disk is noted
 * with its data, so that crash_states.py can tell what a power cut may leave of it. One mutex
 * covers each operation together with its note: the trace is in the order in which things happened,
 * and an fdatasync covers exactly the writes noted before it.
 */
#define _GNU_SOURCE

#define el_os_open real_open
#define el_os_close real_close
#define el_os_pread real_pread
#define el_os_pwrite real_pwrite
#define el_os_fdatasync real_fdatasync
#define el_os_fsync real_fsync
#define el_os_ftruncate real_ftruncate
#define el_os_fallocate real_fallocate
#define el_os_size real_size
#define el_os_rename real_rename
#define el_os_unlink real_unlink
#define el_os_mkdir real_mkdir
#define el_os_map real_map
#define el_os_lock real_lock
#define el_os_boot_id real_boot_id
#include "../../native/os.c"
#undef el_os_open
#undef el_os_close
#undef el_os_pread
#undef el_os_pwrite
#undef el_os_fdatasync
#undef el_os_fsync
#undef el_os_ftruncate
#undef el_os_fallocate
#undef el_os_size
#undef el_os_rename
#undef el_os_unlink
#undef el_os_mkdir
#undef el_os_map
#undef el_os_lock
#undef el_os_boot_id
#undef EL_OS_H
#include "../../native/os.h"

#include <pthread.h>
#include <stdlib.h>

#include "os_fault.h"

#define DESCRIPTORS_MAX 65536

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    el_fault_operation *entries; /* path, target and data belong to the trace */
    size_t count, capacity;
    int8_t *kinds; /* of each operation by number */
    size_t kinds_capacity;
} trace;
static int64_t operation_count;
static struct {
    int64_t number, fired;
    int32_t kind, value;
    int is_full; /* SHORT_FULL has had its short write */
} plan = {.number = -1};
static char *paths[DESCRIPTORS_MAX]; /* of each open descriptor */
static uint8_t boot_id_set[16];
static int boot_id_is_set;
static int syncs_are_real = 1;

/* -- memory ----------------------------------------------------------------------------------- */

/* A test that runs out of memory here has nothing to say: stop. */
static void *grown(void *old, size_t size) {
    void *memory = realloc(old, size ? size : 1);
    if (!memory) abort();
    return memory;
}

static char *copied(const void *data, size_t size) {
    char *copy = grown(NULL, size + 1);
    memcpy(copy, data, size);
    copy[size] = 0;
    return copy;
}

static const char *path_of(int fd) {
    return fd >= 0 && fd < DESCRIPTORS_MAX && paths[fd] ? paths[fd] : "";
}

static void set_path(int fd, const char *path) {
    if (fd < 0 || fd >= DESCRIPTORS_MAX) return;
    free(paths[fd]);
    paths[fd] = path ? copied(path, strlen(path)) : NULL;
}

/* Descriptors follow their file: what lay at `to` has lost its name, `from` and all below it are
 * called anew. to == NULL: unlinked. */
static void move_paths(const char *from, const char *to) {
    size_t size = strlen(from);
    for (int fd = 0; fd < DESCRIPTORS_MAX; fd++) {
        if (!paths[fd]) continue;
        if (to && strcmp(paths[fd], to) == 0) {
            set_path(fd, "");
        } else if (strcmp(paths[fd], from) == 0) {
            set_path(fd, to ? to : "");
        } else if (to && strncmp(paths[fd], from, size) == 0 && paths[fd][size] == '/') {
            char *path = grown(NULL, strlen(to) + strlen(paths[fd] + size) + 1);
            strcat(strcpy(path, to), paths[fd] + size);
            free(paths[fd]);
            paths[fd] = path;
        }
    }
}

static void note(el_fault_operation operation) {
    if (trace.count == trace.capacity) {
        trace.capacity = trace.capacity ? 2 * trace.capacity : 256;
        trace.entries = grown(trace.entries, trace.capacity * sizeof *trace.entries);
    }
    operation.number = operation_count - 1; /* begin() has counted it */
    operation.path = copied(operation.path, strlen(operation.path));
    if (operation.target) operation.target = copied(operation.target, strlen(operation.target));
    if (operation.data) operation.data = copied(operation.data, (size_t)operation.size);
    trace.entries[trace.count++] = operation;
}

/* -- the plan --------------------------------------------------------------------------------- */

static int needs_space(int kind) {
    return kind == EL_FAULT_PWRITE || kind == EL_FAULT_FALLOCATE || kind == EL_FAULT_MKDIR ||
           kind == EL_FAULT_RENAME;
}

static int is_sync(int kind) { return kind == EL_FAULT_FSYNC || kind == EL_FAULT_FDATASYNC; }

/* Lock, count, and say what this operation has to do: 0 go on, or -errno. *size, where given, is
 * cut down for a short transfer. `creates`: an open that would make a file. */
static int begin(int kind, int creates, size_t *size) {
    pthread_mutex_lock(&mutex);
    int64_t number = operation_count++;
    if ((size_t)number >= trace.kinds_capacity) {
        trace.kinds_capacity = trace.kinds_capacity ? 2 * trace.kinds_capacity : 1024;
        trace.kinds = grown(trace.kinds, trace.kinds_capacity);
    }
    trace.kinds[number] = (int8_t)kind;
    int error = 0;
    int is_now = number == plan.number;
    int is_due = plan.kind != EL_FAULT_NONE && number >= plan.number;
    switch (is_due ? plan.kind : EL_FAULT_NONE) {
        case EL_FAULT_ONCE:
            error = is_now ? plan.value : 0;
            break;
        case EL_FAULT_LOST:
            error = is_now && is_sync(kind) ? plan.value : 0;
            break;
        case EL_FAULT_STICKY:
            error = plan.value;
            break;
        case EL_FAULT_SYNCS:
            error = is_sync(kind) ? plan.value : 0;
            break;
        case EL_FAULT_FULL:
            error = needs_space(kind) || creates ? ENOSPC : 0;
            break;
        case EL_FAULT_SHORT:
        case EL_FAULT_SHORT_FULL:
            if (is_now && size && plan.value > 0 && *size > (size_t)plan.value) {
                *size = (size_t)plan.value;
                plan.is_full = plan.kind == EL_FAULT_SHORT_FULL && kind == EL_FAULT_PWRITE;
                plan.fired++;
            } else if (plan.is_full && (needs_space(kind) || creates)) {
                error = ENOSPC;
            }
            break;
        case EL_FAULT_KILL:
            if (is_now) _exit(plan.value);
            break;
        default:
            break;
    }
    if (error) plan.fired++;
    return -error;
}

static int end(int returned) {
    pthread_mutex_unlock(&mutex);
    return returned;
}

static int64_t end_transfer(int64_t returned) {
    pthread_mutex_unlock(&mutex);
    return returned;
}

/* -- os.h ------------------------------------------------------------------------------------- */

int el_os_open(const char *path, int flags) {
    int exists = access(path, F_OK) == 0;
    int creates = flags & EL_OS_CREATE && !exists;
    int fd = begin(EL_FAULT_OPEN, creates, NULL);
    if (fd == 0) fd = real_open(path, flags);
    if (fd >= 0) {
        set_path(fd, path);
        if (creates) {
            note((el_fault_operation){.kind = EL_FAULT_OPEN, .path = path});
        } else if (flags & EL_OS_TRUNCATE) {
            note((el_fault_operation){.kind = EL_FAULT_FTRUNCATE, .path = path});
        }
    }
    return end(fd);
}

int el_os_close(int fd) {
    pthread_mutex_lock(&mutex);
    set_path(fd, NULL);
    return end(real_close(fd));
}

int64_t el_os_pread(int fd, void *data, size_t size, int64_t position) {
    int64_t moved = begin(EL_FAULT_PREAD, 0, &size);
    if (moved == 0) moved = real_pread(fd, data, size, position);
    return end_transfer(moved);
}

int64_t el_os_pwrite(int fd, const void *data, size_t size, int64_t position) {
    int64_t moved = begin(EL_FAULT_PWRITE, 0, &size);
    if (moved == 0) moved = real_pwrite(fd, data, size, position);
    if (moved > 0) {
        note((el_fault_operation){.kind = EL_FAULT_PWRITE,
                                  .path = path_of(fd),
                                  .position = position,
                                  .size = moved,
                                  .data = data});
    }
    return end_transfer(moved);
}

/* Zero what was written to the file since its last sync. */
static void lose(int fd) {
    int64_t size = real_size(fd);
    for (size_t i = trace.count; i-- > 0;) {
        const el_fault_operation *operation = &trace.entries[i];
        if (strcmp(operation->path, path_of(fd)) != 0) continue;
        if (is_sync(operation->kind) && operation->os_errno == 0) return;
        if (operation->kind != EL_FAULT_PWRITE || operation->position >= size) continue;
        int64_t left = size - operation->position;
        size_t lost = (size_t)(operation->size < left ? operation->size : left);
        char *zeros = calloc(1, lost);
        if (!zeros || real_pwrite(fd, zeros, lost, operation->position) != (int64_t)lost) abort();
        free(zeros);
    }
}

static int sync_file(int fd, int kind) {
    int error = begin(kind, 0, NULL);
    if (error && plan.kind == EL_FAULT_LOST) lose(fd);
    if (error == 0 && syncs_are_real)
        error = kind == EL_FAULT_FSYNC ? real_fsync(fd) : real_fdatasync(fd);
    if (error != -EINTR) {
        note((el_fault_operation){.kind = kind, .path = path_of(fd), .os_errno = -error});
    }
    return end(error);
}

int el_os_fdatasync(int fd) { return sync_file(fd, EL_FAULT_FDATASYNC); }

int el_os_fsync(int fd) { return sync_file(fd, EL_FAULT_FSYNC); }

int el_os_ftruncate(int fd, int64_t size) {
    int error = begin(EL_FAULT_FTRUNCATE, 0, NULL);
    if (error == 0) error = real_ftruncate(fd, size);
    if (error == 0) {
        note((el_fault_operation){.kind = EL_FAULT_FTRUNCATE, .path = path_of(fd), .size = size});
    }
    return end(error);
}

int el_os_fallocate(int fd, int64_t position, int64_t size) {
    int error = begin(EL_FAULT_FALLOCATE, 0, NULL);
    if (error == 0) error = real_fallocate(fd, position, size);
    if (error == 0) {
        note((el_fault_operation){.kind = EL_FAULT_FALLOCATE,
                                  .path = path_of(fd),
                                  .position = position,
                                  .size = size});
    }
    return end(error);
}

int64_t el_os_size(int fd) {
    int64_t size = begin(EL_FAULT_SIZE, 0, NULL);
    if (size == 0) size = real_size(fd);
    return end_transfer(size);
}

int el_os_rename(const char *from, const char *to) {
    int error = begin(EL_FAULT_RENAME, 0, NULL);
    if (error == 0) error = real_rename(from, to);
    if (error == 0) {
        move_paths(from, to);
        note((el_fault_operation){.kind = EL_FAULT_RENAME, .path = from, .target = to});
    }
    return end(error);
}

int el_os_unlink(const char *path) {
    int error = begin(EL_FAULT_UNLINK, 0, NULL);
    if (error == 0) error = real_unlink(path);
    if (error == 0) {
        move_paths(path, NULL);
        note((el_fault_operation){.kind = EL_FAULT_UNLINK, .path = path});
    }
    return end(error);
}

int el_os_mkdir(const char *path) {
    int error = begin(EL_FAULT_MKDIR, 0, NULL);
    if (error == 0) error = real_mkdir(path);
    if (error == 0) note((el_fault_operation){.kind = EL_FAULT_MKDIR, .path = path});
    return end(error);
}

void *el_os_map(int fd, size_t size, int writable) {
    int error = begin(EL_FAULT_MAP, 0, NULL);
    void *data = error == 0 ? real_map(fd, size, writable) : NULL;
    if (error) errno = -error;
    int kept = errno; /* the unlock must not touch it */
    end(0);
    errno = kept;
    return data;
}

int el_os_lock(int fd, int is_shared) {
    int error = begin(EL_FAULT_LOCK, 0, NULL);
    return end(error ? error : real_lock(fd, is_shared));
}

void el_os_boot_id(uint8_t boot_id[16]) {
    pthread_mutex_lock(&mutex);
    if (boot_id_is_set) {
        memcpy(boot_id, boot_id_set, sizeof boot_id_set);
    } else {
        real_boot_id(boot_id);
    }
    end(0);
}

/* -- control ---------------------------------------------------------------------------------- */

void el_fault_reset(void) {
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < trace.count; i++) {
        el_fault_operation *operation = &trace.entries[i];
        free((void *)operation->path);
        free((void *)operation->target);
        free((void *)operation->data);
    }
    trace.count = 0;
    operation_count = 0;
    memset(&plan, 0, sizeof plan);
    plan.number = -1;
    end(0);
}

void el_fault_plan(int64_t number, int32_t kind, int32_t value) {
    pthread_mutex_lock(&mutex);
    memset(&plan, 0, sizeof plan);
    plan.number = number;
    plan.kind = kind;
    plan.value = value;
    end(0);
}

int64_t el_fault_count(void) { return __atomic_load_n(&operation_count, __ATOMIC_ACQUIRE); }

int64_t el_fault_fired(void) { return __atomic_load_n(&plan.fired, __ATOMIC_ACQUIRE); }

int32_t el_fault_kind(int64_t number) {
    pthread_mutex_lock(&mutex);
    return end(number >= 0 && number < operation_count ? trace.kinds[number] : 0);
}

int64_t el_fault_trace_count(void) {
    pthread_mutex_lock(&mutex);
    return end((int)trace.count);
}

int32_t el_fault_trace_read(int64_t index, el_fault_operation *out) {
    pthread_mutex_lock(&mutex);
    int exists = index >= 0 && index < (int64_t)trace.count;
    if (exists) *out = trace.entries[index];
    return end(exists ? 0 : -1);
}

void el_fault_real_syncs(int32_t is_on) {
    pthread_mutex_lock(&mutex);
    syncs_are_real = is_on;
    end(0);
}

void el_fault_boot_id(const char *boot_id) {
    pthread_mutex_lock(&mutex);
    boot_id_is_set = boot_id != NULL;
    if (boot_id) memcpy(boot_id_set, boot_id, sizeof boot_id_set);
    end(0);
}
