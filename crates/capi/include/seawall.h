/* The C API of seawall, a crash-safe write-ahead log. MIT licence.
 *
 * Generated from crates/capi/src by a test. Do not edit it.
 *
 * ERRORS. A call that can fail returns NULL for success, or an error that the caller frees with
 * `seawall_error_free`. After an error, what the call was to write is not written. A null pointer
 * where one is needed is an error and no crash. A panic is an error of the kind
 * SEAWALL_ERROR_KIND_PANICKED; it never crosses into C.
 *
 * THREADS. Any number of threads may use one `SeawallWal` at the same time. One thread at a time
 * may use a `SeawallOptions`, a `SeawallIter` or a `SeawallFollower`; it need not be the thread
 * that made it. No call may run on a handle while or after it is freed.
 *
 * OWNERSHIP. Each handle is freed once, with the function of its type, in any order: iterators and
 * followers may outlive their log. NULL can be freed, and nothing happens. What the caller passes
 * in is copied or only read during the call.
 *
 * PATHS are the bytes that the system uses on Unix, and UTF-8 on Windows. Texts are UTF-8. Both end
 * with a NUL.
 */

#ifndef SEAWALL_H
#define SEAWALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * What failed. The message of the error has the details.
 */
typedef enum SeawallErrorKind {
    /**
     * An argument is null, or has a length that nothing has. Nothing was done.
     */
    SEAWALL_ERROR_KIND_INVALID_ARGUMENT = 1,
    /**
     * The system refused a call. The log stays usable, unless the next call says `POISONED`.
     */
    SEAWALL_ERROR_KIND_IO = 2,
    /**
     * The disk or the quota is full. Nothing of the call was appended, and the log stays usable.
     */
    SEAWALL_ERROR_KIND_STORAGE_FULL = 3,
    /**
     * Stored bytes contradict the format, or acknowledged bytes are gone. No file was changed.
     */
    SEAWALL_ERROR_KIND_CORRUPT = 4,
    /**
     * A segment that the log needs is not there. No file was changed.
     */
    SEAWALL_ERROR_KIND_MISSING_SEGMENT = 5,
    /**
     * The files are sound, and a later release or an unknown codec wrote them.
     */
    SEAWALL_ERROR_KIND_UNSUPPORTED_VERSION = 6,
    /**
     * Another handle, in this or another process, has the log open.
     */
    SEAWALL_ERROR_KIND_LOCKED = 7,
    /**
     * Files have the names of a log, and this library did not write them.
     */
    SEAWALL_ERROR_KIND_NOT_A_LOG = 8,
    /**
     * There is no log, and the options forbid making one.
     */
    SEAWALL_ERROR_KIND_NOT_FOUND = 9,
    /**
     * An option is outside its range. Nothing was opened.
     */
    SEAWALL_ERROR_KIND_INVALID_OPTION = 10,
    /**
     * A record, its meta, a state or a batch is too large. Nothing was written.
     */
    SEAWALL_ERROR_KIND_TOO_LARGE = 11,
    /**
     * The next record has another LSN than the caller expected. `lsn` is the one that it has.
     */
    SEAWALL_ERROR_KIND_LSN_MISMATCH = 12,
    /**
     * A wait with a limit ended. Nothing is lost.
     */
    SEAWALL_ERROR_KIND_TIMED_OUT = 13,
    /**
     * The call does not take this LSN. `lsn` is the lowest LSN that it takes.
     */
    SEAWALL_ERROR_KIND_OUT_OF_RANGE = 14,
    /**
     * The record is at or below the checkpoint. `lsn` is the first one that the log has.
     */
    SEAWALL_ERROR_KIND_REMOVED = 15,
    /**
     * A truncation removed the record. `lsn` is the last one that was kept.
     */
    SEAWALL_ERROR_KIND_TRUNCATED = 16,
    /**
     * Too much is pending. Nothing was appended.
     */
    SEAWALL_ERROR_KIND_QUEUE_FULL = 17,
    /**
     * The directory or the newest segment was removed or replaced while the log was open.
     */
    SEAWALL_ERROR_KIND_DISPLACED = 18,
    /**
     * An earlier write or sync failed. `lsn` is the last record that is surely on disk. Close the
     * log, open it again, and look before you append the record of the failed call again.
     */
    SEAWALL_ERROR_KIND_POISONED = 19,
    /**
     * A thread panicked inside the library. Please report it.
     */
    SEAWALL_ERROR_KIND_PANICKED = 20,
    /**
     * The log was closed.
     */
    SEAWALL_ERROR_KIND_CLOSED = 21,
    /**
     * A kind that a later release of the library added. Read the message.
     */
    SEAWALL_ERROR_KIND_OTHER = 22,
} SeawallErrorKind;

/**
 * What a step of an iterator or a follower found.
 */
typedef enum SeawallStep {
    /**
     * There is no more: the iterator is at its end, or the log of the follower was closed.
     */
    SEAWALL_STEP_END = 0,
    /**
     * There is a record.
     */
    SEAWALL_STEP_RECORD = 1,
    /**
     * The time is over, and there is no record yet. The follower goes on.
     */
    SEAWALL_STEP_TIMED_OUT = 2,
} SeawallStep;

/**
 * Reads the records of a log in order, and waits for more. One thread at a time may use it.
 */
typedef struct SeawallFollower SeawallFollower;

/**
 * Reads the records of a log in order. One thread at a time may use it.
 */
typedef struct SeawallIter SeawallIter;

/**
 * Options of a log, which begin as the defaults.
 */
typedef struct SeawallOptions SeawallOptions;

/**
 * An open log. Any number of threads may use it at the same time.
 */
typedef struct SeawallWal SeawallWal;

/**
 * What failed and where. Later releases may add fields at the end.
 */
typedef struct SeawallError {
    /**
     * What failed.
     */
    enum SeawallErrorKind kind;
    /**
     * The whole text: what failed, where, and the remedy. Never null.
     */
    const char *message;
    /**
     * What to do about it. Never null.
     */
    const char *remedy;
    /**
     * The file or directory, or null if the failure is not about one.
     */
    const char *path;
    /**
     * Whether `offset` is known.
     */
    bool has_offset;
    /**
     * The position in the file, in bytes, or 0.
     */
    uint64_t offset;
    /**
     * The LSN that the kind of the error describes, or 0.
     */
    uint64_t lsn;
    /**
     * Whether it is known which records damage has lost; see `lost_count`.
     */
    bool has_lost;
    /**
     * The first record that is lost, or 0.
     */
    uint64_t lost_first;
    /**
     * How many records are lost from `lost_first` on. 0 with `has_lost` says that none is.
     */
    uint64_t lost_count;
} SeawallError;

/**
 * A record that was read. Its bytes live until the next call on its iterator or follower.
 */
typedef struct SeawallRecord {
    /**
     * Its number.
     */
    uint64_t lsn;
    /**
     * The payload. Never null if there is a record.
     */
    const uint8_t *payload;
    /**
     * The size of the payload, in bytes.
     */
    size_t payload_len;
    /**
     * The bytes beside the payload. Never null if there is a record.
     */
    const uint8_t *meta;
    /**
     * The size of the meta bytes.
     */
    size_t meta_len;
    /**
     * The number that was given to `seawall_append_batch`, or 0.
     */
    uint16_t kind;
} SeawallRecord;

/**
 * A record to append.
 */
typedef struct SeawallEntry {
    /**
     * The payload. It may be null if `payload_len` is 0.
     */
    const uint8_t *payload;
    /**
     * The size of the payload, in bytes.
     */
    size_t payload_len;
    /**
     * Bytes beside the payload, such as a Raft term. They may be null if `meta_len` is 0.
     */
    const uint8_t *meta;
    /**
     * The size of the meta bytes.
     */
    size_t meta_len;
    /**
     * A number for the caller's use.
     */
    uint16_t kind;
} SeawallEntry;

/**
 * Bytes that the library allocated. The caller frees them with `seawall_bytes_free`.
 */
typedef struct SeawallBytes {
    /**
     * The bytes. Never null, but only `len` of them can be read.
     */
    const uint8_t *data;
    /**
     * How many there are.
     */
    size_t len;
} SeawallBytes;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Frees an error and its texts. NULL is ignored.
 */
void seawall_error_free(struct SeawallError *error);

/**
 * Makes options with the defaults.
 */
struct SeawallError *seawall_options_new(struct SeawallOptions **options);

/**
 * Frees options. A log that was opened with them keeps them. NULL is ignored.
 */
void seawall_options_free(struct SeawallOptions *options);

/**
 * Says whether a log that is not there is made. Default true.
 */
struct SeawallError *seawall_options_create_if_missing(struct SeawallOptions *options, bool create);

/**
 * Sets the size at which a segment is sealed, in bytes. Default 64 MiB, at least 16 KiB, at most
 * 1 TiB.
 */
struct SeawallError *seawall_options_segment_bytes(struct SeawallOptions *options, uint64_t bytes);

/**
 * Sets the largest payload of a record, in bytes. Default 16 MiB.
 */
struct SeawallError *seawall_options_record_bytes_max(struct SeawallOptions *options,
                                                      uint64_t bytes);

/**
 * Sets how much may be appended and not yet written, in bytes, before an append waits. Default
 * 8 MiB.
 */
struct SeawallError *seawall_options_pending_bytes_max(struct SeawallOptions *options,
                                                       uint64_t bytes);

/**
 * An append returns when its record survives a power cut. The default.
 */
struct SeawallError *seawall_options_durability_sync(struct SeawallOptions *options);

/**
 * An append returns when its record survives a killed process. The log syncs each `interval_ms`
 * milliseconds, which must be above 0. A power cut may lose the records of the last interval.
 */
struct SeawallError *seawall_options_durability_interval(struct SeawallOptions *options,
                                                         uint64_t interval_ms);

/**
 * An append returns when its record is in memory. It is durable after the next `seawall_sync`.
 */
struct SeawallError *seawall_options_durability_buffered(struct SeawallOptions *options);

/**
 * Compresses what is written with LZ4. Each log can be read without this.
 */
struct SeawallError *seawall_options_codec_lz4(struct SeawallOptions *options);

/**
 * Compresses what is written with Zstandard at its default level. Each log can be read without
 * this.
 */
struct SeawallError *seawall_options_codec_zstd(struct SeawallOptions *options);

/**
 * Makes an iterator over the records above the checkpoint, up to the last durable one now.
 */
struct SeawallError *seawall_iter(const struct SeawallWal *wal, struct SeawallIter **iter);

/**
 * Makes an iterator over the records from `lsn` on, up to the last durable one now.
 */
struct SeawallError *seawall_iter_from(const struct SeawallWal *wal,
                                       uint64_t lsn,
                                       struct SeawallIter **iter);

/**
 * Makes an iterator over the records after `lsn`, up to the last durable one now.
 */
struct SeawallError *seawall_iter_after(const struct SeawallWal *wal,
                                        uint64_t lsn,
                                        struct SeawallIter **iter);

/**
 * Reads the next record. `step` says whether there is one, and then `record` describes it.
 */
struct SeawallError *seawall_iter_next(struct SeawallIter *iter,
                                       enum SeawallStep *step,
                                       struct SeawallRecord *record);

/**
 * Frees an iterator. NULL is ignored.
 */
void seawall_iter_free(struct SeawallIter *iter);

/**
 * Makes a follower: it yields each durable record after `lsn` once, and waits for more.
 */
struct SeawallError *seawall_follow(const struct SeawallWal *wal,
                                    uint64_t lsn,
                                    struct SeawallFollower **follower);

/**
 * Reads the next record, and waits until there is one or the log is closed: END.
 */
struct SeawallError *seawall_follower_next(struct SeawallFollower *follower,
                                           enum SeawallStep *step,
                                           struct SeawallRecord *record);

/**
 * Reads the next record, and waits for it for `timeout_ms` milliseconds at most: TIMED_OUT.
 */
struct SeawallError *seawall_follower_next_timeout(struct SeawallFollower *follower,
                                                   uint64_t timeout_ms,
                                                   enum SeawallStep *step,
                                                   struct SeawallRecord *record);

/**
 * Frees a follower. NULL is ignored.
 */
void seawall_follower_free(struct SeawallFollower *follower);

/**
 * Returns the version of the library, such as "0.1.0". It is not freed.
 */
const char *seawall_version(void);

/**
 * Opens the log in a directory with the default options. Makes it if it is not there, and recovers
 * it after a crash.
 */
struct SeawallError *seawall_open(const char *dir, struct SeawallWal **wal);

/**
 * Opens the log in a directory with options, which can be used again.
 */
struct SeawallError *seawall_open_with(const char *dir,
                                       const struct SeawallOptions *options,
                                       struct SeawallWal **wal);

/**
 * Appends one record. With the default options, NULL says that it survives a power cut. Blocks for
 * a sync. `lsn` gets its number.
 */
struct SeawallError *seawall_append(const struct SeawallWal *wal,
                                    const uint8_t *payload,
                                    size_t payload_len,
                                    uint64_t *lsn);

/**
 * Appends all entries or none of them: they share one sync, and a crash leaves all or none. `first`
 * gets the number of the first one, and the others follow it. An empty batch writes nothing.
 */
struct SeawallError *seawall_append_batch(const struct SeawallWal *wal,
                                          const struct SeawallEntry *entries,
                                          size_t count,
                                          uint64_t *first);

/**
 * Makes all that was appended durable. `durable` gets the last durable LSN.
 */
struct SeawallError *seawall_sync(const struct SeawallWal *wal, uint64_t *durable);

/**
 * Declares that the records up to `lsn` are no longer needed: they are never read again, and files
 * that hold nothing else are removed.
 */
struct SeawallError *seawall_checkpoint(const struct SeawallWal *wal, uint64_t lsn);

/**
 * Makes a checkpoint and stores a small state with it: a crash leaves both or neither.
 */
struct SeawallError *seawall_checkpoint_with(const struct SeawallWal *wal,
                                             uint64_t lsn,
                                             const uint8_t *state,
                                             size_t state_len);

/**
 * Stores a small state with the log: at most 64 KiB, replaced as a whole, durable on return.
 */
struct SeawallError *seawall_set_state(const struct SeawallWal *wal,
                                       const uint8_t *state,
                                       size_t state_len);

/**
 * Reads the small state. `state` gets bytes that the caller frees with `seawall_bytes_free`. The
 * state of a new log is empty.
 */
struct SeawallError *seawall_state(const struct SeawallWal *wal, struct SeawallBytes *state);

/**
 * Frees bytes. Bytes whose `data` is NULL are ignored.
 */
void seawall_bytes_free(struct SeawallBytes bytes);

/**
 * Writes the first LSN that the log has, or will have, to `lsn`.
 */
struct SeawallError *seawall_first_lsn(const struct SeawallWal *wal, uint64_t *lsn);

/**
 * Writes the last LSN that was appended to `lsn`, or the one before the first.
 */
struct SeawallError *seawall_last_lsn(const struct SeawallWal *wal, uint64_t *lsn);

/**
 * Writes the last LSN that survives a power cut to `lsn`.
 */
struct SeawallError *seawall_durable_lsn(const struct SeawallWal *wal, uint64_t *lsn);

/**
 * Closes the log: writes and syncs what is pending, and gives its lock back. Waiting followers end.
 * Each later call on it says `CLOSED`. The handle is still to be freed. After `STORAGE_FULL` and
 * `IO`, the log is still open.
 */
struct SeawallError *seawall_close(const struct SeawallWal *wal);

/**
 * Frees the handle. Closes the log first if it is open, and ignores an error then. NULL is ignored.
 */
void seawall_wal_free(struct SeawallWal *wal);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SEAWALL_H */
