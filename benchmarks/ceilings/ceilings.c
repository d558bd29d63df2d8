/* ceilings.c: see ceilings.h. As plain as can be: these are the numbers that the others are held to. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ceilings.h"

#define LINE 64
#define PAGE 4096

int32_t ceiling_file_make(const char *path, int64_t size) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return -errno;
#ifdef __linux__
    int error = fallocate(fd, 0, 0, size) == 0 ? 0 : errno;
#else
    int error = ftruncate(fd, size) == 0 ? 0 : errno;
#endif
    if (!error && fsync(fd) != 0) error = errno;
    if (!error) return fd;
    close(fd);
    return -error;
}

int32_t ceiling_file_close(int32_t fd) { return close(fd) == 0 ? 0 : -errno; }

/* Bytes that no file system can take for zeros, and that lie in memory already. */
static char *make_piece(int64_t size) {
    char *piece = malloc((size_t)size);
    for (int64_t i = 0; piece != NULL && i < size; i++) piece[i] = (char)(i * 37 + 11);
    return piece;
}

static int write_all(int fd, const char *data, int64_t size, int64_t position) {
    while (size > 0) {
        ssize_t moved = pwrite(fd, data, (size_t)size, position);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return moved < 0 ? -errno : -EIO;
        data += moved;
        size -= moved;
        position += moved;
    }
    return 0;
}

int32_t ceiling_write(int32_t fd, int64_t total, int64_t piece) {
    char *data = make_piece(piece);
    if (data == NULL) return -ENOMEM;
    int error = 0;
    for (int64_t position = 0; position < total && !error; position += piece)
        error = write_all(fd, data, position + piece <= total ? piece : total - position, position);
    free(data);
    return error;
}

int32_t ceiling_write_durable(int32_t fd, int64_t count, int64_t piece) {
    char *data = make_piece(piece);
    if (data == NULL) return -ENOMEM;
    int error = 0;
    for (int64_t i = 0; i < count && !error; i++) {
        error = write_all(fd, data, piece, i * piece);
#ifdef __linux__
        if (!error && fdatasync(fd) != 0) error = -errno;
#else
        if (!error && fsync(fd) != 0) error = -errno;
#endif
    }
    free(data);
    return error;
}

const char *ceiling_map_open(const char *path, int64_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    char *data = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return data == MAP_FAILED ? NULL : data;
}

int32_t ceiling_map_close(const char *data, int64_t size) {
    return munmap((char *)data, (size_t)size) == 0 ? 0 : -errno;
}

static int64_t add_lines(const char *data, int64_t size) {
    int64_t sum = 0;
    for (int64_t i = 0; i < size; i += LINE) sum += (uint8_t)data[i];
    return sum;
}

int64_t ceiling_map_read(const char *path, int64_t size) {
    const char *data = ceiling_map_open(path, size);
    if (data == NULL) return -errno;
    int64_t sum = add_lines(data, size);
    ceiling_map_close(data, size);
    return sum;
}

int64_t ceiling_gather(const char *data, const int64_t *positions, int64_t count, int64_t piece) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += add_lines(data + positions[i], piece);
    return sum;
}

int32_t ceiling_touch(int64_t size) {
    char *data = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return -errno;
    for (int64_t i = 0; i < size; i += PAGE) ((volatile char *)data)[i] = 1;
    munmap(data, (size_t)size);
    return 0;
}
