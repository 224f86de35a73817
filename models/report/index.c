/*
 * models/report/index.c - a page that lists the pages of many texts
 */
#include "models/report/templates/index.html.h"
#include "models/report/parts.h"

#define MOST_SHOWN 200 /* bytes of a text */

/* A text, or its beginning, up to a whole character. */
static void put_text(cbm_page *page, const cbm_report_entry *entry) {
    size_t n = entry->length;
    if (n > MOST_SHOWN)
        for (n = MOST_SHOWN; n > 0 && ((unsigned char)entry->text[n] & 0xC0) == 0x80;) n--;
    cbm_page_escape(page, entry->text, n);
    if (n < entry->length || !n) cbm_page_escape(page, "\xE2\x80\xA6", 3);
}

scbm_status cbm_report_index_html(const char *path, const char *title, const cbm_model *model,
                                  const cbm_report_entry *entries, size_t n, const scbm_hooks *hooks) {
    const int n_concepts = cbm_model_n_concepts(model);
    cbm_page page;
    double *importance = scbm_alloc_array(hooks, (size_t)n_concepts + 1, sizeof *importance);
    if (!importance) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (!cbm_model_label(model, entries[i].label)) {
            scbm_release(hooks, importance);
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the model has no label %d", path, entries[i].label);
        }
    scbm_status status = cbm_page_open(&page, path, title, model, importance, hooks);
    scbm_release(hooks, importance);
    if (status) return status;
    cbm_page_begin(&page, html_index, "title", page.title, "texts", cbm_page_count(&page, (int64_t)n), NULL);
    for (size_t i = 0; i < n; i++) {
        cbm_page_begin(&page, html_entry, "page", entries[i].page, NULL);
        put_text(&page, &entries[i]);
        cbm_page_end(&page, html_entry, "label", page.label[entries[i].label], "probability",
                     cbm_page_percent(&page, (double)entries[i].probability), NULL);
    }
    cbm_page_end(&page, html_index, NULL);
    return cbm_page_close(&page, status);
}
