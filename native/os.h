/* os.h: the one seam between eventlog and the operating system's files.
 *
 * Every file operation of the C core, and every durable file operation that Python asks for, goes
 * through these calls. os.c is the real thing; tests/native/os_fault.c implements the same header
 * for the test-only module, so production code carries no test flags.
 *
 * Convention: a call returns >= 0, or -errno. Nothing here retries: EINTR and short transfers are
 * handed up, and file.c is where they are dealt with.
 */
#ifndef EL_OS_H
#define EL_OS_H

#include <stddef.h>
#include <stdint.h>

#define EL_OS_READ 1   /* open for reading */
#define EL_OS_WRITE 2  /* open for reading and writing */
#define EL_OS_CREATE 4 /* create if absent (with EL_OS_WRITE) */
#define EL_OS_TRUNCATE 8
#define EL_OS_EXCLUSIVE 16
#define EL_OS_DIRECTORY 32 /* a directory, for fsync and listing */

int el_os_open(const char *path, int flags);
int el_os_close(int fd);
int64_t el_os_pread(int fd, void *data, size_t size, int64_t position);
int64_t el_os_pwrite(int fd, const void *data, size_t size, int64_t position);
int el_os_fdatasync(int fd);
int el_os_fsync(int fd);
int el_os_ftruncate(int fd, int64_t size);
/* Reserve blocks and extend the size (posix_fallocate's meaning, never its emulation by writing). */
int el_os_fallocate(int fd, int64_t position, int64_t size);
int64_t el_os_size(int fd);
int el_os_rename(const char *from, const char *to);
int el_os_unlink(const char *path);
int el_os_mkdir(const char *path);
/* Forget clean cached pages, so that what is read next is what the disk holds. Advice only. */
int el_os_drop_cache(int fd);

/* Mappings. MAP_SHARED; `size` may exceed the file. */
void *el_os_map(int fd, size_t size, int writable); /* NULL on failure, errno set */
void el_os_unmap(void *data, size_t size);
/* These bytes of a mapping will not be read again soon: their pages count no longer as this process's
 * memory (they stay in the page cache). Reading them all the same is right, only slower. Advice only. */
void el_os_forget(void *data, size_t size);

/* Whole-file advisory lock (flock): 0, -EWOULDBLOCK, or another -errno. Never blocks. */
int el_os_lock(int fd, int is_shared);

/* 16 bytes that change with every boot of the machine; all zeros where unknown. */
void el_os_boot_id(uint8_t boot_id[16]);
/* Identity of the open file, so that a copied control page is not taken for the original. */
int el_os_identity(int fd, uint64_t *device, uint64_t *inode);

int64_t el_os_monotonic_ns(void);
int64_t el_os_wall_ms(void);
int el_os_pid(void);

/* Wait while *word == expected, at most timeout_ns (< 0: for ever). 0 woken or changed,
 * -ETIMEDOUT, -EINTR. Works across processes that map the same page. */
int el_os_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns);
void el_os_futex_wake_all(uint32_t *word);

#endif
