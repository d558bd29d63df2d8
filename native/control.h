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
#define EL_CONTROL_MAGIC 0x656c6f6763747231ULL /* "elogctr1" */
#define EL_PENDING_MAX 64 /* index entries kept here before one pwrite takes them to the file */

typedef struct {
    uint64_t magic;
    uint8_t boot_id[16];
    uint64_t device;
    uint64_t inode;
    _Atomic uint32_t ready;   /* the fields below are good */
    _Atomic int32_t writer_pid;
    _Atomic uint64_t generation; /* counts the times that a writer began here */

    pthread_mutex_t mutex; /* guards `end`, the pending entries and the active segment's files */
    el_log_end end;        /* where the next batch goes */
    int32_t pending_index_count;
    int32_t pending_time_count;
    int32_t is_sealed; /* the active segment is closed, and making the next one has failed so far */
    uint8_t pending_index[EL_PENDING_MAX * 8];
    uint8_t pending_time[EL_PENDING_MAX * 12];

    _Atomic int64_t log_start_offset;
    _Atomic int64_t log_end_offset;
    _Atomic int64_t durable_end_offset;
    _Atomic int64_t high_watermark;
    _Atomic uint32_t sequence; /* futex word: changes when the high watermark moves */
    _Atomic uint32_t waiting;  /* somebody waits; set before waiting, cleared by who wakes */
    _Atomic int32_t poisoned_errno;
    _Atomic int64_t appended_batches;
    _Atomic int64_t appended_bytes;
    _Atomic int64_t durable_bytes; /* of appended_bytes */
    _Atomic int64_t sync_count;
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
/* Fill the page anew; only while nobody else may write (the store's writer lock is held). */
int32_t el_control_begin(el_control *page, const el_log_end *end);
/* A private page for a reader that found no live one. */
el_control *el_control_private(const el_log_end *end);

/* Lock for appending. EL_OK, EL_END: taken over from a dead owner (its append is to be undone), or
 * an error. */
int32_t el_control_lock(el_control *page);
void el_control_unlock(el_control *page);
/* Move the high watermark up and wake who waits for it. */
void el_control_publish(el_control *page, int64_t high_watermark);
void el_control_wake(el_control *page);
/* Wait for any change; is_writable: this mapping may set the waiting mark. */
int el_control_wait(el_control *page, uint32_t sequence, int64_t timeout_ns, int is_writable);

#endif
