/* Kills its process right before or right after a write to kiln's catalog. For kills.py, by LD_PRELOAD.
 *
 * A write is what SQLite makes durable at one time: from its first pwrite64 to the catalog or its
 * write-ahead log to the fsync that ends it. KILL_AT is "before N" (nothing of write N is done), "after N"
 * (all of it is, and nothing else) or "count FILE" (a byte in FILE for each).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int before, after, counter = -1;
/* SQLite's own locks see to it that one thread writes at a time. */
static int writes, within;

__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("KILL_AT");
    char file[4096];
    if (at && sscanf(at, "before %d", &before) != 1 && sscanf(at, "after %d", &after) != 1
        && sscanf(at, "count %4095s", file) == 1)
        counter = open(file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    /* What kiln starts is not to be killed. */
    unsetenv("LD_PRELOAD");
}

static int is_catalog(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    const char *name = strrchr(path, '/');
    return name && (!strcmp(name, "/catalog.db") || !strcmp(name, "/catalog.db-wal"));
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "pwrite64");
    if (!within && is_catalog(fd)) {
        within = 1;
        if (++writes == before)
            kill(getpid(), SIGKILL);
    }
    return real(fd, bytes, n, offset);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (within && is_catalog(fd)) {
        within = 0;
        if (counter >= 0 && write(counter, ".", 1) != 1)
            abort();
        if (writes == after)
            kill(getpid(), SIGKILL);
    }
    return result;
}
