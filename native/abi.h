/* abi.h: everything Python can call. Read by the C compiler and by cffi alike, so: declarations
 * only, flat types, no preprocessor beyond plain integer constants.
 *
 * Rules: negative results are EL_ERR_*; el_error_last() then tells more, for this thread only. C
 * never calls Python (pyobjects.c apart), keeps no pointer to a caller's memory after it returned,
 * and guards its own handles: every call may run while another thread closes the handle.
 */

#define EL_OK 0
#define EL_END 1         /* nothing (more) to read below the limit */
#define EL_COMPRESSED 2  /* the cursor stands at a compressed batch: see el_cursor_payload */
#define EL_TIMEOUT 3
#define EL_INTERRUPTED 4 /* a signal came: let Python look at it, then call again */
#define EL_FULL 5        /* no room for more: see el_key_map_add, el_key_map_filter */

#define EL_ERR_ARGUMENT -1
#define EL_ERR_TYPE -2      /* an item is not exact bytes (or None where null is allowed) */
#define EL_ERR_TOO_LARGE -3
#define EL_ERR_MEMORY -4
#define EL_ERR_OS -5        /* os_errno and path tell */
#define EL_ERR_CORRUPT -6   /* path, position, offset, what tell */
#define EL_ERR_SHORT -7     /* bytes end inside a batch */
#define EL_ERR_POISONED -8  /* an earlier fdatasync failed; os_errno is its errno */
#define EL_ERR_CLOSED -9
#define EL_ERR_RANGE -10    /* offset below the log start or past the log end */
#define EL_ERR_FORKED -11
#define EL_ERR_READ_ONLY -12
#define EL_ERR_LOCKED -13
#define EL_ERR_NOT_RUNNING -14 /* control page is not of this boot, or no writer made it */

#define EL_ERR_MOVED -15 /* the log does not end where the append expects it to */
#define EL_ERR_DELETED -16

#define EL_DURABILITY_OS 0
#define EL_DURABILITY_INTERVAL 1
#define EL_DURABILITY_SYNC 2

/* A partition that promises `sync` never has more than this unsynced, save for two batches. Recovery
 * relies on it: sound batches that reach further behind a bad one prove that it was durable. */
#define EL_UNSYNCED_BYTES_MAX 8388608

#define EL_TAKE_RECORDS 0 /* record_type(topic, partition, offset, timestamp, key, value, headers) */
#define EL_TAKE_VALUES 1
#define EL_TAKE_TUPLES 2  /* (offset, timestamp, key, value) */
#define EL_TAKE_KEYS 3

typedef struct el_partition el_partition;
typedef struct el_cursor el_cursor;
typedef struct el_activity el_activity;
typedef struct el_key_map el_key_map;

typedef struct {
    int32_t code;
    int32_t os_errno;
    int64_t position; /* bytes in the file, -1 unknown */
    int64_t offset;   /* first offset concerned, -1 unknown */
    char what[160];
    char path[1024];
} el_error;

/* One record in place. Pointers are valid as long as the cursor's next move. */
typedef struct {
    int64_t offset;
    int64_t timestamp;
    const uint8_t *key;
    const uint8_t *value;
    const uint8_t *headers; /* `varint count` + encoded headers */
    int64_t key_size;       /* -1: null */
    int64_t value_size;     /* -1: null */
    int64_t headers_size;
    int64_t batch_position;  /* of the batch in its segment file */
    int32_t record_position; /* of the record in its batch, from the batch's first byte */
    int32_t unused;
} el_view;

typedef struct {
    int64_t segment_size_bytes_max;
    int64_t segment_ms;
    int64_t batch_size_bytes_max;
    int64_t index_interval_bytes;
    int64_t index_size_bytes_max;
    int64_t preallocation_bytes_max; /* largest step in which the active segment grows; 0: none */
    int32_t durability;              /* what the partition promises: EL_DURABILITY_* */
    int32_t gather_us;               /* longest wait for other writers before an fdatasync */
    int32_t has_gaps; /* offsets may be missing (compaction): base offsets then need only rise */
    int32_t unused;
} el_partition_options;

/* Where recovery found the log to end; from it a writer goes on. */
typedef struct {
    int64_t log_start_offset;
    int64_t log_end_offset;
    int64_t active_base_offset;
    int64_t active_position;       /* bytes of whole batches in the active segment */
    int64_t index_entries;         /* in the active segment's .index */
    int64_t time_index_entries;
    int64_t bytes_since_index;
    int64_t max_timestamp;         /* of the active segment, -1 none */
    int64_t max_timestamp_offset;  /* last offset of the first batch that has it */
    int64_t first_timestamp;       /* max timestamp of the active segment's first batch, -1 none */
    int64_t last_indexed_timestamp; /* of the last .timeindex entry, -1 none */
} el_log_end;

typedef struct {
    int64_t log_start_offset;
    int64_t log_end_offset;
    int64_t high_watermark;
    int64_t durable_end_offset;
    int64_t appended_batches;
    int64_t appended_bytes;
    int64_t sync_count;
    int64_t active_base_offset;
    int64_t active_position;
    int32_t poisoned_errno;
    int32_t is_deleted;
    uint64_t generation;
} el_partition_state;

/* How long the fdatasyncs of this handle took: how many up to 1, 2, 5, 10, 20 ... 50,000,000 us (not
 * cumulative; the last count is of those that took longer), and all of them together. */
#define EL_SYNC_TIMES 25
typedef struct {
    int64_t counts[EL_SYNC_TIMES];
    int64_t total_ns;
} el_sync_times;

#define EL_SCAN_END 0     /* the file ends exactly behind the last whole batch */
#define EL_SCAN_ZEROS 1   /* only zeros follow (preallocation) */
#define EL_SCAN_BAD 2     /* something else follows */

typedef struct {
    int64_t end_position;   /* behind the last whole batch */
    int64_t end_offset;     /* next offset */
    int64_t file_size;
    int64_t batches;
    int64_t records;
    int64_t last_offset;      /* -1 none */
    int64_t max_timestamp;    /* -1 none */
    int64_t first_timestamp;
    int64_t sound_position;   /* EL_SCAN_BAD: of the first sound batch behind the bad place, or -1 */
    int64_t sound_offset;     /* its base offset */
    int64_t sound_end_position; /* behind the last byte that is not zero */
    int32_t stop;             /* EL_SCAN_* */
    int32_t unused;
    char what[160];           /* EL_SCAN_BAD: what is wrong there */
} el_scan;

/* -- errors and this machine ------------------------------------------------------------------ */
void el_error_last(el_error *out);
uint32_t el_crc32c_of(const char *data, int64_t size);
uint32_t el_crc32c_route(int32_t route, const char *data, int64_t size, int32_t *available);
const char *el_crc32c_route_name(int32_t route); /* NULL past the last; route -1: the one in use */

/* -- batches without files -------------------------------------------------------------------- */
/* `columns`: see el_columns. Encodes into out; returns size, or the size needed when out is NULL. */
typedef struct {
    int64_t count;
    uintptr_t values;  /* id() of a tuple of bytes (None: null) */
    uintptr_t keys;    /* 0: none. id() of a tuple, or of one bytes for all */
    uintptr_t headers; /* 0: none. id() of a tuple of bytes, or of one bytes for all */
    const char *packed; /* not NULL: values/keys/headers are laid end to end here instead, ... */
    const int64_t *value_sizes;  /* ... first all values, then all keys, then all headers; -1 null */
    const int64_t *key_sizes;    /* NULL: none */
    const int64_t *header_sizes; /* NULL: none */
    const int64_t *timestamps;   /* NULL: `timestamp` for all */
    int64_t timestamp;           /* ms */
    const int64_t *numbers;      /* NULL: none. Written as the header `number_name` */
    const char *number_name;
    int32_t numbers_rise;        /* only the first number is given, the others count up from it */
    int32_t ids_rise;            /* only the first id is given, the others count up from it */
    const char *ids;             /* NULL: none. 16 bytes each, written as the header `id_name` */
    const char *id_name;
    int64_t producer_id;         /* counts if has_producer is set; else the batch has none */
    int32_t base_sequence;
    int16_t producer_epoch;
    int16_t has_producer;
} el_columns;

int64_t el_batch_encode(const el_columns *columns, char *out, int64_t capacity);
int32_t el_batch_compressed(char *batch, int64_t size, int32_t codec); /* seals after payload swap */
/* Check one batch at data[0]: returns its size in bytes or EL_ERR_SHORT / EL_ERR_CORRUPT.
 * Header fields as 13 int64 in the order of el_batch_header (batch.h). */
int64_t el_batch_check(const char *data, int64_t size, int64_t *fields);
/* Decode up to capacity records of an uncompressed batch; returns how many. */
int64_t el_batch_decode(const char *data, int64_t size, el_view *views, int64_t capacity);
/* murmur2 as Kafka's default partitioner has it, for a tuple of keys. */
int32_t el_keys_partition(uintptr_t keys, int64_t count, int32_t partitions, int32_t *out);
uint32_t el_murmur2(const char *data, int64_t size);

/* -- files ------------------------------------------------------------------------------------ */
/* Each is whole and durable when it returns EL_OK: file fsynced, then its directory. */
int32_t el_file_replace(const char *path, const char *data, int64_t size);
int32_t el_file_truncate(const char *path, int64_t size);
int32_t el_file_preserve(const char *path, int64_t from, int64_t to, const char *target);
/* Write bytes [from, to) again as they are and fsync: after an fsync that failed the kernel may hold
 * pages for clean that the disk never got. */
int32_t el_file_rewrite(const char *path, int64_t from, int64_t to);
int32_t el_file_rename(const char *from, const char *to);
int32_t el_file_unlink(const char *path);
/* Durable only after el_file_sync of the directory: for many files of one. */
int32_t el_file_rename_unsynced(const char *from, const char *to);
int32_t el_file_unlink_unsynced(const char *path);
/* Write a file from front to back, piece by piece: at position 0 it is made, or emptied. Not synced. */
int32_t el_file_extend(const char *path, int64_t position, const char *data, int64_t size);
int32_t el_file_mkdir(const char *path);
int32_t el_file_sync(const char *path);
/* Hold a lock on the whole file, alone or with others who share it; never waits: EL_ERR_LOCKED.
 * holder_pid: who took it alone last, 0 unknown. A forked child does not hold what its parent does. */
int32_t el_file_lock(const char *path, int32_t is_shared, int32_t *fd, int32_t *holder_pid);
/* Share a lock that was held alone, or the other way round: then EL_ERR_LOCKED while others share it,
 * and the lock may be lost. */
int32_t el_file_lock_change(int32_t fd, int32_t is_shared);
int32_t el_file_unlock(int32_t fd);
int32_t el_file_reserve(const char *path, int64_t size);

/* -- segments --------------------------------------------------------------------------------- */
/* `offset`: of the batch at `position`. The base offset lies outside the CRC, so it is checked against
 * the end of the batch before: equal, or, with has_gaps, not below. */
int32_t el_segment_scan(const char *log_path, int64_t position, int64_t offset, int32_t has_gaps,
                        el_scan *out);
/* Make .index and .timeindex of one segment anew by Kafka's rules from the bytes up to
 * end_position; `sealed`: force the closing time index entry. Fills the index part of `end`. */
int32_t el_segment_index(const char *log_path, int64_t base_offset, int64_t end_position,
                         int32_t sealed, const el_partition_options *options, el_log_end *end);
/* Check the index files against the log and find where the log ends, reading only what lies behind
 * the last index entry. Fills `end`. EL_ERR_CORRUPT: the index files do not fit, or what follows
 * the last entry is not whole: then scan and index. */
int32_t el_segment_resume(const char *log_path, int64_t base_offset,
                          const el_partition_options *options, el_log_end *end);

/* -- a partition ------------------------------------------------------------------------------ */
/* `activity` may be NULL. */
el_partition *el_partition_open(const char *directory, const char *control_path, int32_t writable,
                                const el_partition_options *options, el_activity *activity);
/* Writer, while no other has the store open: begin to append at `end`. Reader with no live control
 * page: show the log up to `end`. */
int32_t el_partition_begin(el_partition *p, const el_log_end *end);
/* Writer, while another one has the store open: append behind what it has appended.
 * EL_ERR_NOT_RUNNING: nobody has begun here. */
int32_t el_partition_attach(el_partition *p);
int32_t el_partition_configure(el_partition *p, const el_partition_options *options);
/* All appends return the first offset, or an error. expected_end_offset >= 0: append only if the log
 * ends there, else EL_ERR_MOVED and nothing is done; -1: wherever it ends. */
int64_t el_partition_append(el_partition *p, const char *key, int64_t key_size, const char *value,
                            int64_t value_size, const char *headers, int64_t headers_size,
                            int64_t timestamp, int64_t expected_end_offset, int32_t durability);
int64_t el_partition_append_columns(el_partition *p, const el_columns *columns,
                                    int64_t expected_end_offset, int32_t durability,
                                    int64_t *batch_position);
int64_t el_partition_append_batch(el_partition *p, const char *batch, int64_t size,
                                  int64_t expected_end_offset, int32_t durability,
                                  int64_t *batch_position);
int32_t el_partition_sync(el_partition *p);
void el_partition_sync_times(el_partition *p, el_sync_times *out);
/* Seal the active segment, if it holds anything, and begin the next one. Base offset of the active one. */
int64_t el_partition_roll(el_partition *p);
/* Nothing below `offset` is read from now on, in any process; the log start never goes back. */
int32_t el_partition_move_start(el_partition *p, int64_t offset);
/* Sealed segments were removed or replaced: every process looks at the directory again. */
int32_t el_partition_segments_changed(el_partition *p);
/* Nobody, in any process, can append to it from now on, and who waits is woken. */
int32_t el_partition_delete(el_partition *p);
int32_t el_partition_state_read(el_partition *p, el_partition_state *out);
/* Wait until the high watermark is past `offset`: EL_OK, EL_TIMEOUT, EL_INTERRUPTED. */
int32_t el_partition_wait(el_partition *p, int64_t offset, int64_t timeout_ns);
#define EL_CLOSE_DROP 0  /* promise nothing */
#define EL_CLOSE_SYNC 1  /* what was appended is durable; other processes go on */
#define EL_CLOSE_CLEAN 2 /* nobody goes on: also cut the reserved room and close the indexes */
int32_t el_partition_close(el_partition *p, int32_t how);
void el_partition_free(el_partition *p);

/* The headers of the batches that begin at or behind `offset` and end at or below end_offset, as
 * el_batch_check gives them, 13 int64 each; only those of producers (id >= 0) if asked for. Returns how
 * many (at most capacity); *next_offset: where to go on. Batches that are not synced yet count too. */
int32_t el_partition_headers(el_partition *p, int64_t offset, int64_t end_offset,
                             int32_t producers_only, int64_t *fields, int32_t capacity,
                             int64_t *next_offset);

/* -- waiting for anything to happen in a store -------------------------------------------------- */
el_activity *el_activity_open(const char *path);
/* Take a ticket, look, then wait: EL_OK when something happened after the ticket (or now and then
 * without a cause), EL_TIMEOUT, EL_INTERRUPTED. */
uint32_t el_activity_ticket(el_activity *a);
int32_t el_activity_wait(el_activity *a, uint32_t ticket, int64_t timeout_ns);
void el_activity_wake(el_activity *a);
void el_activity_close(el_activity *a);

/* -- reading ---------------------------------------------------------------------------------- */
/* unsynced: read up to the log end, not only up to the high watermark (in a handle that appends). */
el_cursor *el_cursor_open(el_partition *p, int32_t capacity, int32_t unsynced);
int32_t el_cursor_seek(el_cursor *c, int64_t offset);
/* First offset whose timestamp >= the given one; the log end where there is none. */
int64_t el_cursor_find_time(el_cursor *c, int64_t timestamp);
/* The next up to record_count_max records below end_offset; never across a segment. EL_OK with
 * *count > 0, EL_END, EL_COMPRESSED. */
int32_t el_cursor_next(el_cursor *c, int64_t end_offset, int64_t record_count_max,
                       int64_t size_bytes_max, int32_t *count);
/* The compressed batch the cursor stands at: pointer to the payload, and its codec. */
const char *el_cursor_payload(el_cursor *c, int64_t *size, int32_t *codec);
/* That payload cannot be decompressed: returns EL_ERR_CORRUPT, with the place. */
int32_t el_cursor_refuse(el_cursor *c);
/* Give the decompressed payload: it is copied, the cursor goes on inside it. */
int32_t el_cursor_supply(el_cursor *c, const char *data, int64_t size);
/* The records at these offsets, by where they lie (el_view's batch_position, record_position);
 * a run of counts[i] records in a row from each. EL_ERR_RANGE where an offset is not at its
 * place: then seek. */
int32_t el_cursor_gather(el_cursor *c, const int64_t *offsets, const int64_t *batch_positions,
                         const int32_t *record_positions, const int32_t *counts, int32_t runs,
                         int32_t *count);
const el_view *el_cursor_views(el_cursor *c);
/* Where each view lies, for el_cursor_gather. */
int32_t el_cursor_locations(el_cursor *c, int64_t *offsets, int64_t *batch_positions,
                            int32_t *record_positions);
/* The number in header `name` of each view (see el_columns.numbers), or `missing`. */
int32_t el_cursor_numbers(el_cursor *c, const char *name, int64_t missing, int64_t *out);
void el_cursor_close(el_cursor *c);

/* -- compaction (compaction.c): bytes in, bytes out --------------------------------------------- */
#define EL_KEY_MAP_ENTRY 24 /* bytes that a key takes; a fifth of the entries stays free */

/* The batches of one sealed segment, and how far they were gone through. */
typedef struct {
    const char *data;
    int64_t size;
    int64_t position;    /* of the next batch */
    int64_t next_offset; /* it begins there or later */
    int64_t end_offset;  /* where the next segment begins */
    const char *path;    /* for errors */
} el_batches;

typedef struct {
    int64_t now_ms;
    int64_t horizon_ms; /* until then a tombstone stays that is compacted the first time; -1: for ever */
    const int64_t *kept_ends; /* last offsets of the batches that stay even without records, ascending */
    int64_t kept_count;
    int32_t keeps_last; /* so does the last one of the segment */
    int32_t unused;
} el_compaction_rules;

/* What came of filtering. The caller sets `size`; counts go on. */
typedef struct {
    int64_t size;              /* bytes in `out`; what comes next goes behind them */
    int64_t size_needed;       /* EL_FULL: the next batch may need so much */
    int64_t unpacked_position; /* in `out`, of a batch whose records have to be compressed again; -1 */
    int64_t records_read;
    int64_t records_kept;
    int64_t batches_changed; /* or dropped */
    int32_t codec;           /* of the compressed batch */
    int32_t unused;
} el_filtered;

/* A map: hash of a key -> highest offset. hash_key: 16 random bytes. NULL: error. */
el_key_map *el_key_map_new(int64_t size_bytes, const char *hash_key);
void el_key_map_free(el_key_map *m);
/* It knows the records below that offset. */
int64_t el_key_map_end(const el_key_map *m, int64_t *key_count);
/* -1: not there. hash: 16 bytes, or NULL. */
int64_t el_key_map_find(const el_key_map *m, const char *key, int64_t size, char *hash);
/* Put the keys of the records from start_offset on into the map. EL_OK: go on; EL_END: no more batches;
 * EL_FULL: no room for the key at el_key_map_end; EL_COMPRESSED: call again with the decompressed
 * payload of the batch at the position. Batches of transactions are left out. */
int32_t el_key_map_add(el_key_map *m, el_batches *b, int64_t start_offset, const char *payload,
                       int64_t payload_size);
/* Copy what stays to `out`. EL_OK: go on, and compress what lies at unpacked_position, the last in `out`;
 * EL_END, EL_COMPRESSED: as above; EL_FULL: empty `out`, or give a larger one, and call again. */
int32_t el_key_map_filter(el_key_map *m, const el_compaction_rules *rules, el_batches *b,
                          const char *payload, int64_t payload_size, char *out, int64_t capacity,
                          el_filtered *f);

/* -- Python objects (pyobjects.c) ------------------------------------------------------------- */
/* Append what the cursor's views hold to the list: EL_TAKE_*. Exact-type checks; needs CPython. */
int32_t el_cursor_take(el_cursor *c, int32_t take, uintptr_t list, uintptr_t record_type,
                       uintptr_t topic, uintptr_t partition);
