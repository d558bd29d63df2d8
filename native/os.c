/* os.c: os.h on Linux and macOS. One call here is one call there; what EINTR and short transfers
 * ask for is file.c's business.
 *
 * Where macOS lacks a call: fsync only reaches the drive's cache there, so both syncs are
 * F_FULLFSYNC; fallocate is F_PREALLOCATE; there is no stable public futex, so a waiter polls.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* Linux moves at most this much in one call and macOS refuses more; the rest is a short transfer. */
#define TRANSFER_SIZE_BYTES_MAX ((size_t)0x7ffff000)
#define POLL_NS 100000 /* between two looks of a waiter without a futex */
#define SECOND_NS 1000000000LL

static int result(int returned) { return returned < 0 ? -errno : returned; }

int el_os_open(const char *path, int flags) {
    int mode = O_CLOEXEC | (flags & EL_OS_WRITE ? O_RDWR : O_RDONLY);
    if (flags & EL_OS_CREATE) mode |= O_CREAT;
    if (flags & EL_OS_TRUNCATE) mode |= O_TRUNC;
    if (flags & EL_OS_EXCLUSIVE) mode |= O_EXCL;
    if (flags & EL_OS_DIRECTORY) mode |= O_DIRECTORY;
    return result(open(path, mode, 0666));
}

int el_os_close(int fd) { return result(close(fd)); }

int64_t el_os_pread(int fd, void *data, size_t size, int64_t position) {
    if (size > TRANSFER_SIZE_BYTES_MAX) size = TRANSFER_SIZE_BYTES_MAX;
    ssize_t moved = pread(fd, data, size, (off_t)position);
    return moved < 0 ? -errno : moved;
}

int64_t el_os_pwrite(int fd, const void *data, size_t size, int64_t position) {
    if (size > TRANSFER_SIZE_BYTES_MAX) size = TRANSFER_SIZE_BYTES_MAX;
    ssize_t moved = pwrite(fd, data, size, (off_t)position);
    return moved < 0 ? -errno : moved;
}

int el_os_fsync(int fd) {
#if defined(__APPLE__)
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
    /* Only file systems that do not know the request at all get the weaker one. */
    if (errno != ENOTSUP && errno != EINVAL && errno != ENOTTY) return -errno;
#endif
    return result(fsync(fd));
}

int el_os_fdatasync(int fd) {
#if defined(__linux__)
    return result(fdatasync(fd));
#else
    return el_os_fsync(fd);
#endif
}

int el_os_ftruncate(int fd, int64_t size) { return result(ftruncate(fd, (off_t)size)); }

int el_os_fallocate(int fd, int64_t position, int64_t size) {
#if defined(__linux__)
    /* Not posix_fallocate: glibc emulates it by writing, which races with other writers. */
    return result(fallocate(fd, 0, (off_t)position, (off_t)size));
#elif defined(__APPLE__)
    struct stat status;
    if (fstat(fd, &status) != 0) return -errno;
    int64_t missing = position + size - (int64_t)status.st_size;
    if (missing <= 0) return 0;
    fstore_t store = {F_ALLOCATECONTIG | F_ALLOCATEALL, F_PEOFPOSMODE, 0, (off_t)missing, 0};
    if (fcntl(fd, F_PREALLOCATE, &store) != 0) {
        store.fst_flags = F_ALLOCATEALL; /* in pieces is good enough */
        if (fcntl(fd, F_PREALLOCATE, &store) != 0) {
            return errno == ENOTSUP || errno == EINVAL ? -EOPNOTSUPP : -errno;
        }
    }
    return result(ftruncate(fd, (off_t)(position + size)));
#else
    (void)fd, (void)position, (void)size;
    return -EOPNOTSUPP;
#endif
}

int64_t el_os_size(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? (int64_t)status.st_size : -errno;
}

int el_os_rename(const char *from, const char *to) { return result(rename(from, to)); }

int el_os_unlink(const char *path) { return result(unlink(path)); }

int el_os_mkdir(const char *path) { return result(mkdir(path, 0777)); }

int el_os_drop_cache(int fd) {
#if defined(__linux__)
    return -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
#else
    (void)fd;
    return 0;
#endif
}

void *el_os_map(int fd, size_t size, int writable) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *data = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    return data == MAP_FAILED ? NULL : data;
}

void el_os_unmap(void *data, size_t size) {
    if (data) munmap(data, size);
}

void el_os_forget(void *data, size_t size) {
#if defined(__linux__)
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + size) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
#else
    (void)data;
    (void)size;
#endif
}

int el_os_lock(int fd, int is_shared) {
    return result(flock(fd, (is_shared ? LOCK_SH : LOCK_EX) | LOCK_NB));
}

/* The 16 bytes of a UUID in text; everything that is no hexadecimal digit is passed over. */
static void read_uuid(const char *text, uint8_t uuid[16]) {
    int digits = 0;
    memset(uuid, 0, 16);
    for (; *text && digits < 32; text++) {
        const char *hexadecimal = "0123456789abcdef";
        const char *digit = strchr(hexadecimal, *text | 0x20);
        if (*text == '-' || !digit) continue;
        uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | (digit - hexadecimal));
        digits++;
    }
    if (digits != 32) memset(uuid, 0, 16);
}

void el_os_boot_id(uint8_t boot_id[16]) {
    char text[64] = {0};
#if defined(__linux__)
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
        close(fd);
    }
#elif defined(__APPLE__)
    size_t size = sizeof text - 1;
    if (sysctlbyname("kern.bootsessionuuid", text, &size, NULL, 0) != 0) text[0] = 0;
#endif
    read_uuid(text, boot_id);
}

int el_os_identity(int fd, uint64_t *device, uint64_t *inode) {
    struct stat status;
    if (fstat(fd, &status) != 0) return -errno;
    *device = (uint64_t)status.st_dev;
    *inode = (uint64_t)status.st_ino;
    return 0;
}

int64_t el_os_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

int64_t el_os_wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int el_os_pid(void) { return (int)getpid(); }

#if defined(__linux__)

/* Not the PRIVATE futexes: the word lies in a file that other processes map too. */
int el_os_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec timeout = {timeout_ns / SECOND_NS, timeout_ns % SECOND_NS};
    long returned = syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? NULL : &timeout,
                            NULL, 0);
    return returned == 0 || errno == EAGAIN ? 0 : -errno;
}

void el_os_futex_wake_all(uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

#else

int el_os_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    int64_t begun_ns = el_os_monotonic_ns();
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == expected) {
        int64_t pause_ns = POLL_NS;
        if (timeout_ns >= 0) {
            int64_t left_ns = timeout_ns - (el_os_monotonic_ns() - begun_ns);
            if (left_ns <= 0) return -ETIMEDOUT;
            if (left_ns < pause_ns) pause_ns = left_ns;
        }
        struct timespec pause = {0, (long)pause_ns};
        if (nanosleep(&pause, NULL) != 0) return -errno;
    }
    return 0;
}

void el_os_futex_wake_all(uint32_t *word) { (void)word; /* waiters look by themselves */ }

#endif
