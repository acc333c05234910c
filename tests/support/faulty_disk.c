/* A disk that fails when it is told to. Preloaded, this library counts the system calls on what lies in one folder,
   and has some of them fail. `faulty_disk.py` compiles it, and says what each variable of the environment means. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_SIZE 4096
#define NO_FOLDER ""

static struct {
    char folder[PATH_SIZE];
    char calls[256]; /* ",write,sync," */
    char tally[PATH_SIZE];
    long first;
    int error;
    bool is_lasting;
    bool is_short;
} plan;
static long seen_count;

static const char *setting(const char *name) {
    const char *found = getenv(name);
    return found == NULL ? "" : found;
}

/* Read the plan from the environment again, and count from the beginning. */
__attribute__((constructor)) void faulty_disk_arm(void) {
    const char *mode = setting("FAULTY_DISK_MODE");
    snprintf(plan.folder, sizeof plan.folder, "%s", setting("FAULTY_DISK_FOLDER"));
    snprintf(plan.calls, sizeof plan.calls, ",%s,", setting("FAULTY_DISK_CALLS"));
    snprintf(plan.tally, sizeof plan.tally, "%s", setting("FAULTY_DISK_TALLY"));
    plan.first = atol(setting("FAULTY_DISK_FIRST"));
    plan.error = atoi(setting("FAULTY_DISK_ERRNO"));
    plan.is_lasting = strcmp(mode, "lasting") == 0;
    plan.is_short = strcmp(mode, "short") == 0;
    __atomic_store_n(&seen_count, 0, __ATOMIC_SEQ_CST);
}

/* --- Which calls ------------------------------------------------------------------------------------------ */

static bool is_planned(const char *call) {
    char wanted[32];
    snprintf(wanted, sizeof wanted, ",%s,", call);
    return strstr(plan.calls, wanted) != NULL;
}

static bool is_within(const char *path) {
    size_t length = strlen(plan.folder);
    return length != 0 && strncmp(path, plan.folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static const char *path_of(int descriptor, char *place) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, place, PATH_SIZE - 1);
    place[length < 0 ? 0 : length] = '\0';
    return place;
}

/* The path that a call means which takes the descriptor of a folder as well. */
static const char *path_at(int folder, const char *name, char *place) {
    if (name == NULL)
        return NO_FOLDER;
    if (folder == AT_FDCWD || name[0] == '/')
        return name;
    path_of(folder, place);
    size_t length = strlen(place);
    snprintf(place + length, PATH_SIZE - length, "/%s", name);
    return place;
}

static void note(const char *call, const char *path, bool has_failed) {
    char line[PATH_SIZE + 64];
    if (plan.tally[0] == '\0')
        return;
    int length = snprintf(line, sizeof line, "%s%s %s\n", has_failed ? "!" : "", call, path);
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, plan.tally, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (descriptor >= 0) {
        syscall(SYS_write, descriptor, line, length);
        syscall(SYS_close, descriptor);
    }
}

/* Whether this call on a path has to fail. It is counted. */
static bool fails_at(const char *call, const char *path) {
    int before = errno;
    bool fails = false;
    if (is_within(path) && is_planned(call)) {
        long number = __atomic_add_fetch(&seen_count, 1, __ATOMIC_SEQ_CST);
        fails = plan.first > 0 && (number == plan.first || (plan.is_lasting && number > plan.first));
        note(call, path, fails);
    }
    errno = fails && !plan.is_short ? plan.error : before;
    return fails;
}

static bool fails(const char *call, int descriptor) {
    char place[PATH_SIZE];
    if (plan.folder[0] == '\0' || !is_planned(call))
        return false;
    return fails_at(call, path_of(descriptor, place));
}

#define GENUINE(result, name, ...)                                                                                     \
    static result (*genuine)(__VA_ARGS__);                                                                             \
    if (genuine == NULL)                                                                                               \
        genuine = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* --- Files ------------------------------------------------------------------------------------------------ */

static const char *kind_of_open(int flags) {
    return flags & (O_CREAT | O_WRONLY | O_RDWR) ? "create" : "open";
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        GENUINE(int, #name, const char *, int, ...);                                                                   \
        return fails_at(kind_of_open(flags), path) ? -1 : genuine(path, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                                                                                  \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        char place[PATH_SIZE];                                                                                         \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        GENUINE(int, #name, int, const char *, int, ...);                                                              \
        bool has_failed = fails_at(kind_of_open(flags), path_at(folder, path, place));                                 \
        return has_failed ? -1 : genuine(folder, path, flags, mode);                                                   \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

ssize_t read(int descriptor, void *content, size_t size) {
    GENUINE(ssize_t, "read", int, void *, size_t);
    return fails("read", descriptor) ? -1 : genuine(descriptor, content, size);
}

#define READ_AT(name)                                                                                                  \
    ssize_t name(int descriptor, void *content, size_t size, off_t offset) {                                           \
        GENUINE(ssize_t, #name, int, void *, size_t, off_t);                                                           \
        return fails("read", descriptor) ? -1 : genuine(descriptor, content, size, offset);                            \
    }
READ_AT(pread)
READ_AT(pread64)

ssize_t write(int descriptor, const void *content, size_t size) {
    GENUINE(ssize_t, "write", int, const void *, size_t);
    if (!fails("write", descriptor))
        return genuine(descriptor, content, size);
    if (plan.is_short)
        return genuine(descriptor, content, size > 1 ? size / 2 : size);
    return -1;
}

#define WRITE_AT(name)                                                                                                 \
    ssize_t name(int descriptor, const void *content, size_t size, off_t offset) {                                     \
        GENUINE(ssize_t, #name, int, const void *, size_t, off_t);                                                     \
        if (!fails("write", descriptor))                                                                               \
            return genuine(descriptor, content, size, offset);                                                         \
        if (plan.is_short)                                                                                             \
            return genuine(descriptor, content, size > 1 ? size / 2 : size, offset);                                   \
        return -1;                                                                                                     \
    }
WRITE_AT(pwrite)
WRITE_AT(pwrite64)

#define TRUNCATE(name)                                                                                                 \
    int name(int descriptor, off_t size) {                                                                             \
        GENUINE(int, #name, int, off_t);                                                                               \
        return fails("truncate", descriptor) ? -1 : genuine(descriptor, size);                                         \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

int fsync(int descriptor) {
    GENUINE(int, "fsync", int);
    return fails("sync", descriptor) ? -1 : genuine(descriptor);
}

int fdatasync(int descriptor) {
    GENUINE(int, "fdatasync", int);
    return fails("sync", descriptor) ? -1 : genuine(descriptor);
}

/* As in Linux, the descriptor is closed even so. */
int close(int descriptor) {
    GENUINE(int, "close", int);
    bool has_failed = fails("close", descriptor);
    int error = errno;
    int result = genuine(descriptor);
    if (!has_failed)
        return result;
    errno = error;
    return -1;
}

#define MAP(name)                                                                                                      \
    void *name(void *address, size_t size, int protection, int flags, int descriptor, off_t offset) {                  \
        GENUINE(void *, #name, void *, size_t, int, int, int, off_t);                                                  \
        if (descriptor >= 0 && fails("map", descriptor))                                                               \
            return MAP_FAILED;                                                                                         \
        return genuine(address, size, protection, flags, descriptor, offset);                                          \
    }
MAP(mmap)
MAP(mmap64)

int flock(int descriptor, int operation) {
    GENUINE(int, "flock", int, int);
    return fails("lock", descriptor) ? -1 : genuine(descriptor, operation);
}

#define STATUS(name, type)                                                                                             \
    int name(const char *path, struct type *status) {                                                                  \
        GENUINE(int, #name, const char *, struct type *);                                                              \
        return fails_at("status", path) ? -1 : genuine(path, status);                                                  \
    }
STATUS(stat, stat)
STATUS(stat64, stat64)
STATUS(lstat, stat)
STATUS(lstat64, stat64)

#define STATUS_AT(name, type)                                                                                          \
    int name(int folder, const char *path, struct type *status, int flags) {                                           \
        char place[PATH_SIZE];                                                                                         \
        GENUINE(int, #name, int, const char *, struct type *, int);                                                    \
        return fails_at("status", path_at(folder, path, place)) ? -1 : genuine(folder, path, status, flags);           \
    }
STATUS_AT(fstatat, stat)
STATUS_AT(fstatat64, stat64)

/* --- Names ------------------------------------------------------------------------------------------------ */

int rename(const char *before, const char *after) {
    GENUINE(int, "rename", const char *, const char *);
    return fails_at("rename", after) ? -1 : genuine(before, after);
}

int renameat(int folder, const char *before, int other, const char *after) {
    char place[PATH_SIZE];
    GENUINE(int, "renameat", int, const char *, int, const char *);
    return fails_at("rename", path_at(other, after, place)) ? -1 : genuine(folder, before, other, after);
}

int unlink(const char *path) {
    GENUINE(int, "unlink", const char *);
    return fails_at("unlink", path) ? -1 : genuine(path);
}

int unlinkat(int folder, const char *path, int flags) {
    char place[PATH_SIZE];
    GENUINE(int, "unlinkat", int, const char *, int);
    const char *call = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    return fails_at(call, path_at(folder, path, place)) ? -1 : genuine(folder, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    GENUINE(int, "mkdir", const char *, mode_t);
    return fails_at("mkdir", path) ? -1 : genuine(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    char place[PATH_SIZE];
    GENUINE(int, "mkdirat", int, const char *, mode_t);
    return fails_at("mkdir", path_at(folder, path, place)) ? -1 : genuine(folder, path, mode);
}

int rmdir(const char *path) {
    GENUINE(int, "rmdir", const char *);
    return fails_at("rmdir", path) ? -1 : genuine(path);
}

DIR *opendir(const char *path) {
    GENUINE(DIR *, "opendir", const char *);
    return fails_at("list", path) ? NULL : genuine(path);
}

DIR *fdopendir(int descriptor) {
    GENUINE(DIR *, "fdopendir", int);
    return fails("list", descriptor) ? NULL : genuine(descriptor);
}

/* Who lists a folder asks for one name after the other, and any of these may be the call that fails. */
#define LIST(name, type)                                                                                               \
    struct type *name(DIR *folder) {                                                                                   \
        GENUINE(struct type *, #name, DIR *);                                                                          \
        return fails("list", dirfd(folder)) ? NULL : genuine(folder);                                                  \
    }
LIST(readdir, dirent)
LIST(readdir64, dirent64)
