/* fuzz_batch.c: hostile bytes into everything of batch.h that reads bytes.
 *
 * Input: one byte of options, then what pretends to be a batch. Options bit 0 makes length, magic
 * and CRC right, so that the bytes behind them are reached at all; bit 1 makes the record count so
 * small that it is possible. Besides what the sanitizers watch, these must hold:
 *   - what a record's view points at lies inside the batch, its offset inside the batch's range;
 *   - a batch that can be decoded can be encoded again from its views, and decodes to the same;
 *   - a CRC made in two steps equals one made at once, and every route of this processor agrees.
 *
 * Two builds: with -DFUZZ_LIBFUZZER for clang's libFuzzer; else with the main() at the end, a small
 * mutation driver that any compiler can build:
 *     fuzz_batch run SECONDS SEED [FINDING] | corpus DIRECTORY SEED | replay FILE
 * With EVENTLOG_FUZZ_CANARY set, the target reads past its buffer as soon as it has decoded a key
 * in a second record: a harness that does not report this is dead (tools/fuzz.py asks it first).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "batch.h"

#define RECORDS_MAX 256
#define INPUT_SIZE_MAX 4096
#define OPTION_MAKE_SOUND 1
#define OPTION_LOWER_COUNT 2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "FINDING: %s\n", what);
    abort();
}

/* -- the target -------------------------------------------------------------------------------- */

static void put_be32(uint8_t *out, uint32_t value) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void make_sound(uint8_t *batch, size_t size, int lower_count) {
    put_be32(batch + 8, (uint32_t)size - EL_BATCH_LOG_OVERHEAD);
    batch[16] = 2;
    if (lower_count) {
        memset(batch + 57, 0, 3);
        memset(batch, 0, 4); /* the base offset cannot overflow then */
        batch[23] &= 0x7f;
        if (batch[57 + 3] > batch[23 + 3]) batch[23 + 2] |= 1;
    }
    put_be32(batch + 17, el_crc32c(0, batch + 21, size - 21));
}

static void check_crc(const uint8_t *data, size_t size) {
    size_t cut = size ? data[0] * size / 256 : 0;
    uint32_t crc = el_crc32c(0, data, size);
    require(el_crc32c(el_crc32c(0, data, cut), data + cut, size - cut) == crc, "CRC in two steps");
    for (int32_t route = 0; el_crc32c_route_name(route); route++) {
        int32_t available;
        uint32_t other = el_crc32c_route(route, (const char *)data, (int64_t)size, &available);
        require(!available || other == crc, "a CRC route disagrees");
    }
}

static int inside(const uint8_t *part, int64_t part_size, const uint8_t *whole, int64_t size) {
    return part >= whole && part_size >= 0 && part_size <= size && part - whole <= size - part_size;
}

static void check_view(const el_view *view, const el_batch_header *header, const uint8_t *batch) {
    require(view->offset >= header->base_offset &&
                view->offset <= header->base_offset + header->last_offset_delta,
            "an offset outside the batch");
    require(view->key_size == -1 || inside(view->key, view->key_size, batch, header->size_bytes),
            "a key outside the batch");
    require(view->value_size == -1 ||
                inside(view->value, view->value_size, batch, header->size_bytes),
            "a value outside the batch");
    require(view->headers_size > 0 &&
                inside(view->headers, view->headers_size, batch, header->size_bytes),
            "headers outside the batch");
    require(view->record_position >= EL_BATCH_HEADER_SIZE &&
                view->record_position < header->size_bytes,
            "a record outside the batch");
}

/* Decode as many of the records as go; -1 if one is malformed. */
static int32_t walk(const uint8_t *batch, const el_batch_header *header, el_view *views) {
    int64_t position = 0, size = header->size_bytes - EL_BATCH_HEADER_SIZE;
    int32_t count = header->record_count < RECORDS_MAX ? header->record_count : RECORDS_MAX;
    for (int32_t i = 0; i < count; i++) {
        int64_t before = position;
        if (el_record_read(header, batch + EL_BATCH_HEADER_SIZE, size, &position, &views[i]))
            return -1;
        require(position > before && position <= size, "the position does not advance");
        check_view(&views[i], header, batch);
    }
    return count;
}

static int same_bytes(const uint8_t *a, int64_t a_size, const uint8_t *b, int64_t b_size) {
    return a_size == b_size && (a_size <= 0 || memcmp(a, b, (size_t)a_size) == 0);
}

static void check_encodes_again(const el_view *views, int32_t count) {
    static el_slice keys[RECORDS_MAX], values[RECORDS_MAX], headers[RECORDS_MAX];
    static int64_t timestamps[RECORDS_MAX];
    static el_view again[RECORDS_MAX];
    for (int32_t i = 0; i < count; i++) {
        keys[i] = (el_slice){views[i].key, views[i].key_size};
        values[i] = (el_slice){views[i].value, views[i].value_size};
        headers[i] = (el_slice){views[i].headers, views[i].headers_size};
        timestamps[i] = views[i].timestamp;
    }
    el_batch_input input = {.count = count, .values = values, .keys = keys, .headers = headers,
                            .timestamps = timestamps, .numbers = timestamps,
                            .number_name = (const uint8_t *)"n", .number_name_size = 1};
    int64_t size = el_batch_size(&input);
    require(size > 0, "decoded records cannot be encoded");
    uint8_t *batch = malloc((size_t)size);
    require(el_batch_encode_into(&input, batch, size) == size, "another size than was told");
    require(el_batch_decode((const char *)batch, size, again, RECORDS_MAX) == count,
            "encoded records cannot be decoded");
    for (int32_t i = 0; i < count; i++) {
        require(again[i].offset == i, "another place");
        require(again[i].timestamp == timestamps[i], "another time");
        require(same_bytes(again[i].key, again[i].key_size, views[i].key, views[i].key_size) &&
                    same_bytes(again[i].value, again[i].value_size, views[i].value,
                               views[i].value_size),
                "another key or value");
        require(el_header_number(again[i].headers, again[i].headers_size, (const uint8_t *)"n", 1,
                                 ~timestamps[i]) == timestamps[i],
                "the number column is not found again");
    }
    free(batch);
}

static void canary(const el_view *views, int32_t count, const uint8_t *batch, size_t size) {
    static volatile uint8_t sink;
    if (getenv("EVENTLOG_FUZZ_CANARY") && count > 1 && views[1].key_size > 0) sink = batch[size];
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static el_view views[RECORDS_MAX];
    if (size < 1 || size > INPUT_SIZE_MAX) return 0;
    uint8_t options = data[0];
    data++, size--;
    uint8_t *batch = malloc(size ? size : 1); /* of its own, so that its end is watched */
    memcpy(batch, data, size);
    if ((options & OPTION_MAKE_SOUND) && size >= EL_BATCH_HEADER_SIZE)
        make_sound(batch, size, options & OPTION_LOWER_COUNT);
    check_crc(batch, size);
    (void)el_header_number(batch, (int64_t)size, (const uint8_t *)"number", 6, -1);
    (void)el_header_number(batch, (int64_t)size, (const uint8_t *)"", 0, -1);
    el_batch_header header;
    if (el_batch_verify(batch, (int64_t)size, &header) == EL_OK) {
        require(header.size_bytes <= (int64_t)size, "a batch larger than its bytes");
        int32_t count = walk(batch, &header, views);
        int64_t decoded = el_batch_decode((const char *)batch, (int64_t)size, views, RECORDS_MAX);
        require(decoded < 0 || decoded == count, "el_batch_decode sees other records");
        if (count > 0) {
            canary(views, count, batch, size);
            check_encodes_again(views, count);
        }
    }
    free(batch);
    return 0;
}

/* -- the driver where there is no libFuzzer, and maker of its first corpus --------------------- */

#ifndef FUZZ_LIBFUZZER

#define CORPUS_COUNT 64

typedef struct {
    uint8_t data[INPUT_SIZE_MAX];
    size_t size;
} fuzz_input;

static fuzz_input corpus[CORPUS_COUNT], current;
static const char *finding_path = "finding";
static uint64_t random_state;

/* Called by the sanitizers' runtime (and by abort(), with handle_abort=1) before it ends us. */
void __sanitizer_set_death_callback(void (*callback)(void));

static void save_current(void) {
    FILE *file = fopen(finding_path, "wb");
    if (!file) return;
    fwrite(current.data, 1, current.size, file);
    fclose(file);
    fprintf(stderr, "input saved: %s\n", finding_path);
}

static uint64_t random_next(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t random_below(size_t limit) { return (size_t)(random_next() % limit); }

static void make_batch(fuzz_input *out) {
    static const uint8_t no_headers[] = {0}, one_header[] = {2, 2, 'a', 4, 'v', 'w'},
                         two_headers[] = {4, 0, 1, 12, 'n', 'u', 'm', 'b', 'e', 'r', 2, 9};
    static const el_slice header_choice[] = {
        {no_headers, 1}, {one_header, sizeof one_header}, {two_headers, sizeof two_headers}};
    static uint8_t bytes[512];
    el_slice values[12], keys[12], headers[12];
    int64_t timestamps[12];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)random_next();
    int32_t count = 1 + (int32_t)random_below(12);
    for (int32_t i = 0; i < count; i++) {
        int64_t value_size = (int64_t)random_below(i ? 40 : 200) - 1;
        int64_t key_size = (int64_t)random_below(20) - 1;
        values[i] = (el_slice){value_size < 0 ? NULL : bytes + random_below(300), value_size};
        keys[i] = (el_slice){key_size < 0 ? NULL : bytes + random_below(300), key_size};
        headers[i] = header_choice[random_below(3)];
        timestamps[i] = 1700000000000 + (int64_t)random_below(300) - 100;
    }
    el_batch_input input = {.count = count, .values = values, .keys = keys, .headers = headers,
                            .timestamps = timestamps};
    if (random_below(2)) {
        input.number_name = (const uint8_t *)"number";
        input.number_name_size = 6;
        input.numbers = timestamps;
        input.id_name = (const uint8_t *)"id";
        input.id_name_size = 2;
        input.ids = bytes;
    }
    out->data[0] = (uint8_t)random_below(4);
    int64_t size = el_batch_encode_into(&input, out->data + 1, INPUT_SIZE_MAX - 1);
    require(size > 0, "the corpus cannot be made");
    out->size = (size_t)size + 1;
}

/* Half of all changes go to the batch header and its neighbours, where counts and lengths are. */
static size_t random_place(void) {
    return random_below(2) ? random_below(current.size)
                           : random_below(current.size < 100 ? current.size : 100);
}

static void resize(size_t place, size_t removed, size_t added) {
    size_t behind = current.size - place - removed;
    if (place + added + behind > INPUT_SIZE_MAX || place + added + behind == 0) return;
    memmove(current.data + place + added, current.data + place + removed, behind);
    for (size_t i = 0; i < added; i++) current.data[place + i] = (uint8_t)random_next();
    current.size = place + added + behind;
}

static void mutate(void) {
    static const uint8_t telling[] = {0, 1, 2, 3, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff, 14, 122, 124};
    size_t place = random_place();
    switch (random_below(7)) {
        case 0: current.data[place] ^= (uint8_t)(1u << random_below(8)); break;
        case 1: current.data[place] = telling[random_below(sizeof telling)]; break;
        case 2: current.data[place] = (uint8_t)random_next(); break;
        case 3: resize(place, 1 + random_below(current.size - place), 0); break;
        case 4: resize(place, 0, 1 + random_below(12)); break;
        case 5: /* a long varint */
            for (size_t i = 1 + random_below(10); i && place < current.size; i--)
                current.data[place++] |= 0x80;
            break;
        default: { /* the tail of another input */
            const fuzz_input *other = &corpus[random_below(CORPUS_COUNT)];
            size_t from = random_below(other->size), size = other->size - from;
            if (place + size > INPUT_SIZE_MAX) return;
            memcpy(current.data + place, other->data + from, size);
            current.size = place + size;
        }
    }
}

static int run(long seconds) {
    struct timespec begin, now;
    unsigned long runs = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (int i = 0; i < 1000; i++, runs++) {
            size_t chosen = random_below(CORPUS_COUNT);
            current = corpus[chosen];
            for (size_t changes = random_below(6); changes; changes--) mutate();
            LLVMFuzzerTestOneInput(current.data, current.size);
            if (random_below(50) == 0) corpus[chosen] = current; /* so that changes add up ... */
            if (random_below(100) == 0) make_batch(&corpus[chosen]); /* ... and do not degenerate */
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec < seconds);
    printf("%lu inputs, no finding\n", runs);
    return 0;
}

static int write_corpus(const char *directory) {
    for (int i = 0; i < CORPUS_COUNT; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/batch-%02d", directory, i);
        FILE *file = fopen(path, "wb");
        if (!file) return perror(path), 1;
        fwrite(corpus[i].data, 1, corpus[i].size, file);
        if (fclose(file)) return perror(path), 1;
    }
    return 0;
}

static int replay(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return perror(path), 1;
    current.size = fread(current.data, 1, sizeof current.data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(current.data, current.size);
    printf("no finding\n");
    return 0;
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "replay")) return replay(arguments[2]);
    if (count != 4 && count != 5) {
        fprintf(stderr, "run SECONDS SEED [FINDING] | corpus DIRECTORY SEED | replay FILE\n");
        return 2;
    }
    random_state = strtoull(arguments[3], NULL, 10);
    for (int i = 0; i < CORPUS_COUNT; i++) make_batch(&corpus[i]);
    if (!strcmp(arguments[1], "corpus")) return write_corpus(arguments[2]);
    if (count == 5) finding_path = arguments[4];
    __sanitizer_set_death_callback(save_current);
    return run(strtol(arguments[2], NULL, 10));
}

#endif
