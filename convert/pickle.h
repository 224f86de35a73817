/*
 * convert/pickle.h - what a Python pickle says, read without running anything
 *
 * The reader knows the opcodes that describe plain values, and keeps a call as a call: the function's name and what it
 * is called with. Which names may stand there is the caller's list. Another opcode, or another name, is an error that
 * names it.
 */
#ifndef CONVERT_PICKLE_H
#define CONVERT_PICKLE_H

#include "sparsecbm.h"

typedef enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_BIG_INT, /* more than eight bytes: little-endian in `text` */
    PICKLE_REAL,
    PICKLE_TEXT, /* also bytes */
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_DICT,       /* keys and values by turns; an OrderedDict too */
    PICKLE_GLOBAL,     /* "module name" */
    PICKLE_CALL,       /* the function and its arguments, a tuple; what is set on it afterwards is left out */
    PICKLE_PERSISTENT, /* the one thing that it is known by */
    PICKLE_MARK        /* while it is read */
} pickle_kind;

typedef struct pickle_value {
    pickle_kind kind;
    int64_t integer; /* of a boolean or integer */
    double real;
    const char *text; /* in the pickle, not NUL-terminated */
    size_t length;
    int32_t *items; /* values, by number: a later one may be in an earlier one, and one in itself */
    size_t n, capacity;
} pickle_value;

typedef struct pickle {
    pickle_value *value;
    size_t n, capacity;
    int32_t root;
    size_t bytes; /* that it took; another may follow */
    scbm_hooks hooks;
} pickle;

/* Reads the pickle that `data` begins with; its texts stay there. `globals` ends with NULL. `path` stands before
 * messages. On error *p is cleared. */
scbm_status cbm_pickle_read(pickle *p, const unsigned char *data, size_t size, const char *path,
                            const char *const *globals, const scbm_hooks *hooks);
void cbm_pickle_clear(pickle *p);

/* A container's item i, or a call's function (0) and arguments (1); NULL: there is none. */
const pickle_value *cbm_pickle_item(const pickle *p, const pickle_value *container, size_t i);
/* Whether it is a text, or the global, of these NUL-terminated characters. */
int cbm_pickle_is(const pickle_value *value, pickle_kind kind, const char *text);
/* A dictionary's value; NULL: there is none. The last one of a key counts. */
const pickle_value *cbm_pickle_get(const pickle *p, const pickle_value *dictionary, const char *key);

#endif
