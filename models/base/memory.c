/*
 * models/base/memory.c - what /proc/meminfo and the control groups say
 */
#include "models/base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST_PATH = 4096 };

/* The files of a version's groups. */
typedef struct group_version {
    const char *mount;
    const char *controllers; /* "" in version 2, where one tree has all */
    const char *limit, *soft_limit, *used, *cached;
} group_version;

static const group_version versions[] = {
    {"/sys/fs/cgroup", "", "memory.max", "memory.high", "memory.current", "inactive_file "},
    {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "total_inactive_file "},
};

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The number after `key` at the beginning of a line, times `unit`; SIZE_MAX: there is none. An empty key: the first
 * line's. */
static size_t read_number(const char *path, const char *key, size_t unit) {
    FILE *file = fopen(path, "r");
    size_t found = SIZE_MAX, length = strlen(key);
    unsigned long long number;
    char line[160];
    while (file && found == SIZE_MAX && fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%llu", &number) == 1 && number < SIZE_MAX / unit)
            found = (size_t)number * unit;
    if (file) fclose(file);
    return found;
}

static size_t read_group_number(const char *folder, const char *name, const char *key) {
    char path[LONGEST_PATH];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return SIZE_MAX;
    return read_number(path, key, 1);
}

/* What one group leaves; SIZE_MAX: it has no limit, or is not to be seen from here. */
static size_t group_leaves(const group_version *v, const char *folder) {
    size_t limit = read_group_number(folder, v->limit, "");
    if (v->soft_limit) limit = least(limit, read_group_number(folder, v->soft_limit, ""));
    if (limit == SIZE_MAX) return SIZE_MAX;
    size_t used = read_group_number(folder, v->used, "");
    size_t cached = read_group_number(folder, "memory.stat", v->cached);
    if (used == SIZE_MAX) used = 0;
    if (cached != SIZE_MAX) used = used > cached ? used - cached : 0;
    return limit > used ? limit - used : 0;
}

/* Whether a list with commas has this name. */
static int has_name(const char *list, const char *name) {
    size_t length = strlen(name);
    for (;; list++) {
        size_t n = strcspn(list, ",");
        if (n == length && strncmp(list, name, n) == 0) return 1;
        list += n;
        if (!*list) return 0;
    }
}

/* The path of the process's group in a version's tree, of a line such as "4:cpu,memory:/path"; "" where none is told. */
static void find_group(const char *root, const group_version *v, char *group) {
    char path[LONGEST_PATH], line[LONGEST_PATH + 256];
    group[0] = '\0';
    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path) return;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *place = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!place) continue;
        *place++ = '\0';
        place[strcspn(place, "\n")] = '\0';
        if (has_name(controllers + 1, v->controllers) && strlen(place) < LONGEST_PATH) strcpy(group, place);
    }
    if (file) fclose(file);
}

/* The least that the process's group and those above it leave. A container may not see the folders above its own, or see
 * its own as the topmost: what is not there does not count. */
static size_t groups_leave(const char *root, const group_version *v) {
    char group[LONGEST_PATH], folder[2 * LONGEST_PATH];
    size_t left = SIZE_MAX;
    find_group(root, v, group);
    if (strstr(group, "/..")) group[0] = '\0'; /* it lies outside of what is seen */
    for (;;) {
        char *end = strrchr(group, '/');
        if (snprintf(folder, sizeof folder, "%s%s%s", root, v->mount, group) < (int)sizeof folder)
            left = least(left, group_leaves(v, folder));
        if (!end) return left;
        *end = '\0';
    }
}

size_t cbm_memory_available(const char *root) {
    char path[LONGEST_PATH];
    size_t left = SIZE_MAX;
    if (!root) root = "";
    if (snprintf(path, sizeof path, "%s/proc/meminfo", root) < (int)sizeof path)
        left = read_number(path, "MemAvailable:", 1024);
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
        left = least(left, groups_leave(root, &versions[i]));
    return left;
}
