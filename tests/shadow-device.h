/*
 * tests/shadow-device.h - a device that is not there: memory that the host cannot touch, work that waits, the CPU's kernels
 *
 * It behaves like a card on a bus, on any machine, and is unkinder than one: what is uploaded is read, and what is computed is
 * computed, when somebody waits and no sooner; between waits its memory is closed to the host (a read ends the program); memory
 * is full of NaN until a kernel writes it; what a kernel writes outside its results and scratch is an error, and so is a
 * pointer that is not the device's. It is also the shortest whole backend that there is: see "Porting to a new device".
 */
#ifndef SHADOW_DEVICE_H
#define SHADOW_DEVICE_H

#include "sparsecbm.h"

/* Makes scbm_backend_open know "shadow" and "shadow:TIER", of which TIER is the CPU's; as often as wanted. */
scbm_status shadow_register(void);

/* What all shadow devices of the process were asked to do, since the counts were last set to zero. */
typedef struct shadow_counts {
    int64_t bytes_up, bytes_down; /* over the bus */
    int64_t uploads, downloads, waits, kernels, allocations;
} shadow_counts;

extern shadow_counts shadow_count;
extern int64_t shadow_fails_at; /* the kernel of this number (of shadow_count) fails; 0: none */
int64_t shadow_blocks(void);    /* of device memory that are held now */
int64_t shadow_pending(void);   /* pieces of work that wait */

/* Takes the row of this op away from all shadow devices, or gives it back. */
void shadow_set_lacking(scbm_op op, int is_lacking);

#endif /* SHADOW_DEVICE_H */
