/* crc32c.c: CRC-32C (Castagnoli), by the fastest route that this processor has.
 *
 * Arithmetic. A message is a polynomial over GF(2), its first bit the highest power; the CRC is
 * message * x^32 mod P. CRC-32C is bit-reflected: a 32-bit register holds x^0 in bit 31 and x^31
 * in bit 0, a 64-bit word x^0 in bit 63, and so on. Two consequences carry everything below.
 *
 * 1. CRCs are linear. With `step(r, w)` = (r + w) * x^32 mod P for an 8-byte word w (the CRC
 *    instruction), the CRC of A followed by n bytes B is crc(A) * x^(8n) + crc(B). So lanes can
 *    run side by side and be put together by one multiplication each with a power of x.
 * 2. A carry-less product of reflected words comes out one bit low: as a reflected 64-bit word,
 *    clmul(a, b) of two 32-bit values means a * b * x; as a reflected 128-bit word, that of two
 *    64-bit values also means a * b * x. The exponents of the constants make up for it.
 *
 * All constants are powers of x mod P, computed once when the route is chosen (x_power), so there
 * is no table of magic numbers to trust. CRCs in this file are "raw" registers, without the
 * inversion at both ends; only run() knows of it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "batch.h"

#define POLYNOMIAL 0x82f63b78u /* P without x^32, reflected */
/* P = (x + 1) * a primitive polynomial of degree 31, hence x^(2^31 - 1) = 1 mod P */
#define ORDER_OF_X ((int64_t)0x7fffffff)

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_LANES 1
#define HAVE_WIDE 1
#define LANES_NAME "sse4.2"
#define LANES_TARGET __attribute__((target("sse4.2,pclmul")))
#define WIDE_NAME "avx512"
#define WIDE_TARGET \
    __attribute__((target("sse4.2,pclmul,avx512f,avx512bw,avx512vbmi,vpclmulqdq,bmi2")))
#elif defined(__aarch64__) && defined(__linux__) && defined(__AARCH64EL__)
#include <arm_acle.h>
#include <arm_neon.h>
#include <sys/auxv.h>
#define HAVE_LANES 1
#define LANES_NAME "armv8"
#define LANES_TARGET __attribute__((target("+crc+crypto")))
#ifndef HWCAP_PMULL
#define HWCAP_PMULL (1 << 4)
#endif
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

#define INLINE static inline __attribute__((always_inline))

typedef uint32_t (*route_function)(uint32_t raw, const uint8_t *data, size_t size);

/* -- powers of x ------------------------------------------------------------------------------ */

static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) { /* from x^0 upwards */
        if (b & bit) product ^= a;
        a = (a >> 1) ^ (a & 1 ? POLYNOMIAL : 0); /* a *= x */
    }
    return product;
}

/* x^exponent mod P; the exponent may be negative, as x has an inverse. */
static uint32_t x_power(int64_t exponent) {
    if (exponent < 0) exponent += ORDER_OF_X;
    uint32_t result = 1u << 31, square = 1u << 30; /* x^0, x^1 */
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = multiply(result, square);
        square = multiply(square, square);
    }
    return result;
}

/* -- any processor: eight bytes a step, by tables --------------------------------------------- */

static uint32_t table[8][256]; /* table[k][b]: the byte b, followed by k zero bytes */

static void table_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++)
        table[0][byte] = multiply(byte, x_power(8)); /* the register 0x000000bb, a byte further */
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = table[k - 1][byte];
            table[k][byte] = (before >> 8) ^ table[0][before & 0xff];
        }
}

static uint32_t table_run(uint32_t raw, const uint8_t *data, size_t size) {
    for (; size >= 8; size -= 8, data += 8) {
        raw ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
               (uint32_t)data[3] << 24;
        raw = table[7][raw & 0xff] ^ table[6][raw >> 8 & 0xff] ^ table[5][raw >> 16 & 0xff] ^
              table[4][raw >> 24] ^ table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^
              table[0][data[7]];
    }
    for (; size; size--) raw = (raw >> 8) ^ table[0][(raw ^ *data++) & 0xff];
    return raw;
}

/* -- CRC instruction: three lanes, as its latency is three times its throughput ---------------- */

#ifdef HAVE_LANES

#define LANE_WORDS_MAX 128
#define LANE_WORDS_MIN 4 /* below, putting the lanes together costs more than it saves */

/* Multiplying by these and then stepping moves a CRC over `words` resp. 2 * words words. */
static struct {
    uint32_t over_one, over_two;
} lane_shift[LANE_WORDS_MAX + 1];

static void lanes_prepare(void) {
    for (int words = 1; words <= LANE_WORDS_MAX; words++) {
        /* clmul brings x, the step x^32: the constant has 33 powers less */
        lane_shift[words].over_one = x_power(64 * words - 33);
        lane_shift[words].over_two = x_power(128 * words - 33);
    }
}

#if defined(__x86_64__)

LANES_TARGET INLINE uint64_t step_1(uint64_t raw, uint8_t byte) {
    return _mm_crc32_u8((uint32_t)raw, byte);
}

LANES_TARGET INLINE uint64_t step_8(uint64_t raw, uint64_t word) {
    return _mm_crc32_u64(raw, word);
}

LANES_TARGET INLINE uint64_t carryless(uint64_t a, uint64_t b) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a),
                                           _mm_cvtsi64_si128((long long)b), 0);
    return (uint64_t)_mm_cvtsi128_si64(product);
}

static int lanes_available(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

#else

LANES_TARGET INLINE uint64_t step_1(uint64_t raw, uint8_t byte) {
    return __crc32cb((uint32_t)raw, byte);
}

LANES_TARGET INLINE uint64_t step_8(uint64_t raw, uint64_t word) {
    return __crc32cd((uint32_t)raw, word);
}

LANES_TARGET INLINE uint64_t carryless(uint64_t a, uint64_t b) {
    return vgetq_lane_u64(vreinterpretq_u64_p128(vmull_p64(a, b)), 0);
}

static int lanes_available(void) {
    unsigned long has = getauxval(AT_HWCAP);
    return (has & HWCAP_CRC32) && (has & HWCAP_PMULL);
}

#endif

INLINE uint64_t load_8(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

LANES_TARGET static uint32_t lanes_run(uint32_t raw, const uint8_t *data, size_t size) {
    uint64_t a = raw;
    while (size >= 24 * LANE_WORDS_MIN) {
        size_t words = size / 24 < LANE_WORDS_MAX ? size / 24 : LANE_WORDS_MAX;
        uint64_t b = 0, c = 0;
        const uint8_t *end = data + 8 * words;
        for (; data < end; data += 8) {
            a = step_8(a, load_8(data));
            b = step_8(b, load_8(data + 8 * words));
            c = step_8(c, load_8(data + 16 * words));
        }
        a = step_8(0, carryless(a, lane_shift[words].over_two) ^
                          carryless(b, lane_shift[words].over_one)) ^ c;
        data += 16 * words;
        size -= 24 * words;
    }
    for (; size >= 8; size -= 8, data += 8) a = step_8(a, load_8(data));
    for (; size; size--) a = step_1(a, *data++);
    return (uint32_t)a;
}

#endif

/* -- AVX-512: carry-less multiplication of 64 bytes at once ------------------------------------ */

#ifdef HAVE_WIDE

/* A chunk is 64 bytes: four 128-bit lanes, each a low word of the higher and a high word of the
 * lower 64 powers. A lane that has D bits behind it in the message counts for
 *     low * x^(D + 64) + high * x^D,
 * so multiplying both words by these constants (less one power, which clmul brings) moves it to
 * the message's end, where any number of lanes can be added up. D = 0 is no exception. */
#define CHUNK 64
#define CHUNKS_DIRECT 16 /* up to so many are each moved to the end in one go */
#define CHUNKS_FOLDED 8  /* a longer message is first folded into so many */

typedef uint64_t chunk_shift[8] __attribute__((aligned(64)));

static chunk_shift to_end[CHUNKS_DIRECT]; /* [n]: of a chunk with n chunks behind it */
static chunk_shift over_one_chunk;        /* to the same lane of the next chunk */
static chunk_shift over_folded;           /* ... of the chunk CHUNKS_FOLDED further */

static void shift_of(uint64_t *low_high, int64_t bits) {
    low_high[0] = (uint64_t)x_power(bits + 63) << 32; /* 64-bit reflected: x^0 in bit 63 */
    low_high[1] = (uint64_t)x_power(bits - 1) << 32;
}

static void wide_prepare(void) {
    for (int lane = 0; lane < 4; lane++) {
        for (int chunks = 0; chunks < CHUNKS_DIRECT; chunks++)
            shift_of(&to_end[chunks][2 * lane], 512 * chunks + 128 * (3 - lane));
        shift_of(&over_one_chunk[2 * lane], 512);
        shift_of(&over_folded[2 * lane], 512 * CHUNKS_FOLDED);
    }
}

static int wide_available(void) {
    return lanes_available() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("bmi2");
}

/* chunk moved by `shift`, plus sum */
WIDE_TARGET INLINE __m512i moved(__m512i sum, __m512i chunk, __m512i shift) {
    return _mm512_ternarylogic_epi64(sum, _mm512_clmulepi64_epi128(chunk, shift, 0x00),
                                     _mm512_clmulepi64_epi128(chunk, shift, 0x11), 0x96);
}

WIDE_TARGET INLINE __m512i with_raw(__m512i chunk, uint32_t raw) {
    return _mm512_xor_si512(chunk, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)raw)));
}

/* The first `size` (4..63) bytes and the CRC before them as a chunk that begins with zeros: those
 * change nothing, so that a message of any length is whole chunks with the odd one in front. */
WIDE_TARGET INLINE __m512i odd_chunk(uint32_t raw, const uint8_t *data, size_t size) {
    static const uint8_t iota[64] __attribute__((aligned(64))) = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    __m512i chunk = _mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, (unsigned)size), data);
    __m512i rotation = _mm512_add_epi8(_mm512_load_si512(iota), _mm512_set1_epi8((char)size));
    return _mm512_permutexvar_epi8(rotation, with_raw(chunk, raw));
}

WIDE_TARGET INLINE uint32_t wide_finish(__m512i sum) {
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(sum),
                                    _mm512_extracti64x4_epi64(sum, 1));
    __m128i lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    uint64_t low = (uint64_t)_mm_cvtsi128_si64(lane);
    uint64_t high = (uint64_t)_mm_extract_epi64(lane, 1);
    /* Said by hand: gcc leaves it out behind a function with a vector argument, and SSE code that
     * then runs on dirty upper halves costs a record batch 150 ns. */
    _mm256_zeroupper();
    return (uint32_t)step_8(step_8(0, low), high);
}

/* More than CHUNKS_DIRECT chunks; `first` stands for the one at data. */
WIDE_TARGET static uint32_t wide_fold(__m512i first, const uint8_t *data, size_t chunks) {
    __m512i folded[CHUNKS_FOLDED];
    folded[0] = first;
#pragma GCC unroll 8 /* unrolled, the array lives in registers */
    for (int i = 1; i < CHUNKS_FOLDED; i++) folded[i] = _mm512_loadu_si512(data + CHUNK * i);
    data += CHUNK * CHUNKS_FOLDED;
    chunks -= CHUNKS_FOLDED;
    __m512i shift = _mm512_load_si512(over_folded);
    for (; chunks >= CHUNKS_FOLDED; chunks -= CHUNKS_FOLDED, data += CHUNK * CHUNKS_FOLDED)
#pragma GCC unroll 8
        for (int i = 0; i < CHUNKS_FOLDED; i++)
            folded[i] = moved(_mm512_loadu_si512(data + CHUNK * i), folded[i], shift);
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (size_t i = 0; i < CHUNKS_FOLDED; i++)
        sum = moved(sum, folded[i], _mm512_load_si512(to_end[CHUNKS_FOLDED + chunks - 1 - i]));
    for (; chunks; chunks--, data += CHUNK)
        sum = moved(sum, _mm512_loadu_si512(data), _mm512_load_si512(to_end[chunks - 1]));
    return wide_finish(sum);
}

WIDE_TARGET static uint32_t wide_run(uint32_t raw, const uint8_t *data, size_t size) {
    if (size < CHUNK) return lanes_run(raw, data, size);
    size_t chunks = size / CHUNK, odd = size % CHUNK;
    if (odd < 4) /* too short to take up the CRC */
        for (; odd; odd--) raw = (uint32_t)step_1(raw, *data++);
    __m512i sum = _mm512_setzero_si512(), first;
    if (odd) {
        __m512i before = odd_chunk(raw, data, odd);
        data += odd;
        first = _mm512_loadu_si512(data);
        if (chunks >= CHUNKS_DIRECT)
            first = moved(first, before, _mm512_load_si512(over_one_chunk));
        else
            sum = moved(sum, before, _mm512_load_si512(to_end[chunks]));
    } else {
        first = with_raw(_mm512_loadu_si512(data), raw);
    }
    if (chunks > CHUNKS_DIRECT) return wide_fold(first, data, chunks);
    sum = moved(sum, first, _mm512_load_si512(to_end[chunks - 1]));
    while (--chunks) {
        data += CHUNK;
        sum = moved(sum, _mm512_loadu_si512(data), _mm512_load_si512(to_end[chunks - 1]));
    }
    return wide_finish(sum);
}

#endif

/* -- choice of the route ----------------------------------------------------------------------- */

static int always(void) { return 1; }

/* From the plainest to the fastest. */
static const struct {
    const char *name;
    int (*available)(void);
    void (*prepare)(void);
    route_function run;
} routes[] = {
    {"table", always, table_prepare, table_run},
#ifdef HAVE_LANES
    {LANES_NAME, lanes_available, lanes_prepare, lanes_run},
#endif
#ifdef HAVE_WIDE
    {WIDE_NAME, wide_available, wide_prepare, wide_run},
#endif
};

#define ROUTE_COUNT ((int32_t)(sizeof routes / sizeof routes[0]))

static uint32_t choose_and_run(uint32_t raw, const uint8_t *data, size_t size);

static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static int route_is_available[ROUTE_COUNT];
static int32_t route_in_use;
static _Atomic(route_function) run_in_use = choose_and_run;

static void prepare_all(void) {
    for (int32_t route = 0; route < ROUTE_COUNT; route++) {
        if (!routes[route].available()) continue;
        routes[route].prepare();
        route_is_available[route] = 1;
        route_in_use = route;
    }
    atomic_store_explicit(&run_in_use, routes[route_in_use].run, memory_order_release);
}

static uint32_t choose_and_run(uint32_t raw, const uint8_t *data, size_t size) {
    pthread_once(&prepared, prepare_all);
    return routes[route_in_use].run(raw, data, size);
}

uint32_t el_crc32c(uint32_t crc, const void *data, size_t size) {
    route_function run = atomic_load_explicit(&run_in_use, memory_order_acquire);
    return ~run(~crc, data, size);
}

uint32_t el_crc32c_of(const char *data, int64_t size) {
    return el_crc32c(0, data, size > 0 ? (size_t)size : 0);
}

uint32_t el_crc32c_route(int32_t route, const char *data, int64_t size, int32_t *available) {
    pthread_once(&prepared, prepare_all);
    *available = route >= 0 && route < ROUTE_COUNT && route_is_available[route];
    if (!*available) return 0;
    return ~routes[route].run(~0u, (const uint8_t *)data, size > 0 ? (size_t)size : 0);
}

const char *el_crc32c_route_name(int32_t route) {
    pthread_once(&prepared, prepare_all);
    if (route == -1) return routes[route_in_use].name;
    return route >= 0 && route < ROUTE_COUNT ? routes[route].name : NULL;
}
