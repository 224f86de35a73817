/*
 * convert/zip.c - the stored entries of a zip file in memory
 *
 * The list of entries stands at the file's end, behind it a record that says where; a second such record, of zip64,
 * says it for large files.
 */
#include "convert/zip.h"
#include "convert/bytes.h"
#include "models/base/text.h"

#include <stdlib.h>
#include <string.h>

enum { END_BYTES = 22, LOCATOR_BYTES = 20, END64_BYTES = 56, LISTED_BYTES = 46, LOCAL_BYTES = 30 };
enum { LOCAL = 0x04034b50, LISTED = 0x02014b50, END = 0x06054b50, LOCATOR = 0x07064b50, END64 = 0x06064b50 };
enum { MAX_COMMENT = 65535, ENCRYPTED = 1, ZIP64_EXTRA = 1 };

/* Where the list of entries is. */
typedef struct zip_list {
    uint64_t begin, bytes, n;
} zip_list;

typedef struct zip_bytes {
    const unsigned char *data;
    size_t size;
} zip_bytes;

int cbm_zip_is(const unsigned char *data, size_t size) {
    return size >= 4 && cbm_little_endian(data, 4) == LOCAL;
}

static scbm_status damaged(const zip_file *zip, const char *why) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a damaged zip file, or one that is cut off: %s", zip->path, why);
}

/* Behind zip64's locator stands the end that everybody reads; where the latter has no room for a number, all its bits
 * are set. */
static scbm_status read_end64(const zip_file *zip, zip_bytes all, size_t end, zip_list *list) {
    if (end < LOCATOR_BYTES || cbm_little_endian(all.data + end - LOCATOR_BYTES, 4) != LOCATOR) return SCBM_OK;
    uint64_t at = cbm_little_endian(all.data + end - LOCATOR_BYTES + 8, 8);
    if (all.size < END64_BYTES || at > all.size - END64_BYTES || cbm_little_endian(all.data + at, 4) != END64)
        return damaged(zip, "the end of its list is not where it says");
    list->n = cbm_little_endian(all.data + at + 32, 8);
    list->bytes = cbm_little_endian(all.data + at + 40, 8);
    list->begin = cbm_little_endian(all.data + at + 48, 8);
    return SCBM_OK;
}

static scbm_status find_list(const zip_file *zip, zip_bytes all, zip_list *list) {
    size_t end = all.size < END_BYTES ? 0 : all.size - END_BYTES;
    size_t first = end > MAX_COMMENT ? end - MAX_COMMENT : 0;
    if (all.size < END_BYTES) return damaged(zip, "there is no list of its entries");
    while (end > first && cbm_little_endian(all.data + end, 4) != END) end--;
    if (cbm_little_endian(all.data + end, 4) != END) return damaged(zip, "there is no list of its entries");
    list->n = cbm_little_endian(all.data + end + 10, 2);
    list->bytes = cbm_little_endian(all.data + end + 12, 4);
    list->begin = cbm_little_endian(all.data + end + 16, 4);
    scbm_status status = read_end64(zip, all, end, list);
    if (status) return status;
    if (list->begin > all.size || list->bytes > all.size - list->begin || list->n > list->bytes / LISTED_BYTES)
        return damaged(zip, "the list of its entries lies outside the file");
    return SCBM_OK;
}

/* An entry of the list, as it stands there. */
typedef struct listed_entry {
    uint64_t packed, size, begin;
    int flags, method;
} listed_entry;

/* Numbers that had no room stand in the extra field, in this order. */
static scbm_status read_extra(const zip_file *zip, const unsigned char *extra, size_t bytes, listed_entry *entry) {
    uint64_t *const wide[] = {&entry->size, &entry->packed, &entry->begin};
    for (size_t at = 0; at + 4 <= bytes;) {
        size_t kind = (size_t)cbm_little_endian(extra + at, 2), length = (size_t)cbm_little_endian(extra + at + 2, 2),
               used = 0;
        at += 4;
        if (length > bytes - at) return SCBM_OK; /* padding */
        for (int i = 0; kind == ZIP64_EXTRA && i < 3; i++) {
            if (*wide[i] != UINT32_MAX) continue;
            if (length - used < 8) return damaged(zip, "an entry's size is missing");
            *wide[i] = cbm_little_endian(extra + at + used, 8);
            used += 8;
        }
        at += length;
    }
    return SCBM_OK;
}

/* The bytes of an entry follow its own header, which has a name and extra field again. */
static scbm_status place(const zip_file *zip, zip_bytes all, const listed_entry *listed, zip_entry *entry) {
    if (all.size < LOCAL_BYTES || listed->begin > all.size - LOCAL_BYTES ||
        cbm_little_endian(all.data + listed->begin, 4) != LOCAL)
        return damaged(zip, "an entry is not where the list says");
    const unsigned char *header = all.data + listed->begin;
    uint64_t begin = listed->begin + LOCAL_BYTES + cbm_little_endian(header + 26, 2) +
                     cbm_little_endian(header + 28, 2);
    if (begin > all.size || listed->packed > all.size - begin) return damaged(zip, "an entry reaches beyond its end");
    entry->size = listed->size;
    if (listed->method != 0 || (listed->flags & ENCRYPTED)) return SCBM_OK;
    if (listed->packed != listed->size) return damaged(zip, "a stored entry has two sizes");
    entry->data = all.data + begin;
    return SCBM_OK;
}

static scbm_status read_entry(const zip_file *zip, zip_bytes all, uint64_t *at, uint64_t end, zip_entry *entry) {
    const unsigned char *listed = all.data + *at;
    if (end - *at < LISTED_BYTES || cbm_little_endian(listed, 4) != LISTED)
        return damaged(zip, "the list of its entries ends early");
    listed_entry found = {cbm_little_endian(listed + 20, 4), cbm_little_endian(listed + 24, 4),
                          cbm_little_endian(listed + 42, 4), (int)cbm_little_endian(listed + 8, 2),
                          (int)cbm_little_endian(listed + 10, 2)};
    size_t name = (size_t)cbm_little_endian(listed + 28, 2), extra = (size_t)cbm_little_endian(listed + 30, 2);
    uint64_t bytes = LISTED_BYTES + name + extra + cbm_little_endian(listed + 32, 2);
    if (bytes > end - *at) return damaged(zip, "the list of its entries ends early");
    entry->name = (const char *)listed + LISTED_BYTES;
    entry->name_length = name;
    *at += bytes;
    scbm_status status = read_extra(zip, listed + LISTED_BYTES + name, extra, &found);
    return status ? status : place(zip, all, &found, entry);
}

static int by_name(const void *a, const void *b) {
    const zip_entry *x = a, *y = b;
    return cbm_compare_names(x->name, x->name_length, y->name, y->name_length);
}

static scbm_status read_entries(zip_file *zip, zip_bytes all) {
    zip_list list = {0};
    scbm_status status = find_list(zip, all, &list);
    if (status) return status;
    zip->entry = scbm_alloc_array(&zip->hooks, (size_t)list.n + 1, sizeof *zip->entry);
    if (!zip->entry) return SCBM_ERROR_MEMORY;
    for (uint64_t at = list.begin; (uint64_t)zip->n < list.n && !status; zip->n++)
        status = read_entry(zip, all, &at, list.begin + list.bytes, &zip->entry[zip->n]);
    if (status) return status;
    qsort(zip->entry, (size_t)zip->n, sizeof *zip->entry, by_name);
    for (int64_t i = 1; i < zip->n; i++)
        if (by_name(&zip->entry[i - 1], &zip->entry[i]) == 0) return damaged(zip, "two entries have the same name");
    return SCBM_OK;
}

scbm_status cbm_zip_open(zip_file *zip, const unsigned char *data, size_t size, const char *path,
                         const scbm_hooks *hooks) {
    memset(zip, 0, sizeof *zip);
    zip->path = path;
    if (hooks) zip->hooks = *hooks;
    scbm_status status = read_entries(zip, (zip_bytes){data, size});
    if (status) cbm_zip_close(zip);
    return status;
}

void cbm_zip_close(zip_file *zip) {
    scbm_release(&zip->hooks, zip->entry);
    zip->entry = NULL;
    zip->n = 0;
}

const zip_entry *cbm_zip_find(const zip_file *zip, const char *name, size_t length) {
    int64_t low = 0, high = zip->n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const zip_entry *entry = &zip->entry[middle];
        int order = cbm_compare_names(name, length, entry->name, entry->name_length);
        if (order == 0) return entry;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

scbm_status cbm_zip_get(const zip_file *zip, const char *name, size_t length, const zip_entry **entry) {
    char shown[CBM_SHOWN_SIZE];
    *entry = cbm_zip_find(zip, name, length);
    if (!*entry)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the zip file has no entry %s", zip->path,
                         cbm_show(shown, name, length));
    if (!(*entry)->data)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: entry %s of the zip file is compressed or encrypted, which torch.save never does",
                         zip->path, cbm_show(shown, name, length));
    return SCBM_OK;
}
