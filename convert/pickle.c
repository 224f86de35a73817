/*
 * convert/pickle.c - what a Python pickle says, read without running anything
 *
 * A pickle is a program for a machine with a stack and a memo. Values are numbered in the order in which they are made;
 * the stack, the memo and the containers hold numbers, so that nothing is copied and a cycle is harmless.
 */
#include "convert/pickle.h"
#include "convert/bytes.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MOST_VALUES (1 << 22) /* a checkpoint has some ten a tensor; each takes about 70 bytes here */

enum {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_POP = '0',
    OP_POP_MARK = '1',
    OP_NONE = 'N',
    OP_TRUE = 0x88,
    OP_FALSE = 0x89,
    OP_INT4 = 'J',
    OP_INT1 = 'K',
    OP_INT2 = 'M',
    OP_LONG1 = 0x8a,
    OP_LONG4 = 0x8b,
    OP_REAL = 'G',
    OP_STRING1 = 'U',
    OP_STRING4 = 'T',
    OP_UNICODE1 = 0x8c,
    OP_UNICODE4 = 'X',
    OP_UNICODE8 = 0x8d,
    OP_BYTES1 = 'C',
    OP_BYTES4 = 'B',
    OP_EMPTY_TUPLE = ')',
    OP_TUPLE = 't',
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_EMPTY_LIST = ']',
    OP_LIST = 'l',
    OP_APPEND = 'a',
    OP_APPENDS = 'e',
    OP_EMPTY_DICT = '}',
    OP_DICT = 'd',
    OP_SET_ITEM = 's',
    OP_SET_ITEMS = 'u',
    OP_GET1 = 'h',
    OP_GET4 = 'j',
    OP_PUT1 = 'q',
    OP_PUT4 = 'r',
    OP_MEMOIZE = 0x94,
    OP_PROTOCOL = 0x80,
    OP_FRAME = 0x95,
    OP_GLOBAL = 'c',
    OP_STACK_GLOBAL = 0x93,
    OP_REDUCE = 'R',
    OP_NEW = 0x81,
    OP_BUILD = 'b',
    OP_PERSISTENT = 'Q'
};

typedef struct reader {
    pickle *p;
    const unsigned char *data;
    size_t size, at;
    const char *path;
    const char *const *globals;
    int32_t *stack;
    size_t n, stack_capacity;
    int32_t *memo; /* value + 1; 0: none */
    size_t n_memo, memo_capacity;
    size_t n_copied; /* items of lists of pairs */
    int is_done;
} reader;

/* ------------------------------------------------------------------------------------------
 * Bytes, stack, memo
 * ---------------------------------------------------------------------------------------- */

static scbm_status damaged(const reader *r, const char *why) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a damaged pickle, at byte %zu: %s", r->path, r->at, why);
}

static scbm_status take(reader *r, uint64_t n, const unsigned char **bytes) {
    if (n > r->size - r->at) return damaged(r, "it is cut off");
    *bytes = r->data + r->at;
    r->at += (size_t)n;
    return SCBM_OK;
}

static scbm_status take_number(reader *r, int bytes, uint64_t *value) {
    const unsigned char *from = NULL;
    scbm_status status = take(r, (uint64_t)bytes, &from);
    *value = status ? 0 : cbm_little_endian(from, (size_t)bytes);
    return status;
}

/* Puts a value's number on the stack. */
static scbm_status push(reader *r, int32_t value) {
    scbm_status status = scbm_grow(&r->p->hooks, (void **)&r->stack, &r->stack_capacity, r->n + 1, sizeof *r->stack);
    if (!status) r->stack[r->n++] = value;
    return status;
}

static scbm_status push_new(reader *r, pickle_value value) {
    pickle *p = r->p;
    if (p->n >= MOST_VALUES) return damaged(r, "it has more than four million values");
    scbm_status status = scbm_grow(&p->hooks, (void **)&p->value, &p->capacity, p->n + 1, sizeof *p->value);
    if (status) return status;
    p->value[p->n] = value;
    return push(r, (int32_t)p->n++);
}

static pickle_value *value_at(const reader *r, size_t depth) {
    return &r->p->value[r->stack[r->n - 1 - depth]];
}

/* There are n values on top of the stack, none of which is a mark. */
static scbm_status need(const reader *r, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (i >= r->n || value_at(r, i)->kind == PICKLE_MARK) return damaged(r, "its stack is empty");
    return SCBM_OK;
}

/* How many values are above the topmost mark. */
static scbm_status count_marked(const reader *r, size_t *n) {
    for (*n = 0; *n < r->n; ++*n)
        if (value_at(r, *n)->kind == PICKLE_MARK) return SCBM_OK;
    return damaged(r, "its stack has no mark");
}

/* Appends the n values on top of the stack to a container, and takes them away. */
static scbm_status move_into(reader *r, int32_t container, size_t n) {
    pickle_value *into = &r->p->value[container];
    scbm_status status = scbm_grow(&r->p->hooks, (void **)&into->items, &into->capacity, into->n + n,
                                   sizeof *into->items);
    if (status) return status;
    if (n) memcpy(into->items + into->n, r->stack + r->n - n, n * sizeof *r->stack);
    into->n += n;
    r->n -= n;
    return SCBM_OK;
}

/* Replaces the n values on top of the stack, and a mark below them, by a container of them. */
static scbm_status wrap(reader *r, pickle_kind kind, size_t n, int has_mark) {
    if (kind == PICKLE_DICT && n % 2) return damaged(r, "a dictionary has a key without a value");
    scbm_status status = push_new(r, (pickle_value){.kind = kind});
    if (status) return status;
    int32_t container = r->stack[--r->n];
    status = move_into(r, container, n);
    if (has_mark) r->n--;
    return status ? status : push(r, container);
}

static scbm_status wrap_marked(reader *r, pickle_kind kind) {
    size_t n;
    scbm_status status = count_marked(r, &n);
    return status ? status : wrap(r, kind, n, 1);
}

static scbm_status wrap_top(reader *r, pickle_kind kind, size_t n) {
    scbm_status status = need(r, n);
    return status ? status : wrap(r, kind, n, 0);
}

/* The n values on top of the stack go into the container below them. */
static scbm_status extend(reader *r, pickle_kind kind, size_t n, int has_mark) {
    if (r->n < n + 1 + (size_t)has_mark) return damaged(r, "its stack is empty");
    int32_t container = r->stack[r->n - 1 - n - (size_t)has_mark];
    if (r->p->value[container].kind != kind)
        return damaged(r, kind == PICKLE_DICT ? "what it sets an item of is no dictionary"
                                              : "what it appends to is no list");
    if (kind == PICKLE_DICT && n % 2) return damaged(r, "a dictionary has a key without a value");
    scbm_status status = move_into(r, container, n);
    if (!status && has_mark) r->n--;
    return status;
}

static scbm_status extend_marked(reader *r, pickle_kind kind) {
    size_t n;
    scbm_status status = count_marked(r, &n);
    return status ? status : extend(r, kind, n, 1);
}

static scbm_status extend_top(reader *r, pickle_kind kind, size_t n) {
    scbm_status status = need(r, n + 1);
    return status ? status : extend(r, kind, n, 0);
}

/* Python numbers its memo from 0 or 1 on, so an index beyond the pickle's bytes is no real one. */
static scbm_status put(reader *r, uint64_t index) {
    scbm_status status = need(r, 1);
    if (!status && index > r->size) status = damaged(r, "its memo is larger than the file");
    if (!status)
        status = scbm_grow(&r->p->hooks, (void **)&r->memo, &r->memo_capacity, (size_t)index + 1, sizeof *r->memo);
    if (status) return status;
    r->memo[index] = r->stack[r->n - 1] + 1;
    if (index >= r->n_memo) r->n_memo = (size_t)index + 1;
    return SCBM_OK;
}

static scbm_status get(reader *r, uint64_t index) {
    if (index >= r->n_memo || !r->memo[index]) return damaged(r, "it takes what is not in its memo");
    return push(r, r->memo[index] - 1);
}

/* ------------------------------------------------------------------------------------------
 * Plain values
 * ---------------------------------------------------------------------------------------- */

static scbm_status push_int(reader *r, int bytes, int is_signed) {
    uint64_t value;
    scbm_status status = take_number(r, bytes, &value);
    if (is_signed && value >> (8 * bytes - 1)) value -= UINT64_C(1) << (8 * bytes);
    return status ? status : push_new(r, (pickle_value){.kind = PICKLE_INT, .integer = (int64_t)value});
}

/* Two's complement of as many bytes as it says. */
static scbm_status push_long(reader *r, int length_bytes) {
    uint64_t n;
    const unsigned char *bytes = NULL;
    scbm_status status = take_number(r, length_bytes, &n);
    if (!status) status = take(r, n, &bytes);
    if (status) return status;
    if (n > 8)
        return push_new(r, (pickle_value){.kind = PICKLE_BIG_INT, .text = (const char *)bytes, .length = (size_t)n});
    uint64_t value = cbm_little_endian(bytes, (size_t)n);
    if (n && n < 8 && value >> (8 * n - 1)) value -= UINT64_C(1) << (8 * n);
    return push_new(r, (pickle_value){.kind = PICKLE_INT, .integer = (int64_t)value});
}

/* Eight bytes, the highest first. */
static scbm_status push_real(reader *r) {
    const unsigned char *bytes = NULL;
    uint64_t bits = 0;
    double real;
    scbm_status status = take(r, 8, &bytes);
    if (status) return status;
    for (int i = 0; i < 8; i++) bits = bits << 8 | bytes[i];
    memcpy(&real, &bits, sizeof real);
    return push_new(r, (pickle_value){.kind = PICKLE_REAL, .real = real});
}

static scbm_status push_text(reader *r, int length_bytes) {
    uint64_t n;
    const unsigned char *bytes = NULL;
    scbm_status status = take_number(r, length_bytes, &n);
    if (!status) status = take(r, n, &bytes);
    return status ? status
                  : push_new(r, (pickle_value){.kind = PICKLE_TEXT, .text = (const char *)bytes, .length = (size_t)n});
}

/* ------------------------------------------------------------------------------------------
 * Globals and calls
 * ---------------------------------------------------------------------------------------- */

/* Names are "module name" in the list, in which the text of an allowed one stays. */
static scbm_status push_global(reader *r, const char *module, size_t module_length, const char *name, size_t length) {
    char shown[CBM_SHOWN_SIZE], other[CBM_SHOWN_SIZE];
    for (const char *const *known = r->globals; *known; known++) {
        size_t n = strlen(*known);
        if (n == module_length + 1 + length && memcmp(*known, module, module_length) == 0 &&
            (*known)[module_length] == ' ' && memcmp(*known + module_length + 1, name, length) == 0)
            return push_new(r, (pickle_value){.kind = PICKLE_GLOBAL, .text = *known, .length = n});
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "%.300s: its pickle asks for %s.%s, which describes no tensor; nothing of it was run", r->path,
                     cbm_show(shown, module, module_length), cbm_show(other, name, length));
}

static scbm_status take_line(reader *r, const char **line, size_t *length) {
    const unsigned char *start = r->data + r->at, *end = memchr(start, '\n', r->size - r->at);
    if (!end) return damaged(r, "it is cut off");
    *line = (const char *)start;
    *length = (size_t)(end - start);
    r->at += *length + 1;
    return SCBM_OK;
}

static scbm_status push_global_of_lines(reader *r) {
    const char *module = NULL, *name = NULL;
    size_t module_length = 0, length = 0;
    scbm_status status = take_line(r, &module, &module_length);
    if (!status) status = take_line(r, &name, &length);
    return status ? status : push_global(r, module, module_length, name, length);
}

static scbm_status push_global_of_stack(reader *r) {
    scbm_status status = need(r, 2);
    if (status) return status;
    pickle_value module = *value_at(r, 1), name = *value_at(r, 0);
    if (module.kind != PICKLE_TEXT || name.kind != PICKLE_TEXT) return damaged(r, "a name is no text");
    r->n -= 2;
    return push_global(r, module.text, module.length, name.text, name.length);
}

/* OrderedDict() and, as Python 2 wrote it, OrderedDict([[key, value], …]) are dictionaries. */
static scbm_status make_dictionary(reader *r, int32_t arguments) {
    pickle *p = r->p;
    const pickle_value *list = cbm_pickle_item(p, &p->value[arguments], 0);
    size_t n = list ? list->n : 0;
    r->n -= 2;
    if (p->value[arguments].n > 1 || (list && list->kind != PICKLE_LIST))
        return damaged(r, "an OrderedDict is made of something else than pairs");
    if ((r->n_copied += n) > r->size) return damaged(r, "its lists of pairs are larger than the file");
    int32_t from = list ? (int32_t)(list - p->value) : -1;
    for (size_t i = 0; i < n; i++) {
        const pickle_value *pair = cbm_pickle_item(p, &p->value[from], i);
        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->n != 2)
            return damaged(r, "an OrderedDict is made of something else than pairs");
        int32_t key = pair->items[0], value = pair->items[1];
        scbm_status status = push(r, key);
        if (!status) status = push(r, value);
        if (status) return status;
    }
    return wrap(r, PICKLE_DICT, 2 * n, 0);
}

static scbm_status call(reader *r) {
    scbm_status status = need(r, 2);
    if (status) return status;
    const pickle_value *function = value_at(r, 1), *arguments = value_at(r, 0);
    if (function->kind != PICKLE_GLOBAL || arguments->kind != PICKLE_TUPLE)
        return damaged(r, "what it calls is no function, or its arguments are no tuple");
    if (cbm_pickle_is(function, PICKLE_GLOBAL, "collections OrderedDict"))
        return make_dictionary(r, r->stack[r->n - 1]);
    return wrap(r, PICKLE_CALL, 2, 0);
}

/* What is set on an object, `_metadata` on a dictionary of tensors, describes no tensor. */
static scbm_status build(reader *r) {
    scbm_status status = need(r, 2);
    if (status) return status;
    pickle_kind kind = value_at(r, 1)->kind;
    if (kind != PICKLE_DICT && kind != PICKLE_CALL) return damaged(r, "it sets attributes of a plain value");
    r->n--;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Opcodes
 * ---------------------------------------------------------------------------------------- */

static scbm_status refuse_opcode(const reader *r, int opcode) {
    static const struct {
        int opcode;
        const char *name;
    } known[] = {
        {'2', "DUP"},          {'F', "FLOAT"},           {'I', "INT"},        {'L', "LONG"},       {'P', "PERSID"},
        {'S', "STRING"},       {'V', "UNICODE"},         {'g', "GET"},        {'p', "PUT"},        {'i', "INST"},
        {'o', "OBJ"},          {0x82, "EXT1"},           {0x83, "EXT2"},      {0x84, "EXT4"},      {0x8e, "BINBYTES8"},
        {0x8f, "EMPTY_SET"},   {0x90, "ADDITEMS"},       {0x91, "FROZENSET"}, {0x92, "NEWOBJ_EX"}, {0x96, "BYTEARRAY8"},
        {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (known[i].opcode == opcode)
            return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                             "%.300s: its pickle uses the opcode %s, with which torch.save writes no tensor", r->path,
                             known[i].name);
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is no pickle, or a damaged one: byte %zu, %d, is no opcode",
                     r->path, r->at - 1, opcode);
}

static scbm_status pop(reader *r, int with_mark) {
    size_t n = 0;
    if (!with_mark) {
        if (!r->n) return damaged(r, "its stack is empty");
        r->n--;
        return SCBM_OK;
    }
    scbm_status status = count_marked(r, &n);
    if (!status) r->n -= n + 1;
    return status;
}

static scbm_status stop(reader *r) {
    scbm_status status = need(r, 1);
    if (status) return status;
    r->p->root = r->stack[r->n - 1];
    r->is_done = 1;
    return SCBM_OK;
}

static scbm_status skip(reader *r, int bytes) {
    uint64_t value;
    return take_number(r, bytes, &value);
}

static scbm_status use_memo(reader *r, int opcode) {
    uint64_t index = 0;
    scbm_status status = take_number(r, opcode == OP_GET1 || opcode == OP_PUT1 ? 1 : 4, &index);
    if (status) return status;
    return opcode == OP_GET1 || opcode == OP_GET4 ? get(r, index) : put(r, index);
}

/* Values that stand for themselves. */
static scbm_status read_plain(reader *r, int opcode) {
    switch (opcode) {
    case OP_NONE: return push_new(r, (pickle_value){.kind = PICKLE_NONE});
    case OP_TRUE: return push_new(r, (pickle_value){.kind = PICKLE_BOOL, .integer = 1});
    case OP_FALSE: return push_new(r, (pickle_value){.kind = PICKLE_BOOL});
    case OP_INT1: return push_int(r, 1, 0);
    case OP_INT2: return push_int(r, 2, 0);
    case OP_INT4: return push_int(r, 4, 1);
    case OP_LONG1: return push_long(r, 1);
    case OP_LONG4: return push_long(r, 4);
    case OP_REAL: return push_real(r);
    case OP_STRING1:
    case OP_BYTES1:
    case OP_UNICODE1: return push_text(r, 1);
    case OP_STRING4:
    case OP_BYTES4:
    case OP_UNICODE4: return push_text(r, 4);
    case OP_UNICODE8: return push_text(r, 8);
    default: return refuse_opcode(r, opcode);
    }
}

static scbm_status read_container(reader *r, int opcode) {
    switch (opcode) {
    case OP_EMPTY_TUPLE: return wrap(r, PICKLE_TUPLE, 0, 0);
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3: return wrap_top(r, PICKLE_TUPLE, (size_t)(opcode - OP_TUPLE1) + 1);
    case OP_TUPLE: return wrap_marked(r, PICKLE_TUPLE);
    case OP_EMPTY_LIST: return wrap(r, PICKLE_LIST, 0, 0);
    case OP_LIST: return wrap_marked(r, PICKLE_LIST);
    case OP_APPEND: return extend_top(r, PICKLE_LIST, 1);
    case OP_APPENDS: return extend_marked(r, PICKLE_LIST);
    case OP_EMPTY_DICT: return wrap(r, PICKLE_DICT, 0, 0);
    case OP_DICT: return wrap_marked(r, PICKLE_DICT);
    case OP_SET_ITEM: return extend_top(r, PICKLE_DICT, 2);
    case OP_SET_ITEMS: return extend_marked(r, PICKLE_DICT);
    default: return read_plain(r, opcode);
    }
}

static scbm_status read_opcode(reader *r, int opcode) {
    switch (opcode) {
    case OP_PROTOCOL: return skip(r, 1);
    case OP_FRAME: return skip(r, 8);
    case OP_STOP: return stop(r);
    case OP_MARK: return push_new(r, (pickle_value){.kind = PICKLE_MARK});
    case OP_POP: return pop(r, 0);
    case OP_POP_MARK: return pop(r, 1);
    case OP_GET1:
    case OP_GET4:
    case OP_PUT1:
    case OP_PUT4: return use_memo(r, opcode);
    case OP_MEMOIZE: return put(r, r->n_memo);
    case OP_GLOBAL: return push_global_of_lines(r);
    case OP_STACK_GLOBAL: return push_global_of_stack(r);
    case OP_REDUCE:
    case OP_NEW: return call(r);
    case OP_BUILD: return build(r);
    case OP_PERSISTENT: return wrap_top(r, PICKLE_PERSISTENT, 1);
    default: return read_container(r, opcode);
    }
}

scbm_status cbm_pickle_read(pickle *p, const unsigned char *data, size_t size, const char *path,
                            const char *const *globals, const scbm_hooks *hooks) {
    reader r = {.p = p, .data = data, .size = size, .path = path, .globals = globals};
    scbm_status status = SCBM_OK;
    memset(p, 0, sizeof *p);
    if (hooks) p->hooks = *hooks;
    while (!status && !r.is_done) {
        const unsigned char *opcode = NULL;
        status = take(&r, 1, &opcode);
        if (!status) status = read_opcode(&r, *opcode);
    }
    p->bytes = r.at;
    scbm_release(&p->hooks, r.stack);
    scbm_release(&p->hooks, r.memo);
    if (status) cbm_pickle_clear(p);
    return status;
}

void cbm_pickle_clear(pickle *p) {
    const scbm_hooks hooks = p->hooks;
    for (size_t i = 0; i < p->n; i++) scbm_release(&hooks, p->value[i].items);
    scbm_release(&hooks, p->value);
    memset(p, 0, sizeof *p);
    p->hooks = hooks;
}

/* ------------------------------------------------------------------------------------------
 * Looking at values
 * ---------------------------------------------------------------------------------------- */

const pickle_value *cbm_pickle_item(const pickle *p, const pickle_value *container, size_t i) {
    return container && i < container->n ? &p->value[container->items[i]] : NULL;
}

int cbm_pickle_is(const pickle_value *value, pickle_kind kind, const char *text) {
    return value && value->kind == kind && value->length == strlen(text) &&
           memcmp(value->text, text, value->length) == 0;
}

const pickle_value *cbm_pickle_get(const pickle *p, const pickle_value *dictionary, const char *key) {
    if (!dictionary || dictionary->kind != PICKLE_DICT) return NULL;
    for (size_t i = dictionary->n; i >= 2; i -= 2)
        if (cbm_pickle_is(cbm_pickle_item(p, dictionary, i - 2), PICKLE_TEXT, key))
            return cbm_pickle_item(p, dictionary, i - 1);
    return NULL;
}
