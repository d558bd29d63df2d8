/* batch.h: RecordBatch v2, bytes in, bytes out. Knows nothing of files, partitions or Python. */
#ifndef EL_BATCH_H
#define EL_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define EL_BATCH_HEADER_SIZE 61
#define EL_BATCH_LOG_OVERHEAD 12 /* baseOffset + batchLength */

/* One field of one record. data == NULL with size < 0 is Kafka's null; size 0 is empty. */
typedef struct {
    const uint8_t *data;
    int64_t size;
} el_slice;

/* What is to be encoded. Arrays hold `count` items unless said otherwise. */
typedef struct {
    int32_t count;            /* 1 .. 2^31-1 records */
    const el_slice *values;   /* never NULL */
    const el_slice *keys;     /* NULL: all null */
    int keys_are_one;         /* keys points at a single slice that serves every record */
    const el_slice *headers;  /* NULL: none. Each slice: `varint count` + the encoded headers */
    int headers_are_one;
    const int64_t *timestamps; /* NULL: `timestamp` for all */
    int64_t timestamp;
    /* Two header columns that C writes itself, behind those of `headers` (their count is added). */
    const uint8_t *number_name; /* NULL: none. Value: numbers[i] (or, rising, numbers[0] + i) as 8
                                 * bytes big-endian */
    int32_t number_name_size;
    const int64_t *numbers;
    int numbers_rise;
    const uint8_t *id_name; /* NULL: none. Value: the 16 bytes at ids + 16*i, or, rising, those at ids
                             * with i added to their last 8 */
    int32_t id_name_size;
    const uint8_t *ids;
    int ids_rise;
    int has_producer; /* the three below count; else all are -1 */
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
} el_batch_input;

/* A batch header, decoded. */
typedef struct {
    int64_t base_offset;
    int32_t size_bytes; /* of the whole batch, header included */
    int32_t leader_epoch;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
} el_batch_header;

/* Exact size of the encoded batch in bytes, or EL_ERR_TOO_LARGE (> INT32_MAX) / EL_ERR_ARGUMENT. */
int64_t el_batch_size(const el_batch_input *input);

/* Encode into out[0..capacity); capacity >= el_batch_size(). Base offset 0, epoch 0, CreateTime,
 * no compression. Returns the size, or an error code. */
int64_t el_batch_encode_into(const el_batch_input *input, uint8_t *out, int64_t capacity);

/* Offset and epoch lie outside the CRC: set in place. */
void el_batch_set_base_offset(uint8_t *batch, int64_t base_offset);

/* Decode and check the fixed header of the batch that starts at data[0]; at most `size` bytes may
 * be read. EL_OK; EL_ERR_SHORT: the header or the batch reaches past `size` (out is filled as far
 * as the header goes if size >= 61); EL_ERR_CORRUPT: magic != 2, a length under 49, a negative or
 * impossible count/delta (count > last_offset_delta+1, base+delta overflow, count > bytes allow
 * for uncompressed), unknown codec (>4). Does not look at the CRC. */
int32_t el_batch_header_read(const uint8_t *data, int64_t size, el_batch_header *out);

/* header_read + CRC over bytes 21..end. EL_OK, EL_ERR_SHORT or EL_ERR_CORRUPT. */
int32_t el_batch_verify(const uint8_t *data, int64_t size, el_batch_header *out);

static inline int el_batch_codec(const el_batch_header *h) { return h->attributes & 7; }
static inline int el_batch_is_control(const el_batch_header *h) { return (h->attributes >> 5) & 1; }
static inline int el_batch_is_log_append_time(const el_batch_header *h) { return (h->attributes >> 3) & 1; }

/* Walk records. `records`/`size`: the record bytes (after the 61-byte header, or the decompressed
 * blob). Decodes the record that begins at *position into *view (offset, timestamp, key, value,
 * headers slice beginning at the header count) and moves *position behind it. EL_OK or
 * EL_ERR_CORRUPT (any varint longer than its type, any length past its record, attributes aside,
 * negative header count, header key null, offset delta outside 0..last_offset_delta, bytes left
 * over inside the record). */
int32_t el_record_read(const el_batch_header *header, const uint8_t *records, int64_t size,
                       int64_t *position, el_view *view);

/* The 61 bytes of a header as the fields say, apart from length and CRC: seal it then. */
void el_batch_header_write(uint8_t *out, const el_batch_header *header);

/* Recompute length and CRC after the payload was replaced by a compressed one: `batch` is the
 * 61-byte header of an encoded batch followed by payload_size bytes already in place. */
int32_t el_batch_seal(uint8_t *batch, int64_t payload_size, int32_t codec);

/* The value of header `name` as a big-endian unsigned number (1..8 bytes), or `missing`. */
int64_t el_header_number(const uint8_t *headers, int64_t size, const uint8_t *name,
                         int32_t name_size, int64_t missing);

/* CRC-32C (Castagnoli). `crc` is 0 to begin; result chains. Route chosen at first use. */
uint32_t el_crc32c(uint32_t crc, const void *data, size_t size);

#endif
