/* pyobjects.c: the only file that knows Python objects.
 *
 * On the way in a tuple of exact `bytes` is walked without the GIL: both are immutable and the caller
 * holds the tuple for the length of the call. Every item's exact type is checked before its memory is
 * looked at. On the way out objects are made with the GIL held, straight from the mapped segment.
 */
#include <Python.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "partition.h"

static int32_t fail_type(const char *column, int64_t index, const char *what) {
    return el_fail(EL_ERR_TYPE, 0, column, -1, index, "%s", what);
}

#ifndef PYPY_VERSION

/* One bytes (or None) as a slice. */
static int read_item(PyObject *item, el_slice *out) {
    if (PyBytes_CheckExact(item)) {
        char *data;
        Py_ssize_t size;
        PyBytes_AsStringAndSize(item, &data, &size); /* cannot fail: the type is checked */
        out->data = (const uint8_t *)data;
        out->size = (int64_t)size;
        return 1;
    }
    out->data = NULL;
    out->size = -1;
    return item == Py_None;
}

static int32_t read_tuple(uintptr_t id, int64_t count, const char *column, int may_be_none,
                          el_slice *out) {
    PyObject *tuple = (PyObject *)id;
    if (!PyTuple_CheckExact(tuple)) return fail_type(column, -1, "not a tuple");
    if (PyTuple_Size(tuple) != count) return fail_type(column, -1, "not as many items as values");
    for (int64_t i = 0; i < count; i++)
        if (!read_item(PyTuple_GetItem(tuple, (Py_ssize_t)i), &out[i]) || (out[i].size < 0 && !may_be_none))
            return fail_type(column, i, "an item is not bytes");
    return EL_OK;
}

/* A column that is a tuple, or one bytes for all. */
static int32_t read_column(uintptr_t id, int64_t count, const char *column, int may_be_none,
                           el_slice *out, int *is_one) {
    *is_one = PyBytes_CheckExact((PyObject *)id);
    if (*is_one) {
        read_item((PyObject *)id, out);
        return EL_OK;
    }
    return read_tuple(id, count, column, may_be_none, out);
}

#else

static int32_t read_tuple(uintptr_t id, int64_t count, const char *column, int may_be_none,
                          el_slice *out) {
    return fail_type(column, -1, "objects cannot be walked here: pass packed columns");
}
static int32_t read_column(uintptr_t id, int64_t count, const char *column, int may_be_none,
                           el_slice *out, int *is_one) {
    return fail_type(column, -1, "objects cannot be walked here: pass packed columns");
}

#endif

static const uint8_t *read_packed(const uint8_t *packed, const int64_t *sizes, int64_t count,
                                  el_slice *out) {
    for (int64_t i = 0; i < count; i++) {
        out[i].size = sizes[i];
        out[i].data = sizes[i] < 0 ? NULL : packed;
        if (sizes[i] > 0) packed += sizes[i];
    }
    return packed;
}

#define SLICES_ON_STACK 192

/* Turn columns into what the encoder takes. `slices` has room for 3 * count. */
static int32_t read_columns(const el_columns *columns, el_slice *slices, el_batch_input *input) {
    int64_t count = columns->count;
    el_slice *values = slices, *keys = slices + count, *headers = slices + 2 * count;
    memset(input, 0, sizeof *input);
    input->count = (int32_t)count;
    input->values = values;
    int32_t result = EL_OK;
    if (columns->packed != NULL) {
        const uint8_t *packed = read_packed((const uint8_t *)columns->packed, columns->value_sizes, count, values);
        if (columns->key_sizes != NULL) {
            packed = read_packed(packed, columns->key_sizes, count, keys);
            input->keys = keys;
        }
        if (columns->header_sizes != NULL) {
            read_packed(packed, columns->header_sizes, count, headers);
            input->headers = headers;
        }
    } else {
        result = read_tuple(columns->values, count, "values", 1, values);
        if (result == EL_OK && columns->keys != 0) {
            result = read_column(columns->keys, count, "keys", 1, keys, &input->keys_are_one);
            input->keys = keys;
        }
        if (result == EL_OK && columns->headers != 0) {
            result = read_column(columns->headers, count, "headers", 0, headers, &input->headers_are_one);
            input->headers = headers;
        }
    }
    for (int64_t i = 0; columns->timestamps != NULL && result == EL_OK && i < count; i++)
        if (columns->timestamps[i] < 0) result = fail_type("timestamps_ms", i, "a time before 1970");
    input->timestamps = columns->timestamps;
    input->timestamp = columns->timestamp;
    if (columns->numbers != NULL) {
        input->numbers = columns->numbers;
        input->numbers_rise = columns->numbers_rise;
        input->number_name = (const uint8_t *)columns->number_name;
        input->number_name_size = (int32_t)strlen(columns->number_name);
    }
    if (columns->ids != NULL) {
        input->ids = (const uint8_t *)columns->ids;
        input->ids_rise = columns->ids_rise;
        input->id_name = (const uint8_t *)columns->id_name;
        input->id_name_size = (int32_t)strlen(columns->id_name);
    }
    input->has_producer = columns->has_producer;
    input->producer_id = columns->producer_id;
    input->producer_epoch = columns->producer_epoch;
    input->base_sequence = columns->base_sequence;
    return result;
}

static el_slice *slices_for(int64_t count, el_slice *on_stack) {
    if (count < 1 || count > INT32_MAX) {
        el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, count, "a batch holds 1 to 2^31-1 records");
        return NULL;
    }
    if (3 * count <= SLICES_ON_STACK) return on_stack;
    el_slice *slices = malloc((size_t)(3 * count) * sizeof *slices);
    if (slices == NULL) el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a batch");
    return slices;
}

int64_t el_batch_encode(const el_columns *columns, char *out, int64_t capacity) {
    el_slice on_stack[SLICES_ON_STACK], *slices = slices_for(columns->count, on_stack);
    if (slices == NULL) return columns->count < 1 ? EL_ERR_ARGUMENT : EL_ERR_MEMORY;
    el_batch_input input;
    int64_t size = read_columns(columns, slices, &input);
    if (size == EL_OK) size = el_batch_size(&input);
    if (size >= 0 && out != NULL) size = el_batch_encode_into(&input, (uint8_t *)out, capacity);
    if (slices != on_stack) free(slices);
    return size;
}

int64_t el_partition_append_columns(el_partition *p, const el_columns *columns,
                                    int64_t expected_end_offset, int32_t durability,
                                    int64_t *batch_position) {
    int32_t entered = el_partition_enter(p);
    if (entered != EL_OK) return entered;
    el_slice on_stack[SLICES_ON_STACK], *slices = slices_for(columns->count, on_stack);
    int64_t first = EL_ERR_ARGUMENT;
    if (slices != NULL) {
        el_batch_input input;
        first = read_columns(columns, slices, &input);
        int64_t size = first == EL_OK ? el_batch_size(&input) : first;
        if (size > p->options.batch_size_bytes_max)
            size = el_fail(EL_ERR_TOO_LARGE, 0, p->directory, size, p->options.batch_size_bytes_max,
                           "a batch of %lld bytes", (long long)size);
        first = size;
        if (size >= 0) {
            el_buffer buffer = el_partition_buffer_take(p, size);
            first = EL_ERR_MEMORY;
            if (buffer.data != NULL) {
                first = el_batch_encode_into(&input, buffer.data, buffer.capacity);
                if (first >= 0)
                    first = el_partition_write(p, buffer.data, size, expected_end_offset, durability,
                                               batch_position);
                el_partition_buffer_give(p, buffer);
            }
        }
        if (slices != on_stack) free(slices);
    }
    el_partition_leave(p);
    return first;
}

int32_t el_keys_partition(uintptr_t keys, int64_t count, int32_t partitions, int32_t *out) {
    if (partitions < 1) return el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, -1, "no partitions");
    el_slice on_stack[SLICES_ON_STACK], *slices = slices_for(count, on_stack);
    if (slices == NULL) return EL_ERR_ARGUMENT;
    int32_t result = read_tuple(keys, count, "keys", 1, slices);
    for (int64_t i = 0; i < count && result == EL_OK; i++)
        out[i] = slices[i].size < 0 ? -1
                                    : (int32_t)(el_murmur2((const char *)slices[i].data, slices[i].size) &
                                                0x7fffffffu) % partitions;
    if (slices != on_stack) free(slices);
    return result;
}

#ifndef PYPY_VERSION

static PyObject *bytes_or_none(const uint8_t *data, int64_t size) {
    if (size < 0) {
        Py_INCREF(Py_None);
        return Py_None;
    }
    return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
}

/* Steals `item`; a NULL one (out of memory) makes the whole tuple fail. */
static int put(PyObject *tuple, Py_ssize_t at, PyObject *item) {
    return item != NULL && PyTuple_SetItem(tuple, at, item) == 0;
}

/* What is made here holds strings, numbers and bytes and has no dict, so it can be in no cycle: the
 * collector need not look at it (it would, hundreds of times, while somebody reads a million). */
static PyObject *untracked(PyObject *item) {
    PyObject_GC_UnTrack(item);
    return item;
}

/* Records of one batch mostly share their time: one object serves the neighbours. */
typedef struct {
    int64_t value;
    PyObject *object; /* owned; NULL at first */
} shared_number;

static PyObject *number(int64_t value, shared_number *shared) {
    if (shared->object == NULL || shared->value != value) {
        Py_XDECREF(shared->object);
        shared->object = PyLong_FromLongLong(value);
        shared->value = value;
    }
    Py_XINCREF(shared->object);
    return shared->object;
}

static PyObject *make_tuple(const el_view *v, shared_number *time) {
    PyObject *tuple = PyTuple_New(4);
    if (tuple != NULL && put(tuple, 0, PyLong_FromLongLong(v->offset)) &&
        put(tuple, 1, number(v->timestamp, time)) &&
        put(tuple, 2, bytes_or_none(v->key, v->key_size)) &&
        put(tuple, 3, bytes_or_none(v->value, v->value_size)))
        return untracked(tuple);
    Py_XDECREF(tuple);
    return NULL;
}

typedef struct {
    PyTypeObject *type;
    allocfunc allocate;
    PyObject *topic, *partition, *no_headers;
} record_kind;

static PyObject *make_record(const el_view *v, const record_kind *kind, shared_number *time) {
    PyObject *record = kind->allocate(kind->type, 7);
    if (record == NULL) return NULL;
    Py_INCREF(kind->topic);
    Py_INCREF(kind->partition);
    PyObject *headers = kind->no_headers;
    if (v->headers_size > 1) headers = PyBytes_FromStringAndSize((const char *)v->headers, (Py_ssize_t)v->headers_size);
    else Py_INCREF(headers);
    int is_whole = put(record, 0, kind->topic) & put(record, 1, kind->partition) &
                   put(record, 6, headers);
    if (is_whole && put(record, 2, PyLong_FromLongLong(v->offset)) &&
        put(record, 3, number(v->timestamp, time)) &&
        put(record, 4, bytes_or_none(v->key, v->key_size)) &&
        put(record, 5, bytes_or_none(v->value, v->value_size)))
        return untracked(record);
    Py_DECREF(record);
    return NULL;
}

#define AHEAD 4
#define LINES_AHEAD_MAX 8

/* Records lie apart, and copying a cold one waits for memory: have a later one on its way. */
static void prefetch(const el_view *view) {
    __builtin_prefetch(view->key);
    for (int64_t at = 0; at < view->value_size && at < LINES_AHEAD_MAX * 64; at += 64)
        __builtin_prefetch(view->value + at);
}

static int32_t take(const el_view *views, int32_t count, int32_t what, PyObject *list,
                    const record_kind *kind) {
    shared_number time = {0, NULL};
    int32_t result = EL_OK;
    for (int32_t i = 0; i < count && result == EL_OK; i++) {
        PyObject *item = NULL;
        if (i + AHEAD < count) prefetch(&views[i + AHEAD]);
        switch (what) {
        case EL_TAKE_VALUES: item = bytes_or_none(views[i].value, views[i].value_size); break;
        case EL_TAKE_KEYS: item = bytes_or_none(views[i].key, views[i].key_size); break;
        case EL_TAKE_TUPLES: item = make_tuple(&views[i], &time); break;
        default: item = make_record(&views[i], kind, &time);
        }
        if (item == NULL || PyList_SetItem(list, i, item) != 0) {
            PyErr_Clear();
            result = el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, views[i].offset, "no memory for a record");
        }
    }
    Py_XDECREF(time.object);
    return result;
}

int32_t el_cursor_take(el_cursor *c, int32_t what, uintptr_t list_id, uintptr_t record_type,
                       uintptr_t topic, uintptr_t partition) {
    int32_t count = el_cursor_count(c);
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *list = (PyObject *)list_id;
    record_kind kind = {(PyTypeObject *)record_type, NULL, (PyObject *)topic, (PyObject *)partition, NULL};
    int32_t result = EL_OK;
    if (!PyList_CheckExact(list) || PyList_Size(list) != count)
        result = fail_type("list", -1, "not a list as long as the records");
    if (what == EL_TAKE_RECORDS && result == EL_OK) {
        if (!PyType_IsSubtype(kind.type, &PyTuple_Type))
            result = fail_type("record_type", -1, "not a subclass of tuple");
        else
            kind.allocate = (allocfunc)PyType_GetSlot(kind.type, Py_tp_alloc);
        kind.no_headers = PyBytes_FromStringAndSize("\0", 1);
        if (kind.no_headers == NULL) result = EL_ERR_MEMORY;
    }
    /* Thousands of objects at once would set off the collector for nothing: all of them stay. */
    int was_collecting = PyGC_Disable();
    if (result == EL_OK) result = take(el_cursor_views(c), count, what, list, &kind);
    if (was_collecting) PyGC_Enable();
    Py_XDECREF(kind.no_headers);
    PyGILState_Release(state);
    return result;
}

#else

int32_t el_cursor_take(el_cursor *c, int32_t what, uintptr_t list_id, uintptr_t record_type,
                       uintptr_t topic, uintptr_t partition) {
    return fail_type("list", -1, "objects cannot be made here: use the cursor's views");
}

#endif
