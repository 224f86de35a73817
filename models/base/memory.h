/*
 * models/base/memory.h - what the process has of the machine's memory
 */
#ifndef CBM_MEMORY_H
#define CBM_MEMORY_H

#include <stddef.h>

/* Its resident memory in bytes; 0: the system does not say. */
size_t cbm_resident_memory(void);
/* The most that it ever was; 0: the same. */
size_t cbm_peak_memory(void);

#endif
