/* An account whose changes are in a log. Each run adds one change, and replays all of them.
 *
 *     account DIRECTORY AMOUNT
 *
 * Build it with the shared library:
 *
 *     cargo build --release -p seawall-capi
 *     cc -I crates/capi/include crates/capi/examples/account.c \
 *         -L target/release -lseawall_capi -Wl,-rpath,target/release -o account
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seawall.h"

/* Prints an error, frees it, and ends the program. */
static void check(SeawallError *error) {
    if (error == NULL)
        return;
    fprintf(stderr, "account: %s\n", error->message);
    if (error->path != NULL)
        fprintf(stderr, "  file: %s\n", error->path);
    if (error->has_offset)
        fprintf(stderr, "  offset: %llu\n", (unsigned long long)error->offset);
    fprintf(stderr, "  remedy: %s\n", error->remedy);
    seawall_error_free(error);
    exit(1);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: account DIRECTORY AMOUNT\n");
        return 2;
    }
    const char *amount = arguments[2];

    SeawallWal *wal;
    check(seawall_open(arguments[1], &wal));

    /* NULL says that the record survives a power cut. */
    uint64_t lsn;
    check(seawall_append(wal, (const uint8_t *)amount, strlen(amount), &lsn));

    SeawallIter *iter;
    check(seawall_iter(wal, &iter));
    long long balance = 0;
    for (;;) {
        SeawallStep step;
        SeawallRecord record;
        check(seawall_iter_next(iter, &step, &record));
        if (step == SEAWALL_STEP_END)
            break;
        char text[32] = {0}; /* A payload does not end with a NUL. */
        if (record.payload_len < sizeof text)
            memcpy(text, record.payload, record.payload_len);
        balance += atoll(text);
    }
    seawall_iter_free(iter);
    printf("change %llu, balance %lld\n", (unsigned long long)lsn, balance);

    check(seawall_close(wal));
    seawall_wal_free(wal);
    return 0;
}
