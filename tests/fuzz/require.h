/*
 * tests/fuzz/require.h - what must hold whatever the input is
 */
#ifndef REQUIRE_H
#define REQUIRE_H

#include "sparsecbm.h"

#include <stdlib.h>
#include <string.h>

static inline void require(int holds) {
    if (!holds) abort();
}

/* A refusal says why, in one line. */
static inline void check_refusal(void) {
    require(scbm_last_error()[0] != 0 && strchr(scbm_last_error(), '\n') == NULL);
}

#endif
