/* What the machine itself can do, without a log, a format or Python. Read by the compiler and by cffi.
 * Sizes and positions in bytes; results < 0 are -errno. */

/* A new file with room for `size` bytes (fallocate: real blocks, nothing written). Returns its fd. */
int32_t ceiling_file_make(const char *path, int64_t size);
int32_t ceiling_file_close(int32_t fd);

/* pwrite `total` bytes in pieces of `piece`, from the beginning. */
int32_t ceiling_write(int32_t fd, int64_t total, int64_t piece);

/* `count` times: pwrite of `piece` bytes behind the last, then fdatasync. */
int32_t ceiling_write_durable(int32_t fd, int64_t count, int64_t piece);

/* Map the file and add up one byte of every 64: each cache line comes to the processor once. */
int64_t ceiling_map_read(const char *path, int64_t size);

/* The same for `count` pieces of `piece` bytes at the given positions of a map. */
const char *ceiling_map_open(const char *path, int64_t size);
int32_t ceiling_map_close(const char *data, int64_t size);
int64_t ceiling_gather(const char *data, const int64_t *positions, int64_t count, int64_t piece);

/* Write one byte into every page of `size` bytes of fresh memory and give them back: the machine's
 * free pages are then really there. */
int32_t ceiling_touch(int64_t size);
