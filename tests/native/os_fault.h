/* os_fault.h: how tests steer and read the faulty file layer (os_fault.c). Read by the C compiler
 * and by cffi alike, as abi.h is.
 *
 * Every call of os.h that a file system can refuse has a number, counted from 0 since the last
 * el_fault_reset(). A plan makes something happen at one number.
 */

/* What kind of operation, in el_fault_operation.kind. */
#define EL_FAULT_OPEN 1
#define EL_FAULT_PREAD 2
#define EL_FAULT_PWRITE 3
#define EL_FAULT_FDATASYNC 4
#define EL_FAULT_FSYNC 5
#define EL_FAULT_FTRUNCATE 6
#define EL_FAULT_FALLOCATE 7
#define EL_FAULT_RENAME 8
#define EL_FAULT_UNLINK 9
#define EL_FAULT_MKDIR 10
#define EL_FAULT_SIZE 11
#define EL_FAULT_MAP 12
#define EL_FAULT_LOCK 13

/* What is to happen at the planned number. */
#define EL_FAULT_NONE 0
#define EL_FAULT_ONCE 1       /* that operation fails with errno `value` and does nothing */
#define EL_FAULT_STICKY 2     /* it and every later operation fails with errno `value` */
#define EL_FAULT_SHORT 3      /* if it is a pread or pwrite, only `value` bytes are moved */
#define EL_FAULT_SHORT_FULL 4 /* as SHORT; then the disk is full */
#define EL_FAULT_FULL 5       /* the disk is full: from here on all that needs space gets ENOSPC */
#define EL_FAULT_SYNCS 6      /* from here on every fsync and fdatasync fails with errno `value` */
#define EL_FAULT_KILL 7       /* the process ends before the operation, with status `value` */

#define EL_FAULT_LOST 8       /* if it is a sync, it fails with errno `value`, and what it was to make
                                 durable is gone: zeros, as read from a disk that never got it */

/* One operation that changed something, or an fsync that failed. */
typedef struct {
    int64_t number;
    int64_t position;   /* pwrite, fallocate */
    int64_t size;       /* pwrite: bytes written; ftruncate: new size; fallocate */
    int32_t kind;
    int32_t os_errno;   /* 0; not 0 only for an fsync or fdatasync that failed */
    const char *path;   /* as the file is called at that moment; "" if it was unlinked */
    const char *target; /* rename */
    const char *data;   /* pwrite */
} el_fault_operation;

/* Forget trace, count and plan. Pointers that el_fault_trace_read gave are void then. */
void el_fault_reset(void);
/* Replaces an earlier plan; EL_FAULT_NONE lifts it. The count goes on. */
void el_fault_plan(int64_t number, int32_t kind, int32_t value);
/* Operations so far. */
int64_t el_fault_count(void);
/* How often the plan was carried out. */
int64_t el_fault_fired(void);
/* EL_FAULT_* of an operation by its number, 0 where there is none. */
int32_t el_fault_kind(int64_t number);
int64_t el_fault_trace_count(void);
/* 0, or -1 where there is no such entry. */
int32_t el_fault_trace_read(int64_t index, el_fault_operation *out);
/* 0: fsync and fdatasync are noted and may fail, but the disk is not troubled with them (speed). */
void el_fault_real_syncs(int32_t is_on);
/* What el_os_boot_id tells from now on; NULL: this machine's. */
void el_fault_boot_id(const char *boot_id);
