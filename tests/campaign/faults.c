/* System calls that fail, or the end of the process, at the n-th call on a file below a folder.
 *
 * Loaded with LD_PRELOAD. Armed by faults_arm, or at the start of a process by the environment variable FAULTS, which
 * holds its arguments as "kinds:nth:number:lasting:folder".
 *
 * Each attempt to reach the network adds a line to the file that the variable CONNECTIONS names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, RENAME = 16, UNLINK = 32, MKDIR = 64 };

static char folder[PATH_MAX];
static unsigned armed; /* the kinds of calls that count; 0: none */
static long remaining, seen;
static int failure, lasting;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Let the nth call of these kinds fail with an error number, or kill the process if that is 0; if `last`, so do all
 * later ones. With nth = 0 calls are only counted. */
void faults_arm(const char *place, unsigned kinds, long nth, int number, int last)
{
    snprintf(folder, sizeof folder, "%s", place);
    remaining = nth, failure = number, lasting = last, seen = 0, armed = kinds;
}

long faults_seen(void) { return seen; }

__attribute__((constructor)) static void arm_from_environment(void)
{
    unsigned kinds;
    long nth;
    int number, last, read = 0;
    const char *text = getenv("FAULTS");
    if (text && sscanf(text, "%u:%ld:%d:%d:%n", &kinds, &nth, &number, &last, &read) == 4 && read)
        faults_arm(text + read, kinds, nth, number, last);
}

static int is_below(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int names(int directory, const char *path)
{
    char whole[2 * PATH_MAX], link[64], base[PATH_MAX];
    if (path[0] == '/')
        return is_below(path);
    if (directory == AT_FDCWD) {
        if (!getcwd(base, sizeof base))
            return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0)
            return 0;
        base[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return is_below(whole);
}

/* Whether this call is to fail; returns only for failures and for calls that proceed. */
static int due(unsigned kind, int directory, const char *path)
{
    int before = errno;
    if (!(armed & kind) || !names(directory, path)) {
        errno = before;
        return 0;
    }
    errno = before;
    seen++;
    if (remaining == 0 || (--remaining > 0))
        return 0;
    remaining = lasting; /* 1: the next one is due as well; 0: none is */
    return 1;
}

static int due_here(unsigned kind, int descriptor)
{
    char link[64], path[PATH_MAX];
    int before = errno;
    if (!(armed & kind))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return path[0] == '/' && due(kind, AT_FDCWD, path);
}

static int fail(void)
{
    if (failure == 0)
        kill(getpid(), SIGKILL);
    errno = failure;
    return -1;
}

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...)                                                                        \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return due(OPEN, AT_FDCWD, path) ? fail() : REAL(name)(path, flags, mode);                                     \
    }
#define OPENS_AT(name)                                                                                                 \
    int name(int directory, const char *path, int flags, ...)                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return due(OPEN, directory, path) ? fail() : REAL(name)(directory, path, flags, mode);                         \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t read(int file, void *into, size_t size) { return due_here(READ, file) ? fail() : REAL(read)(file, into, size); }

/* A process that is killed while it writes has written a part. */
ssize_t write(int file, const void *from, size_t size)
{
    if (!due_here(WRITE, file))
        return REAL(write)(file, from, size);
    if (failure == 0)
        REAL(write)(file, from, size / 2);
    return fail();
}

ssize_t writev(int file, const struct iovec *parts, int number)
{
    return due_here(WRITE, file) ? fail() : REAL(writev)(file, parts, number);
}

ssize_t pwrite(int file, const void *from, size_t size, off_t place)
{
    return due_here(WRITE, file) ? fail() : REAL(pwrite)(file, from, size, place);
}

ssize_t pwrite64(int file, const void *from, size_t size, off64_t place)
{
    return due_here(WRITE, file) ? fail() : REAL(pwrite64)(file, from, size, place);
}

int fsync(int file) { return due_here(SYNC, file) ? fail() : REAL(fsync)(file); }
int fdatasync(int file) { return due_here(SYNC, file) ? fail() : REAL(fdatasync)(file); }

int rename(const char *from, const char *to) { return due(RENAME, AT_FDCWD, to) ? fail() : REAL(rename)(from, to); }

int renameat(int here, const char *from, int there, const char *to)
{
    return due(RENAME, there, to) ? fail() : REAL(renameat)(here, from, there, to);
}

int unlink(const char *path) { return due(UNLINK, AT_FDCWD, path) ? fail() : REAL(unlink)(path); }

int unlinkat(int directory, const char *path, int flags)
{
    return due(UNLINK, directory, path) ? fail() : REAL(unlinkat)(directory, path, flags);
}

int rmdir(const char *path) { return due(UNLINK, AT_FDCWD, path) ? fail() : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { return due(MKDIR, AT_FDCWD, path) ? fail() : REAL(mkdir)(path, mode); }

static void note(const char *call, const char *what)
{
    const char *path = getenv("CONNECTIONS");
    int before = errno, file = path ? REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file >= 0) {
        dprintf(file, "%s %s\n", call, what);
        close(file);
    }
    errno = before;
}

int connect(int descriptor, const struct sockaddr *to, socklen_t size)
{
    if (to->sa_family == AF_INET || to->sa_family == AF_INET6)
        note("connect", to->sa_family == AF_INET ? "IPv4" : "IPv6");
    return REAL(connect)(descriptor, to, size);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    note("getaddrinfo", host ? host : "");
    return REAL(getaddrinfo)(host, service, hints, found);
}
