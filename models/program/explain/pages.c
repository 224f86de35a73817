/*
 * models/program/explain/pages.c - a page for each text, and an index, in a folder
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/program/explain/explain.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* "FOLDER/name" in `path`. */
static scbm_status page_path(const explain_command *x, const char *name, char *path, size_t size) {
    int n = snprintf(path, size, "%s/%s", x->pages_path, name);
    if (n < 0 || (size_t)n >= size)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%.200s: the path is too long", x->pages_path);
    if (mkdir(x->pages_path, 0777) == 0 || errno == EEXIST) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_IO, "%s: cannot be made: %s", x->pages_path, strerror(errno));
}

scbm_status explain_write_page(explain_command *x, const char *title, const char *text, size_t length,
                               const cbm_explanation *e) {
    const scbm_hooks *hooks = &x->in.hooks;
    const size_t n = (size_t)x->in.n_printed;
    char name[32], path[4096];
    snprintf(name, sizeof name, "%zu.html", n + 1);
    scbm_status status = page_path(x, name, path, sizeof path);
    if (!status) status = cbm_report_html(path, title, x->in.model, text, length, e, hooks);
    if (!status) status = scbm_grow(hooks, (void **)&x->page, &x->page_capacity, n + 1, sizeof *x->page);
    if (status) return status;
    x->page[n] = (cbm_report_entry){scbm_strdup(hooks, name), scbm_strdup(hooks, text), length,
                                    e->prediction->label_index, e->prediction->probability};
    return x->page[n].page && x->page[n].text ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status explain_write_index(explain_command *x, const char *title) {
    char path[4096];
    scbm_status status = page_path(x, "index.html", path, sizeof path);
    if (!status)
        status = cbm_report_index_html(path, title, x->in.model, x->page, (size_t)x->in.n_printed, &x->in.hooks);
    if (!status) cli_say_wrote(x->in.command, path);
    return status;
}

void explain_clear_pages(explain_command *x) {
    for (size_t i = 0; i < x->page_capacity; i++) {
        scbm_release(&x->in.hooks, (void *)x->page[i].page);
        scbm_release(&x->in.hooks, (void *)x->page[i].text);
    }
    scbm_release(&x->in.hooks, x->page);
}
