/* control.h: the control page of a partition: what processes share about it.
 *
 * A file of one 4 KiB page under run/, mapped by every process that has the partition open. It
 * holds the append lock (robust and process-shared), where the next batch goes, how far the log is
 * written, durable and readable, and a futex that readers wait on. It is of one boot of the machine
 * and one file: a page with another boot id, or copied together with its directory, is not believed.
 *
 * Lock order: sync_mutex of a partition handle > page mutex > table_mutex of a handle.
 */
#ifndef EL_CONTROL_H
#define EL_CONTROL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "batch.h"

#define EL_CONTROL_SIZE 4096
#define EL_CONTROL_MAGIC 0x656c6f6763747232ULL /* "elogctr2" */
#define EL_PENDING_MAX 64 /* index entries kept here before one pwrite takes them to the file */

/* What an append changes. There are two of them, and `current` says which one counts: a writer fills
 * the other one and then moves `current`, so that one who is killed anywhere leaves the state before
 * or the state after, and nothing in between (case C-I). */
typedef struct {
    el_log_end end; /* where the next batch goes */
    int64_t allocated; /* size of the active file */
    int64_t appended_batches;
    int64_t appended_bytes;
    int32_t pending_index_count;
    int32_t pending_time_count;
    int32_t is_sealed; /* the active segment is closed, and making the next one has failed so far */
    int32_t unused;
} el_append_state;

typedef struct {
    uint64_t magic;
    uint8_t boot_id[16];
    uint64_t device;
    uint64_t inode;
    _Atomic uint32_t ready;      /* the fields below are good */
    _Atomic uint32_t is_deleted; /* the topic is: nothing may be appended any more */
    _Atomic uint64_t generation; /* counts the times that the page was filled anew */

    pthread_mutex_t mutex; /* guards the states, the pending entries and the active segment's files */
    el_append_state states[2];
    _Atomic uint32_t current;
    int32_t is_torn; /* an owner died: a part of a batch may lie behind the log end */
    uint8_t pending_index[EL_PENDING_MAX * 8];
    uint8_t pending_time[EL_PENDING_MAX * 12];

    /* Of the current state, for those who do not hold the mutex. */
    _Atomic int64_t log_start_offset;
    _Atomic int64_t active_base_offset;
    _Atomic int64_t active_position;
    _Atomic int64_t log_end_offset;
    _Atomic int64_t appended_batches;
    _Atomic int64_t appended_bytes;

    _Atomic int64_t durable_end_offset;
    _Atomic int64_t durable_bytes; /* of appended_bytes */
    _Atomic int64_t sync_count;
    _Atomic int64_t high_watermark;
    _Atomic uint32_t sequence; /* futex word: changes when the high watermark moves */
    _Atomic uint32_t waiting;  /* somebody waits; set before waiting, cleared by who wakes */
    _Atomic int32_t poisoned_errno;
    _Atomic uint32_t layout; /* counts the times that sealed segments were removed or replaced */
    _Atomic uint32_t has_gaps; /* offsets may be missing: somebody has, or had, it open as such */
} el_control;

_Static_assert(sizeof(el_control) <= EL_CONTROL_SIZE, "the control page is one page");

#define EL_CONTROL_LOOK 0  /* map for reading only */
#define EL_CONTROL_SHARE 1 /* map for waiting: may set the waiting mark */
#define EL_CONTROL_MAKE 2  /* the writer's: made where it is missing or of another file */

/* Map the page at `path`. NULL with el_fail's word. */
el_control *el_control_map(const char *path, int mode);
void el_control_unmap(el_control *page);
/* Is the page of this boot and this very file, and was it filled by a writer? */
int el_control_is_live(const el_control *page);
/* Fill the page anew; only while nobody else has the store open for writing. */
int32_t el_control_begin(el_control *page, const el_log_end *end, int64_t allocated);
/* A private page for a reader that found no live one. */
el_control *el_control_private(const el_log_end *end);

/* Lock for appending. EL_OK or an error. Taken over from an owner who died with it: is_torn is set, and
 * what his append left behind the current state is to be undone. */
int32_t el_control_lock(el_control *page);
void el_control_unlock(el_control *page);
/* A copy of the current state, to be changed and then committed. Mutex held. */
el_append_state *el_control_change(el_control *page);
/* From here on that copy counts; those without the mutex are told. */
void el_control_commit(el_control *page, const el_append_state *state);
/* Move the high watermark up and wake who waits for it. Whether it moved. */
int el_control_publish(el_control *page, int64_t high_watermark);
void el_control_wake(el_control *page);
/* Wait for any change, or until it is time to look again: 0, -ETIMEDOUT or -EINTR. is_writable: this
 * mapping may set the waiting mark. */
int el_control_wait(el_control *page, uint32_t sequence, int64_t timeout_ns, int is_writable);

#endif
