/*
 * models/program/options/lock.c - keeps two runs from writing the same file
 *
 * The lock is the system's, on a file beside the one that is written, which is itself replaced again and again. It ends
 * with the process, however that ends: a lock file that was left behind locks nothing.
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether the file that was opened still has this name: the run that had the lock may just have removed it. */
static int still_has_name(int descriptor, const char *path) {
    struct stat opened, named;
    return fstat(descriptor, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

static int is_locked(const cli_command *command, int descriptor, const char *output) {
    struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(descriptor, F_GETLK, &holder) != 0 || holder.l_type == F_UNLCK) holder.l_pid = 0;
    return cli_fail(command, "process %ld is writing %.300s: wait until it is done, or choose another -o",
                    (long)holder.l_pid, output);
}

int cli_lock_output(const cli_command *command, cli_lock *lock, const char *output) {
    size_t size = strlen(output) + sizeof ".lock";
    lock->descriptor = -1;
    lock->path = malloc(size);
    if (!lock->path) return cli_fail(command, "out of memory");
    snprintf(lock->path, size, "%s.lock", output);
    while (lock->descriptor < 0) {
        struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int descriptor = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (descriptor < 0) return CLI_GO_ON; /* locks are a help where there are some */
        int failed = fcntl(descriptor, F_SETLK, &wanted) != 0, error = errno;
        if (!failed && still_has_name(descriptor, lock->path)) {
            lock->descriptor = descriptor;
            continue;
        }
        int status = failed && (error == EACCES || error == EAGAIN) ? is_locked(command, descriptor, output)
                                                                    : CLI_GO_ON;
        close(descriptor);
        if (failed) return status;
    }
    return CLI_GO_ON;
}

void cli_unlock_output(cli_lock *lock) {
    if (lock->path && lock->descriptor >= 0) {
        unlink(lock->path);
        close(lock->descriptor);
    }
    free(lock->path);
    memset(lock, 0, sizeof *lock);
}
