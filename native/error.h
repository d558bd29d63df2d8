/* error.h: the last error of this thread, as el_error_last() tells it. */
#ifndef EL_ERROR_H
#define EL_ERROR_H

#include <stdint.h>

/* Remember and return `code`. `path` may be NULL; position/offset -1 where they mean nothing. */
int32_t el_fail(int32_t code, int os_errno, const char *path, int64_t position, int64_t offset,
                const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
