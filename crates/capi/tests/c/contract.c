/* The contract of the header, call by call. A failed check prints its line and ends the program. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "seawall.h"

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

#define OK(call)                                                                 \
    do {                                                                         \
        SeawallError *error_ = (call);                                           \
        if (error_ != NULL)                                                      \
            fprintf(stderr, "%s\n", error_->message);                            \
        REQUIRE(error_ == NULL);                                                 \
    } while (0)

/* Requires an error of a kind, looks at what each error has, and frees it. */
#define FAILS(call, expected)                                                    \
    do {                                                                         \
        SeawallError *error_ = (call);                                           \
        REQUIRE(error_ != NULL && error_->kind == (expected));                   \
        REQUIRE(strstr(error_->message, error_->remedy) != NULL);                \
        REQUIRE(strlen(error_->remedy) > 0);                                     \
        seawall_error_free(error_);                                              \
    } while (0)

#define NULL_FAILS(call) FAILS(call, SEAWALL_ERROR_KIND_INVALID_ARGUMENT)

static const uint8_t *bytes(const char *text) {
    return (const uint8_t *)text;
}

static void null_is_an_error_everywhere(SeawallWal *wal) {
    SeawallOptions *options;
    SeawallIter *iter;
    SeawallFollower *follower;
    SeawallWal *other;
    SeawallStep step;
    SeawallRecord record;
    SeawallBytes state;
    uint64_t lsn;
    uint64_t before;
    OK(seawall_last_lsn(wal, &before));

    NULL_FAILS(seawall_open(NULL, &other));
    NULL_FAILS(seawall_open("unused", NULL));
    NULL_FAILS(seawall_open_with("unused", NULL, &other));
    NULL_FAILS(seawall_append(NULL, bytes("a"), 1, &lsn));
    NULL_FAILS(seawall_append(wal, NULL, 1, &lsn));
    NULL_FAILS(seawall_append(wal, bytes("a"), 1, NULL));
    NULL_FAILS(seawall_append(wal, bytes("a"), SIZE_MAX, &lsn));
    NULL_FAILS(seawall_append_batch(wal, NULL, 1, &lsn));
    SeawallEntry entry = {NULL, 1, NULL, 0, 0};
    NULL_FAILS(seawall_append_batch(wal, &entry, 1, NULL));
    NULL_FAILS(seawall_append_batch(wal, &entry, 1, &lsn));
    NULL_FAILS(seawall_append_batch(wal, &entry, SIZE_MAX, &lsn));
    NULL_FAILS(seawall_sync(NULL, &lsn));
    NULL_FAILS(seawall_sync(wal, NULL));
    NULL_FAILS(seawall_checkpoint(NULL, 1));
    NULL_FAILS(seawall_checkpoint_with(NULL, 1, NULL, 0));
    NULL_FAILS(seawall_checkpoint_with(wal, 0, NULL, 1));
    NULL_FAILS(seawall_set_state(NULL, NULL, 0));
    NULL_FAILS(seawall_set_state(wal, NULL, 1));
    NULL_FAILS(seawall_state(NULL, &state));
    NULL_FAILS(seawall_state(wal, NULL));
    NULL_FAILS(seawall_first_lsn(NULL, &lsn));
    NULL_FAILS(seawall_first_lsn(wal, NULL));
    NULL_FAILS(seawall_last_lsn(NULL, &lsn));
    NULL_FAILS(seawall_last_lsn(wal, NULL));
    NULL_FAILS(seawall_durable_lsn(NULL, &lsn));
    NULL_FAILS(seawall_durable_lsn(wal, NULL));
    NULL_FAILS(seawall_iter(NULL, &iter));
    NULL_FAILS(seawall_iter(wal, NULL));
    NULL_FAILS(seawall_iter_from(NULL, 1, &iter));
    NULL_FAILS(seawall_iter_from(wal, 1, NULL));
    NULL_FAILS(seawall_iter_after(NULL, 1, &iter));
    NULL_FAILS(seawall_iter_after(wal, 1, NULL));
    NULL_FAILS(seawall_iter_next(NULL, &step, &record));
    NULL_FAILS(seawall_follow(NULL, 0, &follower));
    NULL_FAILS(seawall_follow(wal, 0, NULL));
    NULL_FAILS(seawall_follower_next(NULL, &step, &record));
    NULL_FAILS(seawall_follower_next_timeout(NULL, 1, &step, &record));
    NULL_FAILS(seawall_close(NULL));
    NULL_FAILS(seawall_options_new(NULL));
    NULL_FAILS(seawall_options_create_if_missing(NULL, true));
    NULL_FAILS(seawall_options_segment_bytes(NULL, 1));
    NULL_FAILS(seawall_options_record_bytes_max(NULL, 1));
    NULL_FAILS(seawall_options_pending_bytes_max(NULL, 1));
    NULL_FAILS(seawall_options_durability_sync(NULL));
    NULL_FAILS(seawall_options_durability_interval(NULL, 1));
    NULL_FAILS(seawall_options_durability_buffered(NULL));
    NULL_FAILS(seawall_options_codec_lz4(NULL));
    NULL_FAILS(seawall_options_codec_zstd(NULL));
    (void)options;

    seawall_error_free(NULL);
    seawall_options_free(NULL);
    seawall_iter_free(NULL);
    seawall_follower_free(NULL);
    seawall_wal_free(NULL);
    SeawallBytes none = {NULL, 0};
    seawall_bytes_free(none);

    /* Nothing was appended, and no null was followed. */
    OK(seawall_last_lsn(wal, &lsn));
    REQUIRE(lsn == before);
}

static void a_null_place_passes_no_record_over(SeawallWal *wal) {
    uint64_t lsn;
    OK(seawall_append(wal, bytes("kept"), 4, &lsn));
    SeawallIter *iter;
    SeawallStep step;
    SeawallRecord record;
    OK(seawall_iter_from(wal, lsn, &iter));
    NULL_FAILS(seawall_iter_next(iter, NULL, &record));
    NULL_FAILS(seawall_iter_next(iter, &step, NULL));
    OK(seawall_iter_next(iter, &step, &record));
    REQUIRE(step == SEAWALL_STEP_RECORD && record.lsn == lsn);
    seawall_iter_free(iter);
}

static void a_batch_keeps_meta_and_kind(SeawallWal *wal) {
    SeawallEntry entries[] = {
        {bytes("alpha"), 5, bytes("m"), 1, 7},
        {NULL, 0, NULL, 0, 0},
        {bytes("\0\0\0"), 3, NULL, 0, 65535},
    };
    uint64_t first;
    uint64_t next;
    OK(seawall_append_batch(wal, entries, 3, &first));
    OK(seawall_append_batch(wal, NULL, 0, &next)); /* An empty batch writes nothing. */
    uint64_t last;
    OK(seawall_last_lsn(wal, &last));
    REQUIRE(last == first + 2);

    SeawallIter *iter;
    OK(seawall_iter_after(wal, first - 1, &iter));
    SeawallStep step;
    SeawallRecord record;
    for (size_t at = 0; at < 3; at++) {
        OK(seawall_iter_next(iter, &step, &record));
        REQUIRE(step == SEAWALL_STEP_RECORD && record.lsn == first + at);
        REQUIRE(record.kind == entries[at].kind);
        REQUIRE(record.payload_len == entries[at].payload_len);
        REQUIRE(record.payload_len == 0 ||
                memcmp(record.payload, entries[at].payload, record.payload_len) == 0);
        REQUIRE(record.meta_len == entries[at].meta_len);
        REQUIRE(record.meta_len == 0 || memcmp(record.meta, entries[at].meta, 1) == 0);
    }
    OK(seawall_iter_next(iter, &step, &record));
    REQUIRE(step == SEAWALL_STEP_END && record.payload == NULL);
    seawall_iter_free(iter);
}

static void the_state_is_kept_and_a_checkpoint_removes(SeawallWal *wal) {
    OK(seawall_set_state(wal, bytes("vote 2"), 6));
    SeawallBytes state;
    OK(seawall_state(wal, &state));
    REQUIRE(state.len == 6 && memcmp(state.data, "vote 2", 6) == 0);
    seawall_bytes_free(state);

    uint64_t last;
    OK(seawall_last_lsn(wal, &last));
    OK(seawall_checkpoint_with(wal, last, bytes("vote 3"), 6));
    OK(seawall_checkpoint(wal, last));
    uint64_t first;
    OK(seawall_first_lsn(wal, &first));
    REQUIRE(first == last + 1);
    OK(seawall_state(wal, &state));
    REQUIRE(state.len == 6 && memcmp(state.data, "vote 3", 6) == 0);
    seawall_bytes_free(state);
    OK(seawall_set_state(wal, NULL, 0));
    OK(seawall_state(wal, &state));
    REQUIRE(state.len == 0 && state.data != NULL);
    seawall_bytes_free(state);

    SeawallError *error = seawall_checkpoint(wal, last + 100);
    REQUIRE(error != NULL && error->kind == SEAWALL_ERROR_KIND_OUT_OF_RANGE);
    seawall_error_free(error);
    SeawallIter *iter;
    SeawallStep step;
    SeawallRecord record;
    OK(seawall_iter_from(wal, last, &iter));
    error = seawall_iter_next(iter, &step, &record);
    REQUIRE(error != NULL && error->kind == SEAWALL_ERROR_KIND_REMOVED && error->lsn == first);
    seawall_error_free(error);
    seawall_iter_free(iter);
}

static void errors_have_path_and_remedy(SeawallWal *wal, const char *dir) {
    SeawallWal *other;
    SeawallError *error = seawall_open(dir, &other);
    REQUIRE(error != NULL && error->kind == SEAWALL_ERROR_KIND_LOCKED);
    REQUIRE(error->path != NULL && strstr(error->path, "LOCK") != NULL);
    REQUIRE(!error->has_offset && error->offset == 0 && !error->has_lost);
    REQUIRE(strcmp(error->remedy, "close it there first") == 0);
    seawall_error_free(error);

    SeawallOptions *options;
    OK(seawall_options_new(&options));
    OK(seawall_options_create_if_missing(options, false));
    char missing[600];
    snprintf(missing, sizeof missing, "%s-missing", dir);
    FAILS(seawall_open_with(missing, options, &other), SEAWALL_ERROR_KIND_NOT_FOUND);
    OK(seawall_options_create_if_missing(options, true));
    OK(seawall_options_segment_bytes(options, 1));
    FAILS(seawall_open_with(missing, options, &other), SEAWALL_ERROR_KIND_INVALID_OPTION);
    OK(seawall_options_segment_bytes(options, 1 << 20));
    OK(seawall_options_pending_bytes_max(options, 1 << 20));
    OK(seawall_options_durability_interval(options, 5));
    OK(seawall_options_codec_lz4(options));
    OK(seawall_options_durability_sync(options));
    OK(seawall_options_codec_zstd(options));
    OK(seawall_options_durability_buffered(options));
    OK(seawall_options_record_bytes_max(options, 4));
    OK(seawall_open_with(missing, options, &other));
    seawall_options_free(options);

    uint64_t lsn;
    FAILS(seawall_append(other, bytes("12345"), 5, &lsn), SEAWALL_ERROR_KIND_TOO_LARGE);
    OK(seawall_append(other, bytes("1234"), 4, &lsn));
    uint64_t durable;
    OK(seawall_durable_lsn(other, &durable));
    REQUIRE(durable == 0);
    OK(seawall_sync(other, &durable));
    REQUIRE(durable == 1);
    SeawallIter *iter;
    OK(seawall_iter(other, &iter));
    seawall_wal_free(other); /* It closes the log. The iterator may outlive it. */
    SeawallStep step;
    SeawallRecord record;
    FAILS(seawall_iter_next(iter, &step, &record), SEAWALL_ERROR_KIND_CLOSED);
    seawall_iter_free(iter);
    (void)wal;
}

/* Damages one byte of the newest record, and opens the log again. */
static void damage_has_a_file_an_offset_and_lost_records(const char *dir) {
    char damaged[600];
    snprintf(damaged, sizeof damaged, "%s-damaged", dir);
    SeawallWal *wal;
    OK(seawall_open(damaged, &wal));
    uint64_t lsn;
    OK(seawall_append(wal, bytes("to be damaged"), 13, &lsn));
    OK(seawall_close(wal));
    seawall_wal_free(wal);

    char name[700];
    snprintf(name, sizeof name, "%s/wal-000001.log", damaged);
    FILE *file = fopen(name, "r+b");
    REQUIRE(file != NULL);
    static char content[1 << 20];
    size_t size = fread(content, 1, sizeof content, file);
    size_t at = 0;
    while (at + 13 <= size && memcmp(content + at, "to be damaged", 13) != 0)
        at++;
    REQUIRE(at + 13 <= size);
    REQUIRE(fseek(file, (long)at, SEEK_SET) == 0);
    REQUIRE(fputc('T', file) == 'T' && fclose(file) == 0);

    SeawallError *error = seawall_open(damaged, &wal);
    REQUIRE(error != NULL && error->kind == SEAWALL_ERROR_KIND_CORRUPT);
    REQUIRE(error->path != NULL && strcmp(error->path, name) == 0);
    REQUIRE(error->has_offset && error->offset > 0 && error->offset <= at);
    REQUIRE(error->has_lost && error->lost_first == lsn && error->lost_count == 1);
    seawall_error_free(error);
}

struct Following {
    SeawallFollower *follower;
    uint64_t records;
};

static void *follow(void *argument) {
    struct Following *following = argument;
    SeawallStep step;
    SeawallRecord record;
    for (;;) {
        OK(seawall_follower_next(following->follower, &step, &record));
        if (step == SEAWALL_STEP_END)
            return NULL;
        REQUIRE(step == SEAWALL_STEP_RECORD);
        following->records++;
    }
}

static void *append(void *argument) {
    for (int count = 0; count < 50; count++) {
        uint64_t lsn;
        OK(seawall_append(argument, bytes("from a thread"), 13, &lsn));
    }
    return NULL;
}

/* Four threads append, two follow. The close ends the followers after the last record. */
static void threads_share_a_log_and_a_close_ends_followers(SeawallWal *wal) {
    uint64_t last;
    OK(seawall_last_lsn(wal, &last));
    SeawallStep step;
    SeawallRecord record;
    SeawallFollower *waiting;
    OK(seawall_follow(wal, last, &waiting));
    OK(seawall_follower_next_timeout(waiting, 1, &step, &record));
    REQUIRE(step == SEAWALL_STEP_TIMED_OUT);

    struct Following following[2] = {{waiting, 0}, {NULL, 0}};
    OK(seawall_follow(wal, last, &following[1].follower));
    pthread_t threads[6];
    for (int at = 0; at < 2; at++)
        REQUIRE(pthread_create(&threads[at], NULL, follow, &following[at]) == 0);
    for (int at = 2; at < 6; at++)
        REQUIRE(pthread_create(&threads[at], NULL, append, wal) == 0);
    for (int at = 2; at < 6; at++)
        REQUIRE(pthread_join(threads[at], NULL) == 0);
    OK(seawall_close(wal));
    for (int at = 0; at < 2; at++) {
        REQUIRE(pthread_join(threads[at], NULL) == 0);
        REQUIRE(following[at].records == 200);
        seawall_follower_free(following[at].follower);
    }
    uint64_t lsn;
    FAILS(seawall_append(wal, bytes("late"), 4, &lsn), SEAWALL_ERROR_KIND_CLOSED);
    FAILS(seawall_close(wal), SEAWALL_ERROR_KIND_CLOSED);
}

int main(int count, char **arguments) {
    REQUIRE(count == 2);
    SeawallWal *wal;
    OK(seawall_open(arguments[1], &wal));
    null_is_an_error_everywhere(wal);
    a_null_place_passes_no_record_over(wal);
    a_batch_keeps_meta_and_kind(wal);
    the_state_is_kept_and_a_checkpoint_removes(wal);
    errors_have_path_and_remedy(wal, arguments[1]);
    damage_has_a_file_an_offset_and_lost_records(arguments[1]);
    threads_share_a_log_and_a_close_ends_followers(wal);
    seawall_wal_free(wal);
    printf("version %s: all held\n", seawall_version());
    return 0;
}
