/* error.c: thread-local, so that a call that failed and the question why cannot be torn apart by
 * another thread (cffi gives up the GIL between the two). */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "batch.h"

static __thread el_error last_error;

int32_t el_fail(int32_t code, int os_errno, const char *path, int64_t position, int64_t offset,
                const char *format, ...) {
    el_error *e = &last_error;
    e->code = code;
    e->os_errno = os_errno;
    e->position = position;
    e->offset = offset;
    snprintf(e->path, sizeof e->path, "%s", path ? path : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->what, sizeof e->what, format, arguments);
    va_end(arguments);
    return code;
}

void el_error_last(el_error *out) { *out = last_error; }
