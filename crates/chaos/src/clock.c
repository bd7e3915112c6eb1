/* Preloaded into a node: adds to the clock of the day what a file of eight bytes says, in
   nanoseconds, little-endian. The variable CHAOS_CLOCK names the file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);
static const volatile unsigned char *jump;

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *bytes = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (bytes != MAP_FAILED)
        jump = bytes;
    close(file);
}

static int64_t jumped(void) {
    uint64_t nanos = 0;
    for (int at = 7; at >= 0; at--)
        nanos = nanos << 8 | jump[at];
    return (int64_t)nanos;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real)
        begin();
    int outcome = real(clock, time);
    if (outcome == 0 && clock == CLOCK_REALTIME && jump) {
        int64_t sum = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + jumped();
        time->tv_sec = sum / 1000000000;
        time->tv_nsec = sum % 1000000000;
    }
    return outcome;
}
