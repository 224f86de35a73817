/*
 * models/report/template.c - fills in the fragments of .html files
 */
#include "models/report/parts.h"

#include <stdarg.h>
#include <string.h>

enum { MOST_PLACES = 16 };

typedef struct places {
    const char *name[MOST_PLACES], *html[MOST_PLACES];
    int n;
} places;

static places read_places(va_list arguments) {
    places p = {.n = 0};
    for (const char *name = va_arg(arguments, const char *); name; name = va_arg(arguments, const char *)) {
        const char *html = va_arg(arguments, const char *);
        if (!html || p.n == MOST_PLACES) continue;
        p.name[p.n] = name;
        p.html[p.n++] = html;
    }
    return p;
}

static int is_name(const char *name, const char *at, size_t length) {
    return strlen(name) == length && strncmp(name, at, length) == 0;
}

static const char *find_place(const places *p, const char *at, size_t length) {
    for (int i = 0; i < p->n; i++)
        if (is_name(p->name[i], at, length)) return p->html[i];
    return NULL;
}

/* What comes behind {{/name}}. */
static const char *after_end(const char *at, const char *name, size_t length) {
    for (at = strstr(at, "{{/"); at; at = strstr(at + 3, "{{/"))
        if (strncmp(at + 3, name, length) == 0 && strncmp(at + 3 + length, "}}", 2) == 0) return at + length + 5;
    return NULL;
}

/* Writes from `at` to {{content}}, and returns what stands behind that; NULL: the fragment's end. A place that nobody has
 * filled stays as it is, so that it is seen. */
static const char *fill(cbm_page *page, const char *at, const places *p) {
    for (const char *open = strstr(at, "{{"); open; open = strstr(at, "{{")) {
        const char *name = open + 2, *close = strstr(name, "}}");
        if (!close) break;
        size_t length = (size_t)(close - name);
        scbm_output_write(page->out, at, (size_t)(open - at));
        at = close + 2;
        if (is_name("content", name, length)) return at;
        if (*name == '#') {
            const char *after = after_end(at, name + 1, length - 1);
            if (after && !find_place(p, name + 1, length - 1)) at = after;
        } else if (*name != '/') {
            const char *html = find_place(p, name, length);
            if (html) scbm_output_write(page->out, html, strlen(html));
            else scbm_output_write(page->out, open, length + 4);
        }
    }
    scbm_output_write(page->out, at, strlen(at));
    return NULL;
}

void cbm_page_put(cbm_page *page, const char *fragment, ...) {
    va_list arguments;
    va_start(arguments, fragment);
    places p = read_places(arguments);
    va_end(arguments);
    while (fragment) fragment = fill(page, fragment, &p);
}

void cbm_page_begin(cbm_page *page, const char *fragment, ...) {
    va_list arguments;
    va_start(arguments, fragment);
    places p = read_places(arguments);
    va_end(arguments);
    fill(page, fragment, &p);
}

void cbm_page_end(cbm_page *page, const char *fragment, ...) {
    static const char content[] = "{{content}}";
    va_list arguments;
    va_start(arguments, fragment);
    places p = read_places(arguments);
    va_end(arguments);
    fragment = strstr(fragment, content);
    if (fragment) fill(page, fragment + strlen(content), &p);
}
