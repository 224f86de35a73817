/*
 * models/base/memory.c - what the process has of the machine's memory
 */
#include "models/base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A line of the system's file on the process, "VmRSS:     1234 kB". */
static size_t read_status(const char *key) {
    unsigned long long kibibytes = 0;
    size_t length = strlen(key);
    char line[160];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && !kibibytes && fgets(line, sizeof line, file))
        if (strncmp(line, key, length) != 0 || sscanf(line + length, "%llu kB", &kibibytes) != 1) kibibytes = 0;
    if (file) fclose(file);
    return kibibytes < SIZE_MAX / 1024 ? (size_t)kibibytes * 1024 : 0;
}

size_t cbm_resident_memory(void) {
    return read_status("VmRSS:");
}

size_t cbm_peak_memory(void) {
    return read_status("VmHWM:");
}
