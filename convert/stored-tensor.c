/*
 * convert/stored-tensor.c - a tensor as a checkpoint's file has it
 */
#include "convert/stored-tensor.h"
#include "models/base/text.h"

#include <stdlib.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define PAGES_AROUND ((size_t)1 << 16)
#define BAND_BYTES ((int64_t)1 << 20) /* of the file, between two times that its pages are given back */
#define LEAST_COLUMNS 32              /* of a band of columns, so that rows are not written far apart */

static const struct {
    const char *name;
    uint64_t bytes;
} types[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
    {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8},
};

uint64_t cbm_stored_size(const char *type) {
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcmp(types[i].name, type) == 0) return types[i].bytes;
    return 0;
}

void cbm_stored_set_strides(stored_tensor *tensor) {
    int64_t stride = 1;
    for (int d = tensor->n_dims - 1; d >= 0; d--) {
        tensor->stride[d] = stride;
        if (tensor->shape[d]) stride *= tensor->shape[d];
    }
}

int cbm_stored_is_name(const char *name, size_t length) {
    if (!length || cbm_find_bad_utf8(name, length) < length) return 0;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f) return 0;
    return 1;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const stored_tensor *)a)->name, ((const stored_tensor *)b)->name);
}

const char *cbm_stored_sort(stored_tensor *tensors, int64_t n) {
    qsort(tensors, (size_t)n, sizeof *tensors, by_name);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0) return tensors[i].name;
    return NULL;
}

int cbm_stored_read_type(const stored_tensor *tensor, scbm_type *type) {
    static const struct {
        const char *name;
        scbm_type type;
    } known[] = {{"F32", SCBM_F32}, {"F16", SCBM_F16}, {"BF16", SCBM_BF16}, {"F64", SCBM_F32}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].name, tensor->type) != 0) continue;
        *type = known[i].type;
        return 1;
    }
    return 0;
}

/* How numbers are read. */
typedef struct number_form {
    int64_t size, read_size; /* bytes, in the file and read */
    int is_swapped;
} number_form;

static void read_number(const unsigned char *from, unsigned char *to, const number_form *form) {
    unsigned char bytes[8];
    for (int64_t i = 0; i < form->size; i++) bytes[i] = from[form->is_swapped ? form->size - 1 - i : i];
    if (form->size == form->read_size) {
        memcpy(to, bytes, (size_t)form->size);
        return;
    }
    double wide;
    memcpy(&wide, bytes, sizeof wide);
    float value = (float)wide;
    memcpy(to, &value, sizeof value);
}

/* n numbers that are `stride` apart. */
static void read_row(const unsigned char *from, int64_t stride, int64_t n, unsigned char *to, const number_form *form) {
    if (stride == 1 && form->size == form->read_size && !form->is_swapped) {
        memcpy(to, from, (size_t)(n * form->size));
        return;
    }
    for (int64_t i = 0; i < n; i++) read_number(from + i * stride * form->size, to + i * form->read_size, form);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* A matrix that is read, in its own rows and columns. */
typedef struct stored_matrix {
    const unsigned char *data;
    int64_t rows, columns, row_stride, column_stride;
} stored_matrix;

/* What was read goes back, and what the system brings along around a page that is read (64 KiB): left there, it would add up
 * to a sixteenth of the file. */
static void give_back(const scbm_bytes *mapped, const unsigned char *from, size_t n) {
    size_t before = (size_t)(from - mapped->data), after = mapped->size - before - n;
    if (before > PAGES_AROUND) before = PAGES_AROUND;
    if (after > PAGES_AROUND) after = PAGES_AROUND;
    scbm_bytes_give_back(mapped, from - before, before + n + after);
}

/* Rows i … i + rows of columns j … j + columns, and gives back the pages that they lie in. */
static void read_band(const stored_matrix *m, int64_t i, int64_t rows, int64_t j, int64_t columns,
                      const number_form *form, const scbm_bytes *mapped, unsigned char *to) {
    const unsigned char *from = m->data + (i * m->row_stride + j * m->column_stride) * form->size;
    for (int64_t r = 0; r < rows; r++)
        read_row(from + r * m->row_stride * form->size, m->column_stride, columns,
                 to + ((i + r) * m->columns + j) * form->read_size, form);
    int64_t span = (rows - 1) * m->row_stride + (columns - 1) * m->column_stride + 1;
    if (mapped) give_back(mapped, from, (size_t)(span * form->size));
}

void cbm_stored_read(const stored_tensor *t, const stored_part *part, void *data) {
    scbm_type type = SCBM_F32;
    cbm_stored_read_type(t, &type);
    const number_form form = {(int64_t)cbm_stored_size(t->type), scbm_type_of(type)->block_bytes, t->is_swapped};
    int64_t outer = t->stride[0], inner = t->n_dims > 1 ? t->stride[1] : 0;
    stored_matrix m = {t->data, part->rows, part->columns, part->is_transposed ? inner : outer,
                       part->is_transposed ? outer : inner};
    if (part->rows < 1 || part->columns < 1) return;
    m.data += part->first * m.row_stride * form.size;
    if (m.row_stride >= m.column_stride) {
        int64_t band = BAND_BYTES / form.size / (m.row_stride ? m.row_stride : 1) + 1;
        for (int64_t i = 0; i < m.rows; i += band)
            read_band(&m, i, least(band, m.rows - i), 0, m.columns, &form, t->mapped, data);
        return;
    }
    int64_t band = BAND_BYTES / form.size / m.column_stride + 1;
    if (band > LEAST_COLUMNS) band -= band % LEAST_COLUMNS;
    for (int64_t j = 0; j < m.columns; j += band)
        read_band(&m, 0, m.rows, j, least(band, m.columns - j), &form, t->mapped, data);
}
