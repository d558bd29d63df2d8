/* file.h: whole transfers and durable whole-file operations, made of os.h calls. */
#ifndef EL_FILE_H
#define EL_FILE_H

#include <stddef.h>
#include <stdint.h>

#define EL_PATH_MAX 1024

/* Write all of it: EINTR and short writes are carried on with. 0 or -errno; `written` (may be
 * NULL) tells how much reached the file, so that the caller can take half a batch back. */
int el_file_write_all(int fd, const void *data, size_t size, int64_t position, size_t *written);
/* Read exactly size bytes, or up to the end of the file: the number read, or -errno. */
int64_t el_file_read_all(int fd, void *data, size_t size, int64_t position);
/* fsync/fdatasync/ftruncate/fallocate carried on after EINTR. 0 or -errno. An fsync that failed for
 * another reason is never tried again: the caller poisons what depends on it. */
int el_file_fdatasync(int fd);
int el_file_fsync(int fd);
int el_file_set_size(int fd, int64_t size);
int el_file_allocate(int fd, int64_t position, int64_t size);
/* fsync the directory that holds `path`. 0 or -errno. */
int el_file_sync_directory_of(const char *path);
/* Make `path` from a temporary name beside it: size bytes reserved and zero, fsynced, renamed,
 * directory fsynced. Returns the open fd (read/write) or -errno; nothing is left behind on failure. */
int el_file_create(const char *path, int64_t size);

#endif
