/* varint.h: Kafka's zig-zag varints (protobuf's), seven bits a byte, least significant group first.
 *
 * Writing is unchecked: the caller has measured. Reading is bounded: it never looks at or past
 * `end`, and answers NULL for bytes that end inside the number or hold more than its type can.
 */
#ifndef EL_VARINT_H
#define EL_VARINT_H

#include <stddef.h>
#include <stdint.h>

#define EL_VARINT_SIZE_MAX 5
#define EL_VARLONG_SIZE_MAX 10

static inline uint32_t el_zigzag32(int32_t value) {
    return ((uint32_t)value << 1) ^ (value < 0 ? UINT32_MAX : 0);
}

static inline uint64_t el_zigzag64(int64_t value) {
    return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0);
}

static inline int64_t el_unzigzag(uint64_t coded) {
    return (int64_t)((coded >> 1) ^ (0 - (coded & 1)));
}

/* Bytes that `coded` takes: ceil(bits / 7), with at least one bit. (9 * bits + 64) / 64 is that
 * quotient for every bits in 1..64, without a division or a branch. */
static inline int el_varint_coded_size(uint64_t coded) {
    int bits = 64 - __builtin_clzll(coded | 1);
    return (bits * 9 + 64) >> 6;
}

static inline int el_varint_size(int32_t value) { return el_varint_coded_size(el_zigzag32(value)); }

static inline int el_varlong_size(int64_t value) {
    return el_varint_coded_size(el_zigzag64(value));
}

/* Lengths below 64 take one byte and below 8192 two: those are nearly all there are. */
static inline uint8_t *el_varint_write_coded(uint8_t *out, uint64_t coded) {
    if (coded < 0x80) {
        out[0] = (uint8_t)coded;
        return out + 1;
    }
    if (coded < 0x4000) {
        out[0] = (uint8_t)(coded | 0x80);
        out[1] = (uint8_t)(coded >> 7);
        return out + 2;
    }
    do {
        *out++ = (uint8_t)(coded | 0x80);
        coded >>= 7;
    } while (coded >= 0x80);
    *out++ = (uint8_t)coded;
    return out;
}

static inline uint8_t *el_varint_write(uint8_t *out, int32_t value) {
    return el_varint_write_coded(out, el_zigzag32(value));
}

static inline uint8_t *el_varlong_write(uint8_t *out, int64_t value) {
    return el_varint_write_coded(out, el_zigzag64(value));
}

/* The general case: any length, numbers up to `value_max`. */
static inline const uint8_t *el_varint_read_coded(const uint8_t *in, const uint8_t *end,
                                                  uint64_t value_max, uint64_t *coded) {
    uint64_t value = 0;
    for (int shift = 0; in < end && shift < 7 * EL_VARLONG_SIZE_MAX; shift += 7) {
        uint8_t byte = *in++;
        uint64_t group = byte & 0x7f;
        if (group > value_max >> shift) return NULL;
        value |= group << shift;
        if (byte < 0x80) {
            *coded = value;
            return in;
        }
        /* a byte more would stand wholly above the type: refused even if it is zero */
        if (shift + 7 > 63 || value_max >> (shift + 7) == 0) return NULL;
    }
    return NULL;
}

/* Read a varint / varlong at `in`. Returns the place behind it, or NULL. */
static inline const uint8_t *el_varint_read(const uint8_t *in, const uint8_t *end,
                                            int32_t *value) {
    uint64_t coded;
    if (__builtin_expect(in < end && in[0] < 0x80, 1)) {
        coded = in[0];
        in += 1;
    } else if (__builtin_expect(end - in >= 2 && in[1] < 0x80, 1)) {
        coded = (uint64_t)(in[0] & 0x7f) | (uint64_t)in[1] << 7;
        in += 2;
    } else {
        in = el_varint_read_coded(in, end, UINT32_MAX, &coded);
        if (!in) return NULL;
    }
    *value = (int32_t)el_unzigzag(coded);
    return in;
}

static inline const uint8_t *el_varlong_read(const uint8_t *in, const uint8_t *end,
                                             int64_t *value) {
    uint64_t coded;
    if (__builtin_expect(in < end && in[0] < 0x80, 1)) {
        coded = in[0];
        in += 1;
    } else {
        in = el_varint_read_coded(in, end, UINT64_MAX, &coded);
        if (!in) return NULL;
    }
    *value = el_unzigzag(coded);
    return in;
}

#endif
