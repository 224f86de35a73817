/*
 * models/base/memory.h - how much memory the machine has left for this process
 */
#ifndef CBM_MEMORY_H
#define CBM_MEMORY_H

#include <stddef.h>

/* Bytes that are free for the taking, by the system's word: the least of what the machine has available and of what each
 * control group (version 1 or 2) that the process lies in, up to the topmost, leaves it. What a group has cached of files
 * counts as free. SIZE_MAX: the system does not say. `root` is the folder that the system's files are looked for in; NULL:
 * "/". */
size_t cbm_memory_available(const char *root);

#endif
