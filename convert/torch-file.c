/*
 * convert/torch-file.c - the tensors of a file of torch.save
 *
 * In the pickle a tensor is a call of a function that makes it of a storage, an offset, sizes and strides; a storage is
 * what a "persistent id" names: its type, its key and how many numbers it has. The numbers lie in the zip file's entry
 * "data/<key>", or in the older form behind the last pickle, which lists the keys: a count of eight bytes, and the
 * numbers, of each.
 */
#include "convert/torch-file.h"
#include "convert/bytes.h"
#include "convert/pickle.h"
#include "convert/zip.h"
#include "models/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MAX_NUMBERS INT64_C(9007199254740992)
#define MAX_NAME 65536

typedef struct torch_storage {
    const char *key;
    size_t key_length;
    const char *type; /* as safetensors calls it */
    int64_t n;        /* numbers */
    const unsigned char *data;
    int32_t value; /* the first that names it */
} torch_storage;

struct torch_file {
    scbm_hooks hooks;
    char *path;
    const unsigned char *data;
    size_t size;
    const scbm_bytes *mapped;
    zip_file zip;
    const char *folder; /* of its entries; not NUL-terminated */
    size_t folder_length;
    pickle pickle;
    int is_swapped;
    torch_storage *storage; /* in the order of their keys */
    size_t n_storages;
    stored_tensor *tensor;
    char *names; /* all, NUL-terminated */
    int64_t n;
};

/* What a pickle calls types, and what they are called here. An untyped storage counts bytes. */
#define TYPES(X)                                                                                                       \
    X("torch FloatStorage", "F32")                                                                                     \
    X("torch HalfStorage", "F16")                                                                                      \
    X("torch BFloat16Storage", "BF16")                                                                                 \
    X("torch DoubleStorage", "F64")                                                                                    \
    X("torch LongStorage", "I64")                                                                                      \
    X("torch IntStorage", "I32")                                                                                       \
    X("torch ShortStorage", "I16")                                                                                     \
    X("torch CharStorage", "I8")                                                                                       \
    X("torch ByteStorage", "U8")                                                                                       \
    X("torch BoolStorage", "BOOL")                                                                                     \
    X("torch UntypedStorage", "U8")                                                                                    \
    X("torch.storage UntypedStorage", "U8")                                                                            \
    X("torch float32", "F32")                                                                                          \
    X("torch float16", "F16")                                                                                          \
    X("torch bfloat16", "BF16")                                                                                        \
    X("torch float64", "F64")                                                                                          \
    X("torch int64", "I64")                                                                                            \
    X("torch int32", "I32")                                                                                            \
    X("torch int16", "I16")                                                                                            \
    X("torch int8", "I8")                                                                                              \
    X("torch uint8", "U8")                                                                                             \
    X("torch uint16", "U16")                                                                                           \
    X("torch uint32", "U32")                                                                                           \
    X("torch uint64", "U64")                                                                                           \
    X("torch bool", "BOOL")                                                                                            \
    X("torch float8_e4m3fn", "F8_E4M3")                                                                                \
    X("torch float8_e5m2", "F8_E5M2")

/* All that a pickle may name. */
static const char *const globals[] = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2",
    "torch.nn.parameter Parameter",
    "torch Tensor",
    "torch._tensor Tensor",
    "torch Size",
    "torch device",
#define NAME(global, type) global,
    TYPES(NAME) NULL,
#undef NAME
};

static const struct {
    const char *global, *type;
} types[] = {
#define PAIR(global, type) {global, type},
    TYPES(PAIR)
#undef PAIR
};

static const char *type_of(const pickle_value *global) {
    for (size_t i = 0; global && i < COUNT_OF(types); i++)
        if (cbm_pickle_is(global, PICKLE_GLOBAL, types[i].global)) return types[i].type;
    return NULL;
}

static scbm_status damaged(const torch_file *file, const char *why) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s", file->path, why);
}

static scbm_status damaged_tensor(const torch_file *file, const char *name, const char *why) {
    char shown[CBM_SHOWN_SIZE];
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tensor %s: %s", file->path, cbm_show_string(shown, name), why);
}

/* ------------------------------------------------------------------------------------------
 * Storages
 * ---------------------------------------------------------------------------------------- */

/* ("storage", type, key, device, numbers[, view]) */
static scbm_status read_storage(const torch_file *file, const pickle_value *persistent, torch_storage *storage) {
    const pickle *p = &file->pickle;
    const pickle_value *id = cbm_pickle_item(p, persistent, 0);
    const pickle_value *type = cbm_pickle_item(p, id, 1), *key = cbm_pickle_item(p, id, 2),
                       *n = cbm_pickle_item(p, id, 4);
    if (id->kind != PICKLE_TUPLE || !cbm_pickle_is(cbm_pickle_item(p, id, 0), PICKLE_TEXT, "storage") || !n)
        return damaged(file, "something else than a storage of numbers lies outside its pickle");
    storage->type = type_of(type);
    if (!storage->type) return damaged(file, "a storage has no type");
    if (key->kind != PICKLE_TEXT || n->kind != PICKLE_INT || n->integer < 0 || n->integer > MAX_NUMBERS)
        return damaged(file, "a storage has no key, or no number of numbers");
    storage->key = key->text;
    storage->key_length = key->length;
    storage->n = n->integer;
    storage->value = (int32_t)(persistent - p->value);
    return SCBM_OK;
}

static int compare_keys(const torch_storage *a, const torch_storage *b) {
    return cbm_compare_names(a->key, a->key_length, b->key, b->key_length);
}

static int by_key(const void *a, const void *b) {
    const torch_storage *x = a, *y = b;
    int order = compare_keys(x, y);
    return order ? order : (x->value > y->value) - (x->value < y->value);
}

/* Lists every storage once. */
static scbm_status list_storages(torch_file *file) {
    const pickle *p = &file->pickle;
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) n += p->value[i].kind == PICKLE_PERSISTENT;
    file->storage = scbm_alloc_array(&file->hooks, n + 1, sizeof *file->storage);
    if (!file->storage) return SCBM_ERROR_MEMORY;
    n = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->value[i].kind != PICKLE_PERSISTENT) continue;
        scbm_status status = read_storage(file, &p->value[i], &file->storage[n++]);
        if (status) return status;
    }
    qsort(file->storage, n, sizeof *file->storage, by_key);
    for (size_t i = 0; i < n; i++)
        if (!i || compare_keys(&file->storage[file->n_storages - 1], &file->storage[i]) != 0)
            file->storage[file->n_storages++] = file->storage[i];
    return SCBM_OK;
}

static torch_storage *find_storage(const torch_file *file, const char *key, size_t length) {
    const torch_storage wanted = {.key = key, .key_length = length};
    size_t low = 0, high = file->n_storages;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_keys(&wanted, &file->storage[middle]);
        if (order == 0) return &file->storage[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

static int is_function(const pickle_value *value, const char *name) {
    return cbm_pickle_is(value, PICKLE_GLOBAL, name);
}

/* The call that makes the tensor itself: a parameter is a call with a tensor, and a tensor with attributes is one with
 * a function and its arguments. *function and *arguments are NULL where it is something else. */
static void find_call(const pickle *p, const pickle_value *value, const pickle_value **function,
                      const pickle_value **arguments) {
    enum { DEEPEST = 8 };
    *function = *arguments = NULL;
    for (int depth = 0; depth < DEEPEST && value && value->kind == PICKLE_CALL; depth++) {
        const pickle_value *f = cbm_pickle_item(p, value, 0), *a = cbm_pickle_item(p, value, 1);
        if (is_function(f, "torch._tensor _rebuild_from_type_v2")) {
            f = cbm_pickle_item(p, a, 0);
            a = cbm_pickle_item(p, a, 2);
        }
        if (!f || !a || a->kind != PICKLE_TUPLE) return;
        if (is_function(f, "torch._utils _rebuild_parameter") ||
            is_function(f, "torch._utils _rebuild_parameter_with_state")) {
            value = cbm_pickle_item(p, a, 0);
            continue;
        }
        *function = f;
        *arguments = a;
        return;
    }
}

/* Sizes or strides: a tuple of numbers, or torch.Size of one. */
static int read_sizes(const pickle *p, const pickle_value *value, int64_t *sizes, int *n) {
    if (value && value->kind == PICKLE_CALL && is_function(cbm_pickle_item(p, value, 0), "torch Size"))
        value = cbm_pickle_item(p, cbm_pickle_item(p, value, 1), 0);
    if (!value || (value->kind != PICKLE_TUPLE && value->kind != PICKLE_LIST) || value->n > STORED_MAX_DIMS) return 0;
    *n = (int)value->n;
    for (size_t i = 0; i < value->n; i++) {
        const pickle_value *size = cbm_pickle_item(p, value, i);
        if (size->kind != PICKLE_INT || size->integer < 0 || size->integer > MAX_NUMBERS) return 0;
        sizes[i] = size->integer;
    }
    return 1;
}

/* a · b, or more than any file has. */
static int64_t times(int64_t a, int64_t b) {
    return b && a > MAX_NUMBERS / b ? MAX_NUMBERS + 1 : a * b;
}

/* The numbers that the tensor reaches over from its first on, and those that it has. */
static void count_numbers(const stored_tensor *t, int64_t *reach, int64_t *n) {
    *n = *reach = 1;
    for (int d = 0; d < t->n_dims; d++) {
        if (!t->shape[d]) {
            *n = *reach = 0;
            return;
        }
        *n = times(*n, t->shape[d]);
        *reach += times(t->shape[d] - 1, t->stride[d]);
        if (*reach > MAX_NUMBERS) *reach = MAX_NUMBERS + 1;
    }
}

/* Old files know parts of a storage that are storages themselves: (key, first number, numbers). */
static scbm_status find_view(const torch_file *file, const pickle_value *id, const torch_storage *storage,
                             uint64_t *first, uint64_t *numbers) {
    const pickle *p = &file->pickle;
    const pickle_value *view = cbm_pickle_item(p, id, 5);
    *first = 0;
    *numbers = (uint64_t)storage->n;
    if (!view || view->kind == PICKLE_NONE) return SCBM_OK;
    const pickle_value *from = cbm_pickle_item(p, view, 1), *n = cbm_pickle_item(p, view, 2);
    if (view->kind != PICKLE_TUPLE || !n || from->kind != PICKLE_INT || n->kind != PICKLE_INT || from->integer < 0 ||
        n->integer < 0 || from->integer > storage->n || n->integer > storage->n - from->integer)
        return damaged(file, "a part of a storage lies outside of it");
    *first = (uint64_t)from->integer;
    *numbers = (uint64_t)n->integer;
    return SCBM_OK;
}

static scbm_status place(const torch_file *file, stored_tensor *t, const torch_storage *storage, const pickle_value *id,
                         int64_t offset) {
    uint64_t size = cbm_stored_size(t->type), first, whole;
    int64_t reach, n;
    scbm_status status = find_view(file, id, storage, &first, &whole);
    if (status) return status;
    first *= cbm_stored_size(storage->type);
    whole = whole * cbm_stored_size(storage->type) / size;
    count_numbers(t, &reach, &n);
    if (n > MAX_NUMBERS || (n && ((uint64_t)offset > whole || (uint64_t)reach > whole - (uint64_t)offset)))
        return damaged_tensor(file, t->name, "it reaches beyond its storage");
    t->data = storage->data + (n ? first + (uint64_t)offset * size : 0);
    t->bytes = (uint64_t)n * size;
    t->is_swapped = file->is_swapped;
    t->mapped = file->mapped;
    return SCBM_OK;
}

/* What a tensor's bits are besides its numbers: that it is negated or conjugated. */
static int has_bits(const pickle *p, const pickle_value *arguments, size_t at) {
    const pickle_value *facts = cbm_pickle_item(p, arguments, at);
    return facts && facts->kind != PICKLE_NONE && facts->n;
}

static scbm_status read_tensor(const torch_file *file, const pickle_value *value, stored_tensor *t) {
    const pickle *p = &file->pickle;
    const pickle_value *function, *arguments;
    int n_strides = 0;
    find_call(p, value, &function, &arguments);
    int is_v3 = is_function(function, "torch._utils _rebuild_tensor_v3");
    if (!is_v3 && !is_function(function, "torch._utils _rebuild_tensor_v2") &&
        !is_function(function, "torch._utils _rebuild_tensor"))
        return damaged_tensor(file, t->name, "it is no tensor, and the dictionary is to have nothing else");
    const pickle_value *from = cbm_pickle_item(p, arguments, 0), *offset = cbm_pickle_item(p, arguments, 1);
    const pickle_value *id = from && from->kind == PICKLE_PERSISTENT ? cbm_pickle_item(p, from, 0) : NULL;
    const pickle_value *key = cbm_pickle_item(p, id, 2);
    const torch_storage *storage = key ? find_storage(file, key->text, key->length) : NULL;
    if (!storage || !offset || offset->kind != PICKLE_INT || offset->integer < 0 || offset->integer > MAX_NUMBERS ||
        !read_sizes(p, cbm_pickle_item(p, arguments, 2), t->shape, &t->n_dims) ||
        !read_sizes(p, cbm_pickle_item(p, arguments, 3), t->stride, &n_strides) || n_strides != t->n_dims)
        return damaged_tensor(file, t->name, "its storage, sizes or strides are missing or no numbers");
    t->type = is_v3 ? type_of(cbm_pickle_item(p, arguments, 6)) : storage->type;
    if (!t->type) return damaged_tensor(file, t->name, "its type is missing");
    if (has_bits(p, arguments, is_v3 ? 7 : 6))
        return damaged_tensor(file, t->name, "it is negated or conjugated, which is not read");
    return place(file, t, storage, id, offset->integer);
}

/* A dictionary whose values are tensors. One without entries counts for none. */
static int is_dictionary_of_tensors(const pickle *p, const pickle_value *value) {
    const pickle_value *function, *arguments;
    if (!value || value->kind != PICKLE_DICT || value->n < 2) return 0;
    find_call(p, cbm_pickle_item(p, value, 1), &function, &arguments);
    return function != NULL;
}

/* The dictionary of tensors, or the one that it has under these names. */
static const pickle_value *find_dictionary(const torch_file *file) {
    static const char *const around[] = {"state_dict", "model"};
    const pickle *p = &file->pickle;
    const pickle_value *root = &p->value[p->root];
    for (size_t i = 0; i < COUNT_OF(around); i++) {
        const pickle_value *inside = cbm_pickle_get(p, root, around[i]);
        if (!is_dictionary_of_tensors(p, inside)) continue;
        scbm_log(&file->hooks, SCBM_LOG_INFO, "%.300s: the tensors are those under \"%s\"; left out beside it: %zu",
                 file->path, around[i], root->n / 2 - 1);
        return inside;
    }
    return is_dictionary_of_tensors(p, root) ? root : NULL;
}

static int is_name(const pickle_value *key) {
    return key->kind == PICKLE_TEXT && key->length <= MAX_NAME && cbm_stored_is_name(key->text, key->length);
}

static scbm_status copy_names(torch_file *file, const pickle_value *dictionary) {
    size_t bytes = 1;
    for (size_t i = 0; i < dictionary->n; i += 2) {
        const pickle_value *key = cbm_pickle_item(&file->pickle, dictionary, i);
        if (!is_name(key)) return damaged(file, "a tensor's name is no text, or has control characters in it");
        bytes += key->length + 1;
    }
    if (bytes > file->size + dictionary->n + 1) return damaged(file, "its names are larger than the file");
    file->names = scbm_alloc(&file->hooks, bytes);
    if (!file->names) return SCBM_ERROR_MEMORY;
    char *to = file->names;
    for (size_t i = 0; i < dictionary->n; i += 2) {
        const pickle_value *key = cbm_pickle_item(&file->pickle, dictionary, i);
        memcpy(to, key->text, key->length);
        file->tensor[i / 2].name = to;
        to += key->length + 1;
    }
    return SCBM_OK;
}

static scbm_status read_tensors(torch_file *file) {
    const pickle_value *dictionary = find_dictionary(file);
    if (!dictionary)
        return damaged(file, "it has no dictionary of tensors, by itself or under \"state_dict\" or \"model\"");
    file->tensor = scbm_alloc_array(&file->hooks, dictionary->n / 2 + 1, sizeof *file->tensor);
    if (!file->tensor) return SCBM_ERROR_MEMORY;
    scbm_status status = copy_names(file, dictionary);
    for (size_t i = 0; i < dictionary->n && !status; i += 2) {
        status = read_tensor(file, cbm_pickle_item(&file->pickle, dictionary, i + 1), &file->tensor[i / 2]);
        file->n++;
    }
    const char *twice = status ? NULL : cbm_stored_sort(file->tensor, file->n);
    return twice ? damaged_tensor(file, twice, "the name is there twice") : status;
}

/* ------------------------------------------------------------------------------------------
 * The zip file
 * ---------------------------------------------------------------------------------------- */

#define PICKLE_NAME "data.pkl"

/* The entries stand in a folder that has the file's name, or any other: "archive/data.pkl". */
static scbm_status find_folder(torch_file *file) {
    const size_t end = strlen(PICKLE_NAME);
    for (int64_t i = 0; i < file->zip.n; i++) {
        const zip_entry *entry = &file->zip.entry[i];
        if (entry->name_length < end || memcmp(entry->name + entry->name_length - end, PICKLE_NAME, end) != 0) continue;
        size_t length = entry->name_length - end;
        if (memchr(entry->name, '/', length ? length - 1 : 0)) continue;
        file->folder = entry->name;
        file->folder_length = length;
        return SCBM_OK;
    }
    return damaged(file, "the zip file has no entry " PICKLE_NAME ": torch.save has not written it");
}

/* The entry of this name in the folder. */
static scbm_status get_entry(const torch_file *file, const char *name, size_t length, int is_needed,
                             const zip_entry **entry) {
    char path[1024];
    *entry = NULL;
    if (file->folder_length + length > sizeof path)
        return damaged(file, "an entry of the zip file has a name that is too long");
    memcpy(path, file->folder, file->folder_length);
    memcpy(path + file->folder_length, name, length);
    length += file->folder_length;
    if (!is_needed && !cbm_zip_find(&file->zip, path, length)) return SCBM_OK;
    return cbm_zip_get(&file->zip, path, length, entry);
}

static scbm_status read_byte_order(torch_file *file) {
    const zip_entry *entry;
    scbm_status status = get_entry(file, "byteorder", strlen("byteorder"), 0, &entry);
    if (status || !entry) return status;
    file->is_swapped = entry->size == 3 && memcmp(entry->data, "big", 3) == 0;
    if (!file->is_swapped && (entry->size != 6 || memcmp(entry->data, "little", 6) != 0))
        return damaged(file, "its byteorder is neither little nor big");
    return SCBM_OK;
}

static scbm_status place_entry(const torch_file *file, torch_storage *storage) {
    char name[512], shown[CBM_SHOWN_SIZE];
    const zip_entry *entry;
    if (storage->key_length > sizeof name - 5) return damaged(file, "a storage has a key that is too long");
    memcpy(name, "data/", 5);
    memcpy(name + 5, storage->key, storage->key_length);
    scbm_status status = get_entry(file, name, 5 + storage->key_length, 1, &entry);
    if (status) return status;
    if (entry->size / cbm_stored_size(storage->type) < (uint64_t)storage->n)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: storage %s has %llu bytes, and is to have %lld numbers of type %s",
                         file->path, cbm_show(shown, storage->key, storage->key_length),
                         (unsigned long long)entry->size, (long long)storage->n, storage->type);
    storage->data = entry->data;
    return SCBM_OK;
}

static scbm_status read_zip(torch_file *file) {
    const zip_entry *entry = NULL;
    scbm_status status = cbm_zip_open(&file->zip, file->data, file->size, file->path, &file->hooks);
    if (!status) status = find_folder(file);
    if (!status) status = get_entry(file, PICKLE_NAME, strlen(PICKLE_NAME), 1, &entry);
    if (!status)
        status = cbm_pickle_read(&file->pickle, entry->data, (size_t)entry->size, file->path, globals, &file->hooks);
    if (!status) status = read_byte_order(file);
    if (!status) status = list_storages(file);
    for (size_t i = 0; i < file->n_storages && !status; i++) status = place_entry(file, &file->storage[i]);
    return status ? status : read_tensors(file);
}

/* ------------------------------------------------------------------------------------------
 * The older form. Its numbers are little-endian on every machine.
 * ---------------------------------------------------------------------------------------- */

enum { OLD_PROTOCOL = 1001 };

static scbm_status read_pickle(const torch_file *file, size_t *at, pickle *p) {
    scbm_status status = cbm_pickle_read(p, file->data + *at, file->size - *at, file->path, globals, &file->hooks);
    if (!status) *at += p->bytes;
    return status;
}

/* Ten bytes that say that torch.save wrote it, and the form's number. */
static scbm_status read_magic(const torch_file *file, size_t *at) {
    static const unsigned char magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    pickle p;
    scbm_status status = read_pickle(file, at, &p);
    if (status) return status;
    const pickle_value *value = &p.value[p.root];
    int is_magic = value->kind == PICKLE_BIG_INT && value->length == sizeof magic &&
                   memcmp(value->text, magic, sizeof magic) == 0;
    cbm_pickle_clear(&p);
    if (!is_magic) return damaged(file, "this is a pickle, but none that torch.save has written");
    status = read_pickle(file, at, &p);
    if (status) return status;
    value = &p.value[p.root];
    if (value->kind != PICKLE_INT || value->integer != OLD_PROTOCOL)
        status = damaged(file, "torch.save has written it in a form that is not known (protocol)");
    cbm_pickle_clear(&p);
    if (!status) status = read_pickle(file, at, &p); /* facts of the system that wrote it */
    if (!status) cbm_pickle_clear(&p);
    return status;
}

/* The numbers of the storage that is next. */
static scbm_status place_next(torch_file *file, const pickle_value *key, size_t *at) {
    torch_storage *storage = key->kind == PICKLE_TEXT ? find_storage(file, key->text, key->length) : NULL;
    if (!storage) return damaged(file, "a storage of its list belongs to no tensor");
    if (file->size - *at < 8) return damaged(file, "it is cut off before a storage's numbers");
    uint64_t n = cbm_little_endian(file->data + *at, 8);
    *at += 8;
    uint64_t size = cbm_stored_size(storage->type);
    if (n > (file->size - *at) / size) return damaged(file, "it is cut off within a storage's numbers");
    if (n < (uint64_t)storage->n) return damaged(file, "a storage has fewer numbers than its tensors are to have");
    storage->data = file->data + *at;
    *at += (size_t)(n * size);
    return SCBM_OK;
}

static scbm_status place_storages(torch_file *file, size_t at) {
    pickle p;
    scbm_status status = read_pickle(file, &at, &p);
    if (status) return status;
    const pickle_value *keys = &p.value[p.root];
    if (keys->kind != PICKLE_LIST) status = damaged(file, "its list of storages is missing");
    for (size_t i = 0; i < keys->n && !status; i++) status = place_next(file, cbm_pickle_item(&p, keys, i), &at);
    for (size_t i = 0; i < file->n_storages && !status; i++)
        if (!file->storage[i].data) status = damaged(file, "the numbers of a storage are missing");
    cbm_pickle_clear(&p);
    return status;
}

static scbm_status read_old(torch_file *file) {
    size_t at = 0;
    scbm_status status = read_magic(file, &at);
    if (!status) status = read_pickle(file, &at, &file->pickle);
    if (!status) status = list_storages(file);
    if (!status) status = place_storages(file, at);
    return status ? status : read_tensors(file);
}

/* ------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------- */

static int begins(const torch_file *file, size_t at, const char *text) {
    size_t n = strlen(text);
    return file->size >= at + n && memcmp(file->data + at, text, n) == 0;
}

static scbm_status read_file(torch_file *file) {
    enum { FIRST_OPCODE = 0x80 };
    if (cbm_zip_is(file->data, file->size)) return read_zip(file);
    if (begins(file, 257, "ustar"))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: a tar file, as PyTorch before 0.1.10 wrote; load and save it with a later one",
                         file->path);
    int is_pickle = file->size && file->data[0] == FIRST_OPCODE;
    const char *what = is_pickle ? NULL : scbm_bytes_recognize(file->data, file->size, 0);
    return what ? scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is %s", file->path, what) : read_old(file);
}

static scbm_status create(torch_file **file, const char *path, const scbm_hooks *hooks) {
    *file = scbm_alloc(hooks, sizeof **file);
    if (!*file) return SCBM_ERROR_MEMORY;
    if (hooks) (*file)->hooks = *hooks;
    (*file)->path = scbm_strdup(hooks, path);
    return (*file)->path ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_torch_open_memory(torch_file **file, const void *data, size_t size, const scbm_bytes *mapped,
                                  const char *name, const scbm_hooks *hooks) {
    scbm_status status = create(file, name, hooks);
    if (!status) {
        (*file)->data = data;
        (*file)->size = size;
        (*file)->mapped = mapped;
        status = read_file(*file);
    }
    if (!status) return SCBM_OK;
    cbm_torch_close(*file);
    *file = NULL;
    return status;
}

void cbm_torch_close(torch_file *file) {
    if (!file) return;
    const scbm_hooks hooks = file->hooks;
    cbm_pickle_clear(&file->pickle);
    cbm_zip_close(&file->zip);
    scbm_release(&hooks, file->storage);
    scbm_release(&hooks, file->tensor);
    scbm_release(&hooks, file->names);
    scbm_release(&hooks, file->path);
    scbm_release(&hooks, file);
}

const char *cbm_torch_path(const torch_file *file) {
    return file->path;
}

int64_t cbm_torch_n_tensors(const torch_file *file) {
    return file->n;
}

const stored_tensor *cbm_torch_get(const torch_file *file, int64_t index) {
    return index >= 0 && index < file->n ? &file->tensor[index] : NULL;
}
