/* compaction.c: of each key the last record: bytes in, bytes out. Knows nothing of files.
 *
 * Two passes over sealed segments, as Kafka's cleaner makes them. The first fills a map of a fixed size:
 * hash of a key -> highest offset with that key. The second copies the batches: a record stays if no
 * later one of its key is in the map, or if it lies past what the map knows. A batch keeps its offsets
 * and its producer's fields whatever it loses; one that loses nothing is copied as it is.
 *
 * The map holds hashes, not keys. Two keys with the same hash would cost one of them its record, so the
 * hash is SipHash-2-4 with 128 bits and a random key for each run: by chance that never happens, and
 * nobody can choose keys that collide, since nobody knows the hash's key. (Kafka's MD5 lets whoever
 * chooses keys do that.)
 *
 * Records of transactions are never put into the map, since an aborted one must not take the place of
 * an older one, and their tombstones stay: they go only when a later record of their key comes. Control
 * batches stay. (Kafka goes further, and forgets whole transactions in time.)
 *
 * Every batch is verified before it is looked at. What is malformed is refused, never copied or dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "error.h"
#include "varint.h"

#define HASH_KEY_SIZE 16
#define TRANSACTIONAL 16
#define DELETE_HORIZON 64
#define CODEC_BITS 7
#define NO_TIMESTAMP -1
#define RECORD_SIZE_MIN 7
/* A new base timestamp can make a record's time 9 bytes longer, and its length 2. */
#define RECORD_GROWTH_MAX 11
#define INPUT_SIZE_MAX (4 << 20) /* gone through by one call, so that the caller comes to look around */
#define BLOCK 16 /* records whose places in the map are on their way from memory at the same time */

typedef struct {
    uint64_t hash[2];
    int64_t next_offset; /* behind the highest with that key; 0: the entry is free */
} key_entry;

_Static_assert(sizeof(key_entry) == EL_KEY_MAP_ENTRY, "the size that the caller is told");

struct el_key_map {
    uint64_t hash_key[2];
    key_entry *entries;
    uint64_t entry_count; /* below 2^32 */
    int64_t count, count_max;
    int64_t end_offset; /* the map knows the records below; 0 none */
    uint8_t *stays;     /* a bit for each record of the batch that is being filtered */
    int64_t stays_size;
};

/* -- the hash --------------------------------------------------------------------------------- */

static uint64_t load_64(const uint8_t *in) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | in[i];
    return value;
}

static inline uint64_t rotate(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

static inline void sip_rounds(uint64_t v[4], int rounds) {
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
        v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
    }
}

static void sip_hash(const uint64_t key[2], const uint8_t *data, int64_t size, uint64_t hash[2]) {
    uint64_t v[4] = {0x736f6d6570736575 ^ key[0], 0x646f72616e646f6d ^ key[1] ^ 0xee,
                     0x6c7967656e657261 ^ key[0], 0x7465646279746573 ^ key[1]};
    const uint8_t *end = data + (size & ~(int64_t)7);
    uint64_t word;
    for (; data < end; data += 8) {
        word = load_64(data);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    word = (uint64_t)size << 56;
    for (int64_t i = 0; i < (size & 7); i++) word |= (uint64_t)data[i] << (8 * i);
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 0xee;
    sip_rounds(v, 4);
    hash[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    sip_rounds(v, 4);
    hash[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* -- the map ---------------------------------------------------------------------------------- */

el_key_map *el_key_map_new(int64_t size_bytes, const char *hash_key) {
    if (size_bytes < EL_KEY_MAP_ENTRY * 2 || size_bytes / EL_KEY_MAP_ENTRY > UINT32_MAX) {
        el_fail(EL_ERR_ARGUMENT, 0, NULL, -1, -1, "a map of keys cannot have %lld bytes",
                (long long)size_bytes);
        return NULL;
    }
    el_key_map *m = calloc(1, sizeof *m);
    if (m != NULL) {
        m->entry_count = (uint64_t)(size_bytes / EL_KEY_MAP_ENTRY);
        m->entries = calloc(m->entry_count, sizeof *m->entries);
    }
    if (m == NULL || m->entries == NULL) {
        free(m);
        el_fail(EL_ERR_MEMORY, ENOMEM, NULL, -1, -1, "no memory for a map of keys of %lld bytes",
                (long long)size_bytes);
        return NULL;
    }
    /* Some stay free: the fuller it is, the longer one looks for what is not there. */
    m->count_max = (int64_t)(m->entry_count - m->entry_count / 5);
    if (m->count_max == (int64_t)m->entry_count) m->count_max--;
    m->hash_key[0] = load_64((const uint8_t *)hash_key);
    m->hash_key[1] = load_64((const uint8_t *)hash_key + 8);
    return m;
}

void el_key_map_free(el_key_map *m) {
    if (m == NULL) return;
    free(m->entries);
    free(m->stays);
    free(m);
}

int64_t el_key_map_end(const el_key_map *m, int64_t *key_count) {
    *key_count = m->count;
    return m->end_offset;
}

static inline key_entry *first_place(const el_key_map *m, const uint64_t hash[2]) {
    return &m->entries[(hash[0] >> 32) * m->entry_count >> 32];
}

/* The entry of the hash, or the free one where it would be. One is always free. */
static inline key_entry *find(const el_key_map *m, const uint64_t hash[2]) {
    key_entry *entry = first_place(m, hash);
    const key_entry *end = m->entries + m->entry_count;
    while (entry->next_offset != 0 && (entry->hash[0] != hash[0] || entry->hash[1] != hash[1]))
        if (++entry == end) entry = m->entries;
    return entry;
}

int64_t el_key_map_find(const el_key_map *m, const char *key, int64_t size, char *hash) {
    uint64_t words[2];
    sip_hash(m->hash_key, (const uint8_t *)key, size, words);
    for (int i = 0; i < 16 && hash != NULL; i++) hash[i] = (char)(words[i / 8] >> (8 * (i % 8)));
    return find(m, words)->next_offset - 1;
}

/* -- walking ---------------------------------------------------------------------------------- */

static int32_t is_bad(const el_batches *b, int64_t offset, const char *what) {
    return el_fail(EL_ERR_CORRUPT, 0, b->path, b->position, offset, "%s", what);
}

static const uint8_t *batch_at(const el_batches *b) { return (const uint8_t *)b->data + b->position; }

/* The verified header of the batch at the position; EL_END behind the last one. */
static int32_t read_header(const el_batches *b, el_batch_header *header) {
    if (b->position == b->size) return EL_END;
    if (b->position < 0 || b->position > b->size)
        return el_fail(EL_ERR_ARGUMENT, 0, b->path, b->position, -1, "the position is outside the segment");
    if (el_batch_verify(batch_at(b), b->size - b->position, header) != EL_OK)
        return is_bad(b, b->next_offset, "a batch is damaged (CRC or header)");
    /* The base offset lies outside the CRC. */
    if (header->base_offset < b->next_offset ||
        header->base_offset + header->last_offset_delta >= b->end_offset)
        return is_bad(b, b->next_offset, "the base offset does not follow");
    return EL_OK;
}

static void step_over(el_batches *b, const el_batch_header *header) {
    b->position += header->size_bytes;
    b->next_offset = header->base_offset + header->last_offset_delta + 1;
}

/* The records of a batch, one after the other. */
typedef struct {
    const el_batches *b;
    const el_batch_header *header;
    const uint8_t *data;
    int64_t size, position;
    int64_t offset; /* of the last one read */
    int32_t left;
} record_walk;

/* The records lie in the batch, or were decompressed. */
static record_walk walk_begin(const el_batches *b, const el_batch_header *header, const char *payload,
                              int64_t payload_size) {
    return (record_walk){
        .b = b,
        .header = header,
        .data = payload != NULL ? (const uint8_t *)payload : batch_at(b) + EL_BATCH_HEADER_SIZE,
        .size = payload != NULL ? payload_size : header->size_bytes - EL_BATCH_HEADER_SIZE,
        .offset = header->base_offset - 1,
        .left = header->record_count,
    };
}

static int32_t walk_next(record_walk *w, el_view *view) {
    if (el_record_read(w->header, w->data, w->size, &w->position, view) != EL_OK ||
        view->offset <= w->offset || (w->left == 1 && w->position != w->size))
        return is_bad(w->b, w->header->base_offset, "a record does not fit its batch");
    w->offset = view->offset;
    w->left--;
    return EL_OK;
}

/* Are its records to be decompressed first? */
static int is_packed(const el_batch_header *header) {
    return el_batch_codec(header) != 0 && header->record_count > 0;
}

static int is_transactional(const el_batch_header *header) { return header->attributes & TRANSACTIONAL; }

/* -- the first pass --------------------------------------------------------------------------- */

typedef struct {
    uint64_t hash[2];
    int64_t offset;
} keyed_offset;

/* EL_FULL: there is no room for one of them, and those before it are in. */
static int32_t put_block(el_key_map *m, const keyed_offset *block, int count) {
    for (int i = 0; i < count; i++) {
        key_entry *entry = find(m, block[i].hash);
        if (entry->next_offset == 0) {
            if (m->count == m->count_max) {
                m->end_offset = block[i].offset;
                return EL_FULL;
            }
            entry->hash[0] = block[i].hash[0];
            entry->hash[1] = block[i].hash[1];
            m->count++;
        }
        if (entry->next_offset <= block[i].offset) entry->next_offset = block[i].offset + 1;
    }
    return EL_OK;
}

static int32_t add_records(el_key_map *m, record_walk walk, int64_t start_offset) {
    keyed_offset block[BLOCK];
    int count = 0;
    while (walk.left > 0) {
        el_view view;
        int32_t result = walk_next(&walk, &view);
        if (result != EL_OK) return result;
        if (view.key_size >= 0 && view.offset >= start_offset) {
            sip_hash(m->hash_key, view.key, view.key_size, block[count].hash);
            __builtin_prefetch(first_place(m, block[count].hash), 1);
            block[count++].offset = view.offset;
        }
        if (count == BLOCK || walk.left == 0) {
            result = put_block(m, block, count);
            if (result != EL_OK) return result;
            count = 0;
        }
    }
    return EL_OK;
}

int32_t el_key_map_add(el_key_map *m, el_batches *b, int64_t start_offset, const char *payload,
                       int64_t payload_size) {
    for (int64_t begin = b->position; b->position - begin < INPUT_SIZE_MAX;) {
        el_batch_header header;
        int32_t result = read_header(b, &header);
        if (result != EL_OK) return result;
        int64_t end = header.base_offset + header.last_offset_delta + 1;
        if (end > start_offset && !el_batch_is_control(&header) && !is_transactional(&header)) {
            if (is_packed(&header) && payload == NULL) return EL_COMPRESSED;
            result = add_records(m, walk_begin(b, &header, is_packed(&header) ? payload : NULL, payload_size),
                                 start_offset);
            if (result != EL_OK) return result;
        }
        if (end > m->end_offset) m->end_offset = end;
        step_over(b, &header);
        payload = NULL;
    }
    return EL_OK;
}

/* -- the second pass -------------------------------------------------------------------------- */

/* What stays of a batch. */
typedef struct {
    int32_t count;
    int64_t size; /* of the records as they are */
    int64_t first_timestamp, max_timestamp;
    int has_tombstone; /* one whose time until it goes may begin */
} remainder;

static int is_expired(const el_compaction_rules *rules, const el_batch_header *header) {
    return header->attributes & DELETE_HORIZON && rules->now_ms >= header->base_timestamp;
}

/* Does the record stay? `entry`: of its key; NULL without a key. */
static int stays(const el_key_map *m, const el_compaction_rules *rules, const el_batch_header *header,
                 const el_view *view, const key_entry *entry) {
    if (view->offset >= m->end_offset) return 1;
    if (entry == NULL || view->offset + 1 < entry->next_offset) return 0;
    return view->value_size >= 0 || is_transactional(header) || !is_expired(rules, header);
}

static int32_t make_room(el_key_map *m, const el_batches *b, int32_t record_count) {
    int64_t size = record_count / 8 + 1;
    if (size > m->stays_size) {
        free(m->stays);
        m->stays_size = 0;
        m->stays = malloc((size_t)size);
        if (m->stays == NULL)
            return el_fail(EL_ERR_MEMORY, ENOMEM, b->path, b->position, -1, "no memory for a batch");
        m->stays_size = size;
    }
    memset(m->stays, 0, (size_t)size);
    return EL_OK;
}

/* Mark the records that stay. */
static int32_t choose(el_key_map *m, const el_compaction_rules *rules, record_walk walk, remainder *out) {
    const el_batch_header *header = walk.header;
    *out = (remainder){.max_timestamp = INT64_MIN};
    if (header->record_count > walk.size / RECORD_SIZE_MIN)
        return is_bad(walk.b, header->base_offset, "more records than its bytes can hold");
    int32_t result = make_room(m, walk.b, header->record_count);
    int64_t index = 0;
    while (result == EL_OK && walk.left > 0) {
        el_view views[BLOCK];
        uint64_t hashes[BLOCK][2];
        int64_t sizes[BLOCK];
        int count = 0;
        for (; count < BLOCK && walk.left > 0; count++) {
            int64_t begin = walk.position;
            result = walk_next(&walk, &views[count]);
            if (result != EL_OK) return result;
            sizes[count] = walk.position - begin;
            if (views[count].key_size < 0) continue;
            sip_hash(m->hash_key, views[count].key, views[count].key_size, hashes[count]);
            __builtin_prefetch(first_place(m, hashes[count]));
        }
        for (int i = 0; i < count; i++, index++) {
            const el_view *view = &views[i];
            const key_entry *entry = view->key_size < 0 ? NULL : find(m, hashes[i]);
            if (!stays(m, rules, header, view, entry)) continue;
            m->stays[index / 8] |= (uint8_t)(1 << (index % 8));
            if (out->count++ == 0) out->first_timestamp = view->timestamp;
            if (view->timestamp > out->max_timestamp) out->max_timestamp = view->timestamp;
            out->size += sizes[i];
            out->has_tombstone |= view->value_size < 0 && view->offset < m->end_offset;
        }
    }
    return result;
}

static int stays_empty(const el_compaction_rules *rules, const el_batches *b,
                       const el_batch_header *header) {
    if (rules->keeps_last && b->position + header->size_bytes == b->size) return 1;
    int64_t last_offset = header->base_offset + header->last_offset_delta;
    int64_t low = 0, high = rules->kept_count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (rules->kept_ends[middle] < last_offset) low = middle + 1;
        else high = middle;
    }
    return low < rules->kept_count && rules->kept_ends[low] == last_offset;
}

/* One record behind another base timestamp. */
static uint8_t *put_record(uint8_t *out, const uint8_t *record, int64_t size, int64_t timestamp,
                           int64_t base_timestamp) {
    const uint8_t *end = record + size;
    int32_t length;
    int64_t old_delta, delta = (int64_t)((uint64_t)timestamp - (uint64_t)base_timestamp);
    const uint8_t *body = el_varint_read(record, end, &length); /* read once before: sound */
    const uint8_t *rest = el_varlong_read(body + 1, end, &old_delta);
    out = el_varint_write(out, (int32_t)(1 + el_varlong_size(delta) + (end - rest)));
    *out++ = *body;
    out = el_varlong_write(out, delta);
    memcpy(out, rest, (size_t)(end - rest));
    return out + (end - rest);
}

/* Does the time of its tombstones begin now? */
static int begins_horizon(const el_compaction_rules *rules, const el_batch_header *header,
                          const remainder *left) {
    return left->has_tombstone && !(header->attributes & DELETE_HORIZON) && rules->horizon_ms >= 0 &&
           !is_transactional(header);
}

/* Write the batch with the records that stay. Its size, or an error. */
static int64_t put_batch(const el_key_map *m, const el_compaction_rules *rules, record_walk walk,
                         const remainder *left, uint8_t *out) {
    el_batch_header header = *walk.header;
    if (begins_horizon(rules, &header, left)) {
        header.attributes |= DELETE_HORIZON;
        header.base_timestamp = rules->horizon_ms;
    } else if (!(header.attributes & DELETE_HORIZON)) {
        header.base_timestamp = left->first_timestamp;
    }
    if (!el_batch_is_log_append_time(&header)) header.max_timestamp = left->max_timestamp;
    header.record_count = left->count;
    el_batch_header_write(out, &header);
    int is_copied = header.base_timestamp == walk.header->base_timestamp &&
                    !el_batch_is_log_append_time(&header);
    uint8_t *at = out + EL_BATCH_HEADER_SIZE;
    for (int64_t index = 0; walk.left > 0; index++) {
        el_view view;
        int64_t begin = walk.position;
        int32_t result = walk_next(&walk, &view);
        if (result != EL_OK) return result;
        if (!(m->stays[index / 8] >> (index % 8) & 1)) continue;
        int64_t size = walk.position - begin;
        if (is_copied) {
            memcpy(at, walk.data + begin, (size_t)size);
            at += size;
        } else {
            at = put_record(at, walk.data + begin, size, view.timestamp, header.base_timestamp);
        }
    }
    int64_t size = at - out;
    int32_t result = el_batch_seal(out, size - EL_BATCH_HEADER_SIZE, 0);
    return result == EL_OK ? size : result;
}

static int64_t put_empty(const el_batch_header *original, uint8_t *out) {
    el_batch_header header = *original;
    header.attributes = (int16_t)(header.attributes & ~(CODEC_BITS | DELETE_HORIZON));
    header.base_timestamp = NO_TIMESTAMP;
    /* Of a producer it tells when it was last heard of. Else there is nothing to find by time here: an
     * index entry that led to it would be taken for a wrong one by Kafka's tools. */
    if (header.producer_id < 0) header.max_timestamp = NO_TIMESTAMP;
    header.record_count = 0;
    el_batch_header_write(out, &header);
    int32_t result = el_batch_seal(out, 0, 0);
    return result == EL_OK ? EL_BATCH_HEADER_SIZE : result;
}

/* EL_FULL: the batch may need more room than there is. */
static int32_t has_room(el_filtered *f, int64_t capacity, int64_t size) {
    f->size_needed = size;
    return size <= capacity - f->size ? EL_OK : EL_FULL;
}

static int32_t copy_batch(const el_batches *b, const el_batch_header *header, char *out,
                          int64_t capacity, el_filtered *f) {
    int32_t result = has_room(f, capacity, header->size_bytes);
    if (result != EL_OK) return result;
    memcpy(out + f->size, batch_at(b), (size_t)header->size_bytes);
    f->size += header->size_bytes;
    return EL_OK;
}

/* What is left of a batch of data, behind what is in `out`. */
static int32_t filter_batch(el_key_map *m, const el_compaction_rules *rules, record_walk walk, char *out,
                            int64_t capacity, el_filtered *f) {
    const el_batch_header *header = walk.header;
    remainder left;
    int32_t result = choose(m, rules, walk, &left);
    if (result != EL_OK) return result;
    uint8_t *at = (uint8_t *)out + f->size;
    int64_t size = 0;
    int keeps_empty = left.count == 0 && stays_empty(rules, walk.b, header);
    int stays_as_it_is = left.count == header->record_count && (left.count > 0 || keeps_empty) &&
                         !begins_horizon(rules, header, &left);
    if (stays_as_it_is) {
        result = copy_batch(walk.b, header, out, capacity, f);
    } else if (left.count > 0) {
        result = has_room(f, capacity, EL_BATCH_HEADER_SIZE + left.size +
                                           (int64_t)RECORD_GROWTH_MAX * left.count);
        if (result == EL_OK) size = put_batch(m, rules, walk, &left, at);
    } else if (keeps_empty) {
        result = has_room(f, capacity, EL_BATCH_HEADER_SIZE);
        if (result == EL_OK) size = put_empty(header, at);
    }
    if (result != EL_OK) return result;
    if (size < 0) return (int32_t)size;
    if (left.count > 0 && !stays_as_it_is && el_batch_codec(header) != 0) f->unpacked_position = f->size;
    f->size += size;
    f->records_read += header->record_count;
    f->records_kept += left.count;
    f->batches_changed += !stays_as_it_is;
    return EL_OK;
}

int32_t el_key_map_filter(el_key_map *m, const el_compaction_rules *rules, el_batches *b,
                          const char *payload, int64_t payload_size, char *out, int64_t capacity,
                          el_filtered *f) {
    f->unpacked_position = -1;
    for (int64_t begin = b->position; b->position - begin < INPUT_SIZE_MAX;) {
        el_batch_header header;
        int32_t result = read_header(b, &header);
        if (result != EL_OK) return result;
        if (el_batch_is_control(&header)) {
            result = copy_batch(b, &header, out, capacity, f);
        } else if (is_packed(&header) && payload == NULL) {
            f->codec = el_batch_codec(&header);
            return EL_COMPRESSED;
        } else {
            f->codec = el_batch_codec(&header);
            record_walk walk = walk_begin(b, &header, is_packed(&header) ? payload : NULL, payload_size);
            result = filter_batch(m, rules, walk, out, capacity, f);
        }
        if (result != EL_OK) return result;
        step_over(b, &header);
        if (payload != NULL) return EL_OK; /* what was unpacked may have to be packed again */
    }
    return EL_OK;
}
