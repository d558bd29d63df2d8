/* batch.c: RecordBatch v2 encoding, checking and decoding.
 *
 * Layout (all integers big-endian; docs/FORMAT.md has it in full):
 *
 *     0 baseOffset int64        8 batchLength int32 (bytes behind this field)
 *    12 leaderEpoch int32      16 magic int8 = 2        17 crc uint32 (CRC-32C of 21..end)
 *    21 attributes int16       23 lastOffsetDelta int32 27 baseTimestamp int64
 *    35 maxTimestamp int64     43 producerId int64      51 producerEpoch int16
 *    53 baseSequence int32     57 recordCount int32     61 records
 *
 *    record: length varint | attributes int8 | timestampDelta varlong | offsetDelta varint |
 *            keyLength varint, key | valueLength varint, value |
 *            headerCount varint, [nameLength varint, name, valueLength varint, value]
 *
 * Decoding trusts nothing: each read is against the end of the innermost thing it belongs to.
 * Encoding trusts the caller's pointers, but measures each record again while it writes, so that
 * arrays that another thread changes in between can make a wrong batch but not a wild write.
 */
#include "batch.h"

#include <string.h>

#include "error.h"
#include "varint.h"

#define AT_LENGTH 8
#define AT_EPOCH 12
#define AT_MAGIC 16
#define AT_CRC 17
#define AT_ATTRIBUTES 21 /* the CRC covers everything from here */
#define AT_LAST_OFFSET_DELTA 23
#define AT_BASE_TIMESTAMP 27
#define AT_MAX_TIMESTAMP 35
#define AT_PRODUCER_ID 43
#define AT_PRODUCER_EPOCH 51
#define AT_BASE_SEQUENCE 53
#define AT_RECORD_COUNT 57

#define MAGIC 2
#define CODEC_MASK 7
#define CODEC_MAX 4                                     /* zstd */
#define RECORD_SIZE_MIN 7                               /* seven fields of one byte each */
#define BATCH_SIZE_MAX (INT32_MAX - EL_BATCH_LOG_OVERHEAD)
#define NUMBER_SIZE 8
#define ID_SIZE 16

#define LIKELY(condition) __builtin_expect(!!(condition), 1)

/* el_fail, such that the compiler sees the result: it is never EL_OK. */
#define FAIL(code, offset, ...) (el_fail((code), 0, NULL, -1, (offset), __VA_ARGS__), (code))
/* This error tells size and limit in the place of position and offset. */
#define FAIL_TOO_LARGE(size, ...) \
    (el_fail(EL_ERR_TOO_LARGE, 0, NULL, (size), BATCH_SIZE_MAX, __VA_ARGS__), EL_ERR_TOO_LARGE)

/* -- big-endian integers anywhere -------------------------------------------------------------- */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BIG_16(value) __builtin_bswap16(value)
#define BIG_32(value) __builtin_bswap32(value)
#define BIG_64(value) __builtin_bswap64(value)
#define LITTLE_32(value) (value)
#else
#define BIG_16(value) (value)
#define BIG_32(value) (value)
#define BIG_64(value) (value)
#define LITTLE_32(value) __builtin_bswap32(value)
#endif

static inline void put_16(uint8_t *out, int16_t value) {
    uint16_t big = BIG_16((uint16_t)value);
    memcpy(out, &big, sizeof big);
}

static inline void put_32(uint8_t *out, uint32_t value) {
    uint32_t big = BIG_32(value);
    memcpy(out, &big, sizeof big);
}

static inline void put_64(uint8_t *out, int64_t value) {
    uint64_t big = BIG_64((uint64_t)value);
    memcpy(out, &big, sizeof big);
}

static inline int16_t get_16(const uint8_t *in) {
    uint16_t big;
    memcpy(&big, in, sizeof big);
    return (int16_t)BIG_16(big);
}

static inline uint32_t get_32(const uint8_t *in) {
    uint32_t big;
    memcpy(&big, in, sizeof big);
    return BIG_32(big);
}

static inline int64_t get_64(const uint8_t *in) {
    uint64_t big;
    memcpy(&big, in, sizeof big);
    return (int64_t)BIG_64(big);
}

/* Timestamps may be any int64. Deltas wrap as they do in Kafka, and wrap back on decoding. */
static inline int64_t wrapping_add(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

static inline int64_t wrapping_subtract(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a - (uint64_t)b);
}

/* -- headers ----------------------------------------------------------------------------------- */

/* Step over one header. NULL if it is malformed or passes `end`. */
static inline const uint8_t *header_read(const uint8_t *in, const uint8_t *end, el_slice *name,
                                         el_slice *value) {
    int32_t size;
    if (!(in = el_varint_read(in, end, &size)) || size < 0 || size > end - in) return NULL;
    *name = (el_slice){in, size};
    in += size;
    if (!(in = el_varint_read(in, end, &size)) || size < -1 || size > end - in) return NULL;
    *value = (el_slice){size < 0 ? NULL : in, size};
    return size < 0 ? in : in + size;
}

/* Are exactly `count` headers between in and end? */
static inline int headers_are_sound(const uint8_t *in, const uint8_t *end, int32_t count) {
    el_slice name, value;
    for (; count > 0 && in; count--) in = header_read(in, end, &name, &value);
    return count == 0 && in == end;
}

int64_t el_header_number(const uint8_t *headers, int64_t size, const uint8_t *name,
                         int32_t name_size, int64_t missing) {
    if (!headers || size <= 0 || !name || name_size < 0) return missing;
    const uint8_t *end = headers + size;
    int32_t count;
    int64_t number = missing;
    const uint8_t *in = el_varint_read(headers, end, &count);
    for (; in && count > 0; count--) {
        el_slice found, value;
        in = header_read(in, end, &found, &value);
        if (!in) return missing;
        if (found.size != name_size || memcmp(found.data, name, (size_t)name_size)) continue;
        number = missing; /* of repeated headers the last counts, as in Kafka's lastHeader() */
        if (value.size < 1 || value.size > NUMBER_SIZE) continue;
        uint64_t sum = 0;
        for (int64_t i = 0; i < value.size; i++) sum = sum << 8 | value.data[i];
        number = (int64_t)sum;
    }
    return in ? number : missing;
}

/* -- encoding ---------------------------------------------------------------------------------- */

/* A headers slice, taken apart so that the header columns can be counted in. */
typedef struct {
    const uint8_t *rest; /* behind the count */
    int64_t rest_size;
    int32_t count; /* header columns included */
} header_part;

/* What stays the same from record to record. */
typedef struct {
    const el_batch_input *input;
    int64_t base_timestamp;
    int64_t column_size; /* bytes that the header columns take in each record */
    int32_t column_count;
    header_part headers; /* where they are one, or none */
    int headers_differ;
} encoder;

/* One record, measured. */
typedef struct {
    int64_t timestamp_delta;
    el_slice key;
    el_slice value;
    header_part headers;
    int64_t body_size; /* without its own length */
} measured;

static const uint8_t no_bytes[1];

static int header_part_of(const encoder *e, const el_slice *slice, header_part *part) {
    *part = (header_part){no_bytes, 0, e->column_count};
    if (!slice || slice->size <= 0) return 1;
    if (slice->size > INT32_MAX) return 0;
    const uint8_t *end = slice->data + slice->size;
    int32_t count;
    const uint8_t *rest = el_varint_read(slice->data, end, &count);
    /* a header takes two bytes at least: this also keeps count + column_count within its type */
    if (!rest || count < 0 || count > (end - rest) / 2) return 0;
    *part = (header_part){rest, end - rest, count + e->column_count};
    return 1;
}

static inline int64_t column_size(int32_t name_size, int32_t value_size) {
    return el_varint_size(name_size) + (int64_t)name_size + el_varint_size(value_size) + value_size;
}

static int32_t encoder_begin(encoder *e, const el_batch_input *input) {
    if (!input || input->count < 1 || !input->values)
        return FAIL(EL_ERR_ARGUMENT, -1, "a batch needs at least one record");
    *e = (encoder){.input = input};
    e->base_timestamp = input->timestamps ? input->timestamps[0] : input->timestamp;
    if (input->number_name) {
        if (input->number_name_size < 0 || !input->numbers)
            return FAIL(EL_ERR_ARGUMENT, -1, "the number column is incomplete");
        e->column_count++;
        e->column_size += column_size(input->number_name_size, NUMBER_SIZE);
    }
    if (input->id_name) {
        if (input->id_name_size < 0 || !input->ids)
            return FAIL(EL_ERR_ARGUMENT, -1, "the id column is incomplete");
        e->column_count++;
        e->column_size += column_size(input->id_name_size, ID_SIZE);
    }
    e->headers_differ = input->headers && !input->headers_are_one;
    if (!header_part_of(e, e->headers_differ ? NULL : input->headers, &e->headers))
        return FAIL(EL_ERR_ARGUMENT, -1, "the headers are malformed");
    return EL_OK;
}

static inline int64_t slice_size(const el_slice *slice) {
    return el_varint_size((int32_t)slice->size) + (slice->size > 0 ? slice->size : 0);
}

/* Nulls of any kind become {NULL, -1}; 0 if the field is too long to be written. */
static inline int normalize(const el_slice *slice, el_slice *out) {
    *out = *slice;
    if (out->size < 0) *out = (el_slice){NULL, -1};
    return out->size <= INT32_MAX;
}

static inline int32_t measure(const encoder *e, int32_t index, measured *record) {
    const el_batch_input *input = e->input;
    record->key = (el_slice){NULL, -1};
    if (!LIKELY(normalize(&input->values[index], &record->value)) ||
        (input->keys && !LIKELY(normalize(&input->keys[input->keys_are_one ? 0 : index],
                                          &record->key))))
        return FAIL_TOO_LARGE(
            record->key.size > INT32_MAX ? record->key.size : record->value.size,
            "record %d of the batch: its key or value is over 2 GiB", index);
    record->headers = e->headers;
    if (e->headers_differ && !LIKELY(header_part_of(e, &input->headers[index], &record->headers)))
        return FAIL(EL_ERR_ARGUMENT, index,
                    "record %d of the batch: the headers are malformed", index);
    record->timestamp_delta =
        input->timestamps ? wrapping_subtract(input->timestamps[index], e->base_timestamp) : 0;
    record->body_size = 1 + el_varlong_size(record->timestamp_delta) + el_varint_size(index) +
                        slice_size(&record->key) + slice_size(&record->value) +
                        el_varint_size(record->headers.count) + record->headers.rest_size +
                        e->column_size;
    return EL_OK;
}

static inline int64_t record_size(const measured *record) {
    return el_varlong_size(record->body_size) + record->body_size;
}

int64_t el_batch_size(const el_batch_input *input) {
    encoder e;
    int32_t rc = encoder_begin(&e, input);
    if (rc) return rc;
    if (!headers_are_sound(e.headers.rest, e.headers.rest + e.headers.rest_size,
                           e.headers.count - e.column_count))
        return FAIL(EL_ERR_ARGUMENT, -1, "the headers are malformed");
    int64_t size = EL_BATCH_HEADER_SIZE;
    for (int32_t i = 0; i < input->count; i++) {
        measured record;
        if ((rc = measure(&e, i, &record))) return rc;
        const header_part *part = &record.headers;
        if (e.headers_differ && !headers_are_sound(part->rest, part->rest + part->rest_size,
                                                   part->count - e.column_count))
            return FAIL(EL_ERR_ARGUMENT, i,
                        "record %d of the batch: the headers are malformed", i);
        size += record_size(&record);
        if (size > BATCH_SIZE_MAX) /* checked each time: the sum itself can then never overflow */
            return FAIL_TOO_LARGE(size, "the first %d of %d records make a batch over 2 GiB", i + 1,
                                  input->count);
    }
    return size;
}

/* memcpy, with keys and small values spared the call. */
static inline uint8_t *put_bytes(uint8_t *out, const uint8_t *data, int64_t size) {
    if (size >= 8 && size <= 16) {
        uint64_t head, tail;
        memcpy(&head, data, 8);
        memcpy(&tail, data + size - 8, 8);
        memcpy(out, &head, 8);
        memcpy(out + size - 8, &tail, 8);
    } else if (size > 0) {
        memcpy(out, data, (size_t)size);
    }
    return out + size;
}

static inline uint8_t *put_slice(uint8_t *out, const el_slice *slice) {
    out = el_varint_write(out, (int32_t)slice->size);
    return slice->size > 0 ? put_bytes(out, slice->data, slice->size) : out;
}

static uint8_t *put_columns(uint8_t *out, const el_batch_input *input, int32_t index) {
    if (input->number_name) {
        out = el_varint_write(out, input->number_name_size);
        out = put_bytes(out, input->number_name, input->number_name_size);
        out = el_varint_write(out, NUMBER_SIZE);
        put_64(out, input->numbers_rise ? (int64_t)((uint64_t)input->numbers[0] + (uint64_t)index)
                                        : input->numbers[index]);
        out += NUMBER_SIZE;
    }
    if (input->id_name) {
        out = el_varint_write(out, input->id_name_size);
        out = put_bytes(out, input->id_name, input->id_name_size);
        out = el_varint_write(out, ID_SIZE);
        if (input->ids_rise) {
            memcpy(out, input->ids, 8);
            put_64(out + 8, (int64_t)((uint64_t)get_64(input->ids + 8) + (uint64_t)index));
        } else {
            memcpy(out, input->ids + (size_t)ID_SIZE * (size_t)index, ID_SIZE);
        }
        out += ID_SIZE;
    }
    return out;
}

static void put_header(uint8_t *out, const encoder *e, int64_t max_timestamp) {
    put_64(out, 0);
    put_32(out + AT_EPOCH, 0);
    out[AT_MAGIC] = MAGIC;
    put_16(out + AT_ATTRIBUTES, 0);
    put_32(out + AT_LAST_OFFSET_DELTA, (uint32_t)(e->input->count - 1));
    put_64(out + AT_BASE_TIMESTAMP, e->base_timestamp);
    put_64(out + AT_MAX_TIMESTAMP, max_timestamp);
    const el_batch_input *input = e->input;
    put_64(out + AT_PRODUCER_ID, input->has_producer ? input->producer_id : -1);
    put_16(out + AT_PRODUCER_EPOCH, input->has_producer ? input->producer_epoch : -1);
    put_32(out + AT_BASE_SEQUENCE, input->has_producer ? (uint32_t)input->base_sequence : UINT32_MAX);
    put_32(out + AT_RECORD_COUNT, (uint32_t)e->input->count);
}

int64_t el_batch_encode_into(const el_batch_input *input, uint8_t *out, int64_t capacity) {
    encoder e;
    int32_t rc = encoder_begin(&e, input);
    if (rc) return rc;
    if (capacity < EL_BATCH_HEADER_SIZE)
        return FAIL(EL_ERR_ARGUMENT, -1, "no room for the batch header");
    if (capacity > BATCH_SIZE_MAX) capacity = BATCH_SIZE_MAX;
    const uint8_t *end = out + capacity;
    uint8_t *at = out + EL_BATCH_HEADER_SIZE;
    int64_t max_timestamp = e.base_timestamp;
    for (int32_t i = 0; i < input->count; i++) {
        measured record;
        if ((rc = measure(&e, i, &record))) return rc;
        if (!LIKELY(record_size(&record) <= end - at))
            return FAIL(EL_ERR_ARGUMENT, i,
                        "the room for the batch is smaller than el_batch_size() says");
        int64_t timestamp = wrapping_add(e.base_timestamp, record.timestamp_delta);
        if (timestamp > max_timestamp) max_timestamp = timestamp;
        at = el_varint_write(at, (int32_t)record.body_size);
        *at++ = 0; /* attributes */
        at = el_varlong_write(at, record.timestamp_delta);
        at = el_varint_write(at, i);
        at = put_slice(at, &record.key);
        at = put_slice(at, &record.value);
        at = el_varint_write(at, record.headers.count);
        at = put_bytes(at, record.headers.rest, record.headers.rest_size);
        if (e.column_count) at = put_columns(at, input, i);
    }
    put_header(out, &e, max_timestamp);
    rc = el_batch_seal(out, at - out - EL_BATCH_HEADER_SIZE, 0);
    return rc ? rc : at - out;
}

void el_batch_header_write(uint8_t *out, const el_batch_header *header) {
    put_64(out, header->base_offset);
    put_32(out + AT_EPOCH, (uint32_t)header->leader_epoch);
    out[AT_MAGIC] = MAGIC;
    put_16(out + AT_ATTRIBUTES, header->attributes);
    put_32(out + AT_LAST_OFFSET_DELTA, (uint32_t)header->last_offset_delta);
    put_64(out + AT_BASE_TIMESTAMP, header->base_timestamp);
    put_64(out + AT_MAX_TIMESTAMP, header->max_timestamp);
    put_64(out + AT_PRODUCER_ID, header->producer_id);
    put_16(out + AT_PRODUCER_EPOCH, header->producer_epoch);
    put_32(out + AT_BASE_SEQUENCE, (uint32_t)header->base_sequence);
    put_32(out + AT_RECORD_COUNT, (uint32_t)header->record_count);
}

void el_batch_set_base_offset(uint8_t *batch, int64_t base_offset) { put_64(batch, base_offset); }

int32_t el_batch_seal(uint8_t *batch, int64_t payload_size, int32_t codec) {
    if (payload_size < 0 || codec < 0 || codec > CODEC_MAX)
        return FAIL(EL_ERR_ARGUMENT, -1,
                    "cannot seal a batch of %lld payload bytes with codec %d",
                    (long long)payload_size, codec);
    if (payload_size > BATCH_SIZE_MAX - EL_BATCH_HEADER_SIZE)
        return FAIL_TOO_LARGE(payload_size, "a batch over 2 GiB");
    int64_t size = EL_BATCH_HEADER_SIZE + payload_size;
    put_32(batch + AT_LENGTH, (uint32_t)(size - EL_BATCH_LOG_OVERHEAD));
    int attributes = (get_16(batch + AT_ATTRIBUTES) & ~CODEC_MASK) | codec;
    put_16(batch + AT_ATTRIBUTES, (int16_t)attributes);
    put_32(batch + AT_CRC, el_crc32c(0, batch + AT_ATTRIBUTES, (size_t)(size - AT_ATTRIBUTES)));
    return EL_OK;
}

/* -- decoding ---------------------------------------------------------------------------------- */

/* What is wrong with the header fields, or NULL. */
static const char *header_fault(const el_batch_header *header) {
    if (header->base_offset < 0) return "negative base offset";
    if (header->last_offset_delta < 0) return "negative last offset delta";
    if (header->base_offset > INT64_MAX - header->last_offset_delta)
        return "offsets beyond the range of int64";
    if (header->record_count < 0) return "negative record count";
    if (header->record_count > (int64_t)header->last_offset_delta + 1)
        return "more records than offsets";
    int codec = el_batch_codec(header);
    if (codec > CODEC_MAX) return "unknown compression codec";
    if (codec == 0 &&
        header->record_count > (header->size_bytes - EL_BATCH_HEADER_SIZE) / RECORD_SIZE_MIN)
        return "more records than its bytes can hold";
    return NULL;
}

int32_t el_batch_header_read(const uint8_t *data, int64_t size, el_batch_header *out) {
    if (size < EL_BATCH_HEADER_SIZE)
        return FAIL(EL_ERR_SHORT, -1,
                    "the bytes end inside a batch header (%lld of %d)", (long long)size,
                    EL_BATCH_HEADER_SIZE);
    int64_t length = (int32_t)get_32(data + AT_LENGTH);
    int64_t size_bytes = length + EL_BATCH_LOG_OVERHEAD;
    *out = (el_batch_header){
        .base_offset = get_64(data),
        .size_bytes = size_bytes > INT32_MAX ? INT32_MAX : (int32_t)size_bytes,
        .leader_epoch = (int32_t)get_32(data + AT_EPOCH),
        .crc = get_32(data + AT_CRC),
        .attributes = get_16(data + AT_ATTRIBUTES),
        .last_offset_delta = (int32_t)get_32(data + AT_LAST_OFFSET_DELTA),
        .base_timestamp = get_64(data + AT_BASE_TIMESTAMP),
        .max_timestamp = get_64(data + AT_MAX_TIMESTAMP),
        .producer_id = get_64(data + AT_PRODUCER_ID),
        .producer_epoch = get_16(data + AT_PRODUCER_EPOCH),
        .base_sequence = (int32_t)get_32(data + AT_BASE_SEQUENCE),
        .record_count = (int32_t)get_32(data + AT_RECORD_COUNT),
    };
    if (data[AT_MAGIC] != MAGIC)
        return FAIL(EL_ERR_CORRUPT, -1, "no record batch: magic %d instead of 2",
                    data[AT_MAGIC]);
    if (length < EL_BATCH_HEADER_SIZE - EL_BATCH_LOG_OVERHEAD || size_bytes > INT32_MAX)
        return FAIL(EL_ERR_CORRUPT, -1, "impossible batch length %lld",
                    (long long)length);
    const char *fault = header_fault(out);
    if (fault) return FAIL(EL_ERR_CORRUPT, -1, "batch header: %s", fault);
    if (size_bytes > size)
        return FAIL(EL_ERR_SHORT, out->base_offset,
                    "the bytes end inside a batch (%lld of %lld)", (long long)size,
                    (long long)size_bytes);
    return EL_OK;
}

int32_t el_batch_verify(const uint8_t *data, int64_t size, el_batch_header *out) {
    int32_t rc = el_batch_header_read(data, size, out);
    if (rc) return rc;
    uint32_t crc =
        el_crc32c(0, data + AT_ATTRIBUTES, (size_t)out->size_bytes - AT_ATTRIBUTES);
    if (crc != out->crc)
        return FAIL(EL_ERR_CORRUPT, out->base_offset,
                    "batch of %d bytes: CRC-32C is %08x, its header says %08x",
                    out->size_bytes, crc, out->crc);
    return EL_OK;
}

static __attribute__((cold, noinline)) int32_t record_is_bad(const el_batch_header *header,
                                                            int64_t position, const char *what) {
    return FAIL(EL_ERR_CORRUPT, header->base_offset,
                "record at byte %lld of its batch: %s",
                (long long)position + EL_BATCH_HEADER_SIZE, what);
}

/* A key or value: its bytes, or NULL with size -1. */
static inline const uint8_t *field_read(const uint8_t *in, const uint8_t *end,
                                        const uint8_t **data, int64_t *size) {
    int32_t length;
    in = el_varint_read(in, end, &length);
    if (!in || length < -1 || length > end - in) return NULL;
    *size = length;
    *data = length < 0 ? NULL : in;
    return length < 0 ? in : in + length;
}

int32_t el_record_read(const el_batch_header *header, const uint8_t *records, int64_t size,
                       int64_t *position, el_view *view) {
    int64_t begin = *position;
    if (size > INT32_MAX - EL_BATCH_HEADER_SIZE)
        return record_is_bad(header, begin, "the records of the batch take over 2 GiB");
    if (begin < 0 || begin >= size) return record_is_bad(header, begin, "missing");
    int32_t length, offset_delta, header_count;
    int64_t timestamp_delta;
    const uint8_t *end = records + size;
    const uint8_t *in = el_varint_read(records + begin, end, &length);
    if (!in || length < 1 || length > end - in)
        return record_is_bad(header, begin, "its length is impossible");
    end = in + length;
    in++; /* attributes: none are defined */
    if (!(in = el_varlong_read(in, end, &timestamp_delta)) ||
        !(in = el_varint_read(in, end, &offset_delta)))
        return record_is_bad(header, begin, "its time or offset is malformed");
    if (offset_delta < 0 || offset_delta > header->last_offset_delta)
        return record_is_bad(header, begin, "its offset is outside the batch's range");
    if (!(in = field_read(in, end, &view->key, &view->key_size)))
        return record_is_bad(header, begin, "its key is malformed");
    if (!(in = field_read(in, end, &view->value, &view->value_size)))
        return record_is_bad(header, begin, "its value is malformed");
    view->headers = in;
    view->headers_size = end - in;
    if (!(in = el_varint_read(in, end, &header_count)) || !headers_are_sound(in, end, header_count))
        return record_is_bad(header, begin, "its headers are malformed or bytes are left over");
    view->offset = header->base_offset + offset_delta;
    view->timestamp = el_batch_is_log_append_time(header)
                          ? header->max_timestamp
                          : wrapping_add(header->base_timestamp, timestamp_delta);
    view->record_position = (int32_t)begin + EL_BATCH_HEADER_SIZE;
    view->unused = 0;
    *position = end - records;
    return EL_OK;
}

/* -- for Python -------------------------------------------------------------------------------- */

int32_t el_batch_compressed(char *batch, int64_t size, int32_t codec) {
    if (!batch || size < EL_BATCH_HEADER_SIZE)
        return FAIL(EL_ERR_ARGUMENT, -1, "%lld bytes are no batch",
                    (long long)size);
    return el_batch_seal((uint8_t *)batch, size - EL_BATCH_HEADER_SIZE, codec);
}

int64_t el_batch_check(const char *data, int64_t size, int64_t *fields) {
    el_batch_header header;
    int32_t rc = el_batch_verify((const uint8_t *)data, size, &header);
    if (rc) return rc;
    if (fields) {
        int64_t values[13] = {
            header.base_offset,    header.size_bytes,     header.leader_epoch,
            header.crc,            header.attributes,     header.last_offset_delta,
            header.base_timestamp, header.max_timestamp,  header.producer_id,
            header.producer_epoch, header.base_sequence,  header.record_count,
            el_batch_codec(&header),
        };
        memcpy(fields, values, sizeof values);
    }
    return header.size_bytes;
}

int64_t el_batch_decode(const char *data, int64_t size, el_view *views, int64_t capacity) {
    const uint8_t *batch = (const uint8_t *)data;
    el_batch_header header;
    int32_t rc = el_batch_verify(batch, size, &header);
    if (rc) return rc;
    if (el_batch_codec(&header))
        return FAIL(EL_ERR_ARGUMENT, header.base_offset,
                    "the batch is compressed (codec %d): decompress its payload first",
                    el_batch_codec(&header));
    int64_t count = header.record_count < capacity ? header.record_count : capacity;
    int64_t records_size = header.size_bytes - EL_BATCH_HEADER_SIZE, position = 0;
    for (int64_t i = 0; i < count; i++) {
        rc = el_record_read(&header, batch + EL_BATCH_HEADER_SIZE, records_size, &position,
                            &views[i]);
        if (rc) return rc;
        views[i].batch_position = 0;
    }
    if (count == header.record_count && position != records_size)
        return record_is_bad(&header, position, "bytes are left over behind the last record");
    return count < 0 ? 0 : count;
}

/* MurmurHash2, 32 bits, with the seed of Kafka's default partitioner. */
uint32_t el_murmur2(const char *data, int64_t size) {
    const uint32_t factor = 0x5bd1e995;
    const uint8_t *in = (const uint8_t *)data;
    uint32_t hash = 0x9747b28cu ^ (uint32_t)size;
    for (; size >= 4; size -= 4, in += 4) {
        uint32_t word;
        memcpy(&word, in, 4);
        word = LITTLE_32(word) * factor;
        word = (word ^ word >> 24) * factor;
        hash = hash * factor ^ word;
    }
    if (size > 0) {
        for (int64_t i = size - 1; i >= 0; i--) hash ^= (uint32_t)in[i] << (8 * i);
        hash *= factor;
    }
    hash = (hash ^ hash >> 13) * factor;
    return hash ^ hash >> 15;
}
