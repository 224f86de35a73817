/*
 * models/program/options/path.c - which file a path names, its size, and whether it can be written
 */
#define _XOPEN_SOURCE 700

#include "models/program/options/path.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_same(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The folder of `path`; returns the name in it. */
static const char *split_path(const char *path, char folder[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    int length = slash ? (int)(slash - path) : 1;
    snprintf(folder, PATH_MAX, "%.*s", slash == path ? 1 : length, slash ? path : ".");
    return slash ? slash + 1 : path;
}

static int same_new_file(const char *a, const char *b) {
    char folder_a[PATH_MAX], folder_b[PATH_MAX];
    struct stat facts_a, facts_b;
    if (strcmp(split_path(a, folder_a), split_path(b, folder_b)) != 0) return 0;
    if (strcmp(folder_a, folder_b) == 0) return 1;
    return stat(folder_a, &facts_a) == 0 && stat(folder_b, &facts_b) == 0 && is_same(&facts_a, &facts_b);
}

int cli_same_file(const char *a, const char *b) {
    struct stat facts_a, facts_b;
    int has_a = stat(a, &facts_a) == 0, has_b = stat(b, &facts_b) == 0;
    if (has_a && has_b) return S_ISREG(facts_a.st_mode) && is_same(&facts_a, &facts_b);
    return !has_a && !has_b && same_new_file(a, b);
}

static int search_folder(const struct stat *wanted, const char *folder, int depth) {
    DIR *entries = opendir(folder);
    int found = 0;
    if (!entries) return 0;
    for (struct dirent *entry = readdir(entries); entry && !found; entry = readdir(entries)) {
        char path[PATH_MAX];
        struct stat facts;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path) continue;
        if (stat(path, &facts) != 0) continue;
        if (S_ISREG(facts.st_mode)) found = is_same(&facts, wanted);
        else if (S_ISDIR(facts.st_mode) && depth > 0) found = search_folder(wanted, path, depth - 1);
    }
    closedir(entries);
    return found;
}

int cli_is_in_folder(const char *path, const char *folder) {
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISREG(facts.st_mode) && search_folder(&facts, folder, 1);
}

double cli_file_bytes(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0 ? (double)facts.st_size : 0;
}

int cli_is_read_only(const char *path) {
    struct stat facts;
    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) return 0;
    return !(facts.st_mode & 0222) ||
           (access(path, W_OK) != 0 && errno == EACCES); /* the superuser may write anything */
}

int cli_leads_nowhere(const char *path) {
    struct stat facts;
    return stat(path, &facts) != 0 && lstat(path, &facts) == 0 && S_ISLNK(facts.st_mode);
}

/* A file is replaced by one that is made beside it: what counts is its folder, and behind a symbolic link the target's. */
int cli_write_error(const char *path) {
    char folder[PATH_MAX];
    struct stat facts;
    int exists = stat(path, &facts) == 0;
    if (!*path) return ENOENT;
    if (exists && S_ISDIR(facts.st_mode)) return EISDIR;
    if (exists && !S_ISREG(facts.st_mode)) return access(path, W_OK) == 0 ? 0 : errno;
    char *real = realpath(path, NULL);
    split_path(real ? real : path, folder);
    free(real);
    return access(folder, W_OK | X_OK) == 0 ? 0 : errno;
}
