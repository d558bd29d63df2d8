/* file.c: what file.h and the files part of abi.h promise, out of single os.h calls.
 *
 * The order that makes a change durable: content into a file that nobody looks for yet, fsync of
 * the file, rename to its name, fsync of the directory. A crash before the rename leaves at most a
 * file that ends in .tmp, which the next attempt overwrites.
 *
 * EINTR and short transfers are carried on with. An fsync that failed for another reason has lost
 * the pages that it could not write, and a second one would say that all is well: never repeated.
 */
#define _GNU_SOURCE

#include "file.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "error.h"
#include "os.h"

#define TEMPORARY_SUFFIX ".tmp"
#define COPY_SIZE_BYTES ((size_t)64 * 1024)
#define PID_TEXT_SIZE_BYTES 32

static int first_error(int first, int second) { return first < 0 ? first : second; }

static int open_file(const char *path, int flags) {
    int fd;
    do fd = el_os_open(path, flags);
    while (fd == -EINTR);
    return fd;
}

/* -- whole transfers -------------------------------------------------------------------------- */

/* Larger writes in one piece make the kernel take very large folios for the page cache: measured on
 * ext4 and fresh memory, 2.8 MB at once took three times as long as the same in these pieces. */
#define WRITE_PIECE_BYTES ((size_t)256 << 10)

int el_file_write_all(int fd, const void *data, size_t size, int64_t position, size_t *written) {
    const uint8_t *bytes = data;
    size_t done = 0;
    int error = 0;
    while (done < size) {
        size_t piece = size - done < WRITE_PIECE_BYTES ? size - done : WRITE_PIECE_BYTES;
        int64_t moved = el_os_pwrite(fd, bytes + done, piece, position + (int64_t)done);
        if (moved == -EINTR) continue;
        if (moved <= 0) {
            error = moved < 0 ? (int)moved : -EIO; /* 0 would loop for ever */
            break;
        }
        done += (size_t)moved;
    }
    if (written) *written = done;
    return error;
}

int64_t el_file_read_all(int fd, void *data, size_t size, int64_t position) {
    uint8_t *bytes = data;
    size_t done = 0;
    while (done < size) {
        int64_t moved = el_os_pread(fd, bytes + done, size - done, position + (int64_t)done);
        if (moved == -EINTR) continue;
        if (moved < 0) return moved;
        if (moved == 0) break;
        done += (size_t)moved;
    }
    return (int64_t)done;
}

int el_file_fdatasync(int fd) {
    int error;
    do error = el_os_fdatasync(fd);
    while (error == -EINTR);
    return error;
}

int el_file_fsync(int fd) {
    int error;
    do error = el_os_fsync(fd);
    while (error == -EINTR);
    return error;
}

int el_file_set_size(int fd, int64_t size) {
    int error;
    do error = el_os_ftruncate(fd, size);
    while (error == -EINTR);
    return error;
}

static int allocate(int fd, int64_t position, int64_t size) {
    int error;
    do error = el_os_fallocate(fd, position, size);
    while (error == -EINTR);
    return error == -ENOSYS || error == -ENOTSUP ? -EOPNOTSUPP : error;
}

int el_file_allocate(int fd, int64_t position, int64_t size) {
    int error = size > 0 ? allocate(fd, position, size) : 0;
    return error == -EOPNOTSUPP ? 0 : error;
}

/* Real blocks for the first `size` bytes, also on a file system that cannot allocate: there what
 * is missing at the end is written as zeros. Bytes that are there already are left alone. */
static int allocate_or_fill(int fd, int64_t size) {
    static const uint8_t zeros[COPY_SIZE_BYTES];
    if (size <= 0) return 0;
    int error = allocate(fd, 0, size);
    if (error != -EOPNOTSUPP) return error;
    int64_t position = el_os_size(fd);
    while (position >= 0 && position < size) {
        int64_t step = size - position;
        if (step > (int64_t)sizeof zeros) step = (int64_t)sizeof zeros;
        error = el_file_write_all(fd, zeros, (size_t)step, position, NULL);
        if (error) return error;
        position += step;
    }
    return position < 0 ? (int)position : 0;
}

/* -- names ------------------------------------------------------------------------------------ */

static int temporary_name(char out[EL_PATH_MAX], const char *path) {
    int size = snprintf(out, EL_PATH_MAX, "%s" TEMPORARY_SUFFIX, path);
    return size < EL_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int directory_name(char out[EL_PATH_MAX], const char *path) {
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') size--; /* "a/b/" lies in "a" */
    while (size > 0 && path[size - 1] != '/') size--;
    while (size > 1 && path[size - 1] == '/') size--;
    if (size >= EL_PATH_MAX) return -ENAMETOOLONG;
    if (size == 0) {
        strcpy(out, ".");
        return 0;
    }
    memcpy(out, path, size);
    out[size] = 0;
    return 0;
}

static int sync_path(const char *path, int flags) {
    int fd = open_file(path, flags);
    if (fd < 0) return fd;
    int error = el_file_fsync(fd);
    el_os_close(fd);
    return error;
}

int el_file_sync_directory_of(const char *path) {
    char directory[EL_PATH_MAX];
    int error = directory_name(directory, path);
    return error ? error : sync_path(directory, EL_OS_READ | EL_OS_DIRECTORY);
}

/* fsync what was written under the temporary name, give it its own name, fsync the directory.
 * *renamed tells what a failure left behind. */
static int publish(int fd, const char *temporary, const char *path, int *renamed) {
    *renamed = 0;
    int error = el_file_fsync(fd);
    if (error) return error;
    error = el_os_rename(temporary, path);
    if (error) return error;
    *renamed = 1;
    return el_file_sync_directory_of(path);
}

int el_file_create(const char *path, int64_t size) {
    char temporary[EL_PATH_MAX];
    int renamed = 0;
    int error = temporary_name(temporary, path);
    if (error) return error;
    int fd = open_file(temporary, EL_OS_WRITE | EL_OS_CREATE | EL_OS_TRUNCATE);
    if (fd < 0) return fd;
    error = allocate_or_fill(fd, size);
    if (!error) error = publish(fd, temporary, path, &renamed);
    if (!error) return fd;
    el_os_close(fd);
    el_os_unlink(renamed ? path : temporary);
    /* The name may be on disk although the fsync failed: its removal has to get there, too. */
    if (renamed) el_file_sync_directory_of(path);
    return error;
}

/* -- durable operations on whole files -------------------------------------------------------- */

static int32_t finish(int error, const char *path, const char *doing) {
    if (error >= 0) return EL_OK;
    return el_fail(EL_ERR_OS, -error, path, -1, -1, "%s: %s", doing, strerror(-error));
}

int32_t el_file_replace(const char *path, const char *data, int64_t size) {
    char temporary[EL_PATH_MAX];
    int renamed = 0;
    if (size < 0) return el_fail(EL_ERR_ARGUMENT, 0, path, -1, -1, "negative size");
    int error = temporary_name(temporary, path);
    if (error) return finish(error, path, "cannot replace the file");
    int fd = open_file(temporary, EL_OS_WRITE | EL_OS_CREATE | EL_OS_TRUNCATE);
    if (fd < 0) return finish(fd, temporary, "cannot create the file");
    error = el_file_write_all(fd, data, (size_t)size, 0, NULL);
    if (!error) error = publish(fd, temporary, path, &renamed);
    el_os_close(fd);
    if (error && !renamed) el_os_unlink(temporary);
    return finish(error, path, "cannot replace the file");
}

int32_t el_file_truncate(const char *path, int64_t size) {
    if (size < 0) return el_fail(EL_ERR_ARGUMENT, 0, path, -1, -1, "negative size");
    int fd = open_file(path, EL_OS_WRITE);
    if (fd < 0) return finish(fd, path, "cannot open the file");
    int error = el_file_set_size(fd, size);
    if (!error) error = el_file_fsync(fd);
    el_os_close(fd);
    return finish(error, path, "cannot truncate the file");
}

/* Bytes [from, to) of one file to the start of another; ends early where the source ends. */
/* Bytes [from, to) of the source, to the target's position `at`. */
static int copy_range(int source, int target, int64_t from, int64_t to, int64_t at) {
    uint8_t *buffer = malloc(COPY_SIZE_BYTES);
    if (!buffer) return -ENOMEM;
    int error = 0;
    for (int64_t position = from; position < to && !error;) {
        size_t step = to - position < (int64_t)COPY_SIZE_BYTES ? (size_t)(to - position)
                                                               : COPY_SIZE_BYTES;
        int64_t moved = el_file_read_all(source, buffer, step, position);
        if (moved <= 0) {
            error = (int)moved;
            break;
        }
        error = el_file_write_all(target, buffer, (size_t)moved, at + position - from, NULL);
        position += moved;
    }
    free(buffer);
    return error;
}

int32_t el_file_preserve(const char *path, int64_t from, int64_t to, const char *target) {
    char temporary[EL_PATH_MAX];
    int renamed = 0;
    if (from < 0 || to < from) {
        return el_fail(EL_ERR_ARGUMENT, 0, path, from, -1, "not a range of bytes");
    }
    int error = temporary_name(temporary, target);
    if (error) return finish(error, target, "cannot create the file");
    int source = open_file(path, EL_OS_READ);
    if (source < 0) return finish(source, path, "cannot open the file");
    int fd = open_file(temporary, EL_OS_WRITE | EL_OS_CREATE | EL_OS_TRUNCATE);
    if (fd < 0) {
        el_os_close(source);
        return finish(fd, temporary, "cannot create the file");
    }
    error = copy_range(source, fd, from, to, 0);
    if (!error) error = publish(fd, temporary, target, &renamed);
    el_os_close(fd);
    el_os_close(source);
    if (error && !renamed) el_os_unlink(temporary);
    return finish(error, target, "cannot keep a copy");
}

int32_t el_file_rewrite(const char *path, int64_t from, int64_t to) {
    int fd = open_file(path, EL_OS_WRITE);
    if (fd < 0) return finish(fd, path, "cannot open the file");
    int error = copy_range(fd, fd, from, to, from);
    if (!error) error = el_file_fsync(fd);
    el_os_close(fd);
    return finish(error, path, "cannot write the file again");
}

int32_t el_file_rename(const char *from, const char *to) {
    char from_directory[EL_PATH_MAX];
    char to_directory[EL_PATH_MAX];
    int error = first_error(directory_name(from_directory, from),
                                    directory_name(to_directory, to));
    if (!error) error = el_os_rename(from, to);
    /* The new name first: a crash between the two must not leave neither. */
    if (!error) error = sync_path(to_directory, EL_OS_READ | EL_OS_DIRECTORY);
    if (!error && strcmp(from_directory, to_directory) != 0) {
        error = sync_path(from_directory, EL_OS_READ | EL_OS_DIRECTORY);
    }
    return finish(error, from, "cannot rename");
}

int32_t el_file_unlink(const char *path) {
    int error = el_os_unlink(path);
    if (!error) error = el_file_sync_directory_of(path);
    return finish(error, path, "cannot remove the file");
}

int32_t el_file_rename_unsynced(const char *from, const char *to) {
    return finish(el_os_rename(from, to), from, "cannot rename");
}

int32_t el_file_unlink_unsynced(const char *path) {
    return finish(el_os_unlink(path), path, "cannot remove the file");
}

int32_t el_file_extend(const char *path, int64_t position, const char *data, int64_t size) {
    if (position < 0 || size < 0)
        return el_fail(EL_ERR_ARGUMENT, 0, path, position, -1, "not a range of bytes");
    int fd = open_file(path, position > 0 ? EL_OS_WRITE : EL_OS_WRITE | EL_OS_CREATE | EL_OS_TRUNCATE);
    if (fd < 0) return finish(fd, path, "cannot open the file");
    int error = el_file_write_all(fd, data, (size_t)size, position, NULL);
    el_os_close(fd);
    return finish(error, path, "cannot write the file");
}

int32_t el_file_mkdir(const char *path) {
    int error = el_os_mkdir(path);
    if (error == -EEXIST) {
        int fd = open_file(path, EL_OS_READ | EL_OS_DIRECTORY);
        error = fd == -ENOTDIR ? -EEXIST : fd;
        if (fd >= 0) {
            el_os_close(fd);
            error = 0;
        }
    }
    /* Also where it was there before: whoever made it may have died before this. */
    if (!error) error = el_file_sync_directory_of(path);
    return finish(error, path, "cannot create the directory");
}

int32_t el_file_sync(const char *path) {
    return finish(sync_path(path, EL_OS_READ), path, "cannot sync");
}

int32_t el_file_reserve(const char *path, int64_t size) {
    int fd = open_file(path, EL_OS_WRITE | EL_OS_CREATE);
    if (fd < 0) return finish(fd, path, "cannot open the file");
    int64_t size_before = el_os_size(fd);
    int error = size_before < 0 ? (int)size_before : allocate_or_fill(fd, size);
    if (!error && size_before < size) {
        error = el_file_fsync(fd);
        if (!error) error = el_file_sync_directory_of(path);
    }
    el_os_close(fd);
    return finish(error, path, "cannot reserve space");
}

/* -- the lock file ---------------------------------------------------------------------------- */

/* flock belongs to the open file, which a forked child shares: as long as the child has it open,
 * the lock outlives the parent. So the child closes what is in this table, which takes nothing
 * from a parent that lives. */
static struct {
    pthread_mutex_t mutex;
    int *fds;
    size_t count;
    size_t capacity;
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void before_fork(void) { pthread_mutex_lock(&held.mutex); }

static void after_fork_parent(void) { pthread_mutex_unlock(&held.mutex); }

static void after_fork_child(void) {
    for (size_t i = 0; i < held.count; i++) el_os_close(held.fds[i]);
    held.count = 0;
    pthread_mutex_unlock(&held.mutex);
}

static int register_result;

static void register_fork_handlers(void) {
    register_result = -pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* Called with the mutex held. */
static int held_add(int fd) {
    if (held.count == held.capacity) {
        size_t capacity = held.capacity ? 2 * held.capacity : 8;
        int *fds = realloc(held.fds, capacity * sizeof *fds);
        if (!fds) return -ENOMEM;
        held.fds = fds;
        held.capacity = capacity;
    }
    held.fds[held.count++] = fd;
    return 0;
}

/* Whether it was there. The close is done under the mutex, or a fork in between would close a
 * number that another file has got meanwhile. */
static int held_close(int fd) {
    int found = 0;
    pthread_mutex_lock(&held.mutex);
    for (size_t i = 0; i < held.count && !found; i++) {
        if (held.fds[i] != fd) continue;
        held.fds[i] = held.fds[--held.count];
        found = 1;
        el_os_close(fd);
    }
    pthread_mutex_unlock(&held.mutex);
    return found;
}

/* 0 where no number can be read: the holder may be about to write it. */
static int32_t read_pid(int fd) {
    char text[PID_TEXT_SIZE_BYTES + 1] = {0};
    if (el_file_read_all(fd, text, PID_TEXT_SIZE_BYTES, 0) <= 0) return 0;
    long pid = strtol(text, NULL, 10);
    return pid > 0 && pid <= INT32_MAX ? (int32_t)pid : 0;
}

/* For people and messages only, so a full disk does not stop a store from being opened. */
static void write_pid(int fd) {
    char text[PID_TEXT_SIZE_BYTES];
    int size = snprintf(text, sizeof text, "%d\n", el_os_pid());
    if (el_file_write_all(fd, text, (size_t)size, 0, NULL) == 0) el_file_set_size(fd, size);
}

int32_t el_file_lock(const char *path, int32_t is_shared, int32_t *fd_out, int32_t *holder_pid) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    *fd_out = -1;
    *holder_pid = 0;
    pthread_once(&once, register_fork_handlers);
    if (register_result) return finish(register_result, path, "cannot lock the store");
    pthread_mutex_lock(&held.mutex); /* no fork between the lock and its place in the table */
    int fd = open_file(path, EL_OS_WRITE | EL_OS_CREATE);
    int error = fd < 0 ? fd : 0;
    if (!error) {
        do error = el_os_lock(fd, is_shared);
        while (error == -EINTR);
    }
    if (!error) error = held_add(fd);
    if (error == -EWOULDBLOCK) *holder_pid = read_pid(fd);
    if (error && fd >= 0) el_os_close(fd);
    pthread_mutex_unlock(&held.mutex);
    if (error == -EWOULDBLOCK) {
        return el_fail(EL_ERR_LOCKED, EWOULDBLOCK, path, -1, -1, "locked by process %d",
                       *holder_pid);
    }
    if (error) return finish(error, path, "cannot lock the store");
    if (!is_shared) write_pid(fd);
    *fd_out = fd;
    return EL_OK;
}

int32_t el_file_lock_change(int32_t fd, int32_t is_shared) {
    int error;
    do error = el_os_lock(fd, is_shared);
    while (error == -EINTR);
    if (error == -EWOULDBLOCK) return el_fail(EL_ERR_LOCKED, EWOULDBLOCK, NULL, -1, -1, "others share the lock");
    return finish(error, NULL, "cannot change the lock");
}

/* A forked child has closed its copy already, and the number may be another file's by now. */
int32_t el_file_unlock(int32_t fd) {
    if (held_close(fd)) return EL_OK;
    return el_fail(EL_ERR_CLOSED, 0, NULL, -1, -1, "no lock is held through this descriptor");
}
