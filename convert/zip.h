/*
 * convert/zip.h - the stored entries of a zip file in memory, zip64 too
 *
 * torch.save stores its entries as they are, so nothing is unpacked here: an entry that is compressed is there with its
 * name, and asking for its bytes is an error. Checksums are not looked at, as in PyTorch, which writes none when asked to.
 */
#ifndef CONVERT_ZIP_H
#define CONVERT_ZIP_H

#include "sparsecbm.h"

typedef struct zip_entry {
    const char *name; /* not NUL-terminated */
    size_t name_length;
    const unsigned char *data; /* NULL: compressed or encrypted */
    uint64_t size;
} zip_entry;

typedef struct zip_file {
    zip_entry *entry; /* in the order of their names */
    int64_t n;
    const char *path; /* for messages */
    scbm_hooks hooks;
} zip_file;

/* Whether bytes begin like a zip file. */
int cbm_zip_is(const unsigned char *data, size_t size);
/* `data` and `path` must outlive the file. Every entry lies in the data. On error *zip is closed. */
scbm_status cbm_zip_open(zip_file *zip, const unsigned char *data, size_t size, const char *path,
                         const scbm_hooks *hooks);
void cbm_zip_close(zip_file *zip);
/* NULL: there is none of this name. */
const zip_entry *cbm_zip_find(const zip_file *zip, const char *name, size_t length);
/* The same where it must be there, stored. */
scbm_status cbm_zip_get(const zip_file *zip, const char *name, size_t length, const zip_entry **entry);

#endif
