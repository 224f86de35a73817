/*
 * models/report/page.c - a self-contained HTML page: its frame and style, escaping, numbers
 */
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

/* ------------------------------------------------------------------------------------------
 * Style
 *
 * Positive is blue, negative is orange, shares are teal; --pos, --neg and --seq are red, green and blue, so that a part
 * of them can be mixed in. What a colour says a sign, a line or a number says too.
 * ---------------------------------------------------------------------------------------- */

static const char *const style[] = {
    ":root{color-scheme:light dark;--page:#faf9f6;--card:#fff;--ink:#1d1f23;--soft:#5a606b;--line:#e2dfd8;"
    "--track:#edeae4;"
    "--pos:29 106 173;--neg:186 82 14;--seq:15 118 110}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--page:#141619;--card:#1c1f23;--ink:#e9e7e3;--soft:#a5abb6;"
    "--line:#343940;--track:#2b2f35;--pos:92 170 240;--neg:240 146 82;--seq:62 178 166}.maps "
    "img,.ramp{filter:brightness(1.4)}}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%;text-size-adjust:100%}\n"
    "body{margin:0 auto;max-width:62rem;padding:2rem 1.25rem 3rem;background:var(--page);color:var(--ink);"
    "font:1rem/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
    "print-color-adjust:exact;-webkit-print-color-adjust:exact}\n"
    "h1,h2,h3{line-height:1.25;margin:0;overflow-wrap:anywhere}h1{font-size:1.9rem;letter-spacing:-.015em}\n"
    "h2{font-size:1.3rem;margin:0 0 .35rem}h3{font-size:1rem}p{margin:0 0 .75rem}\n"
    "section{margin-top:3rem}section>p,.lead{max-width:44rem}.soft,.note,figcaption{color:var(--soft)}\n"
    ".note,figcaption{font-size:.86rem}figure{margin:1.5rem 0 0}figcaption{margin:.5rem 0 0;max-width:44rem}\n"
    ".kicker{margin:0 0 .3rem;color:var(--soft);font-size:.86rem}\n"
    "nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem;padding-top:.75rem;"
    "border-top:1px solid var(--line);font-size:.9rem}\n"
    "a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:.2em}\n"
    "a:focus-visible,summary:focus-visible,input:focus-visible+label{outline:2px solid rgb(var(--pos));"
    "outline-offset:2px}\n",

    "blockquote{margin:0;padding:.1rem 0 .1rem 1rem;border-left:3px solid rgb(var(--seq));font:1.15rem/1.6 Georgia,"
    "'Times New Roman',serif;white-space:pre-wrap;overflow-wrap:anywhere;max-height:27rem;overflow-y:auto}\n"
    ".head{display:grid;grid-template-columns:minmax(0,1fr) 17rem;gap:1.5rem 2.5rem;"
    "margin-top:1.5rem;align-items:start}\n"
    ".unread{white-space:pre-wrap}.warn{border-left:3px solid rgb(var(--neg));padding-left:.6rem}\n"
    "table{border-collapse:collapse;width:100%;font-size:.92rem}caption{text-align:left;color:var(--soft);"
    "font-size:.86rem;padding-bottom:.4rem}\n"
    "th,td{padding:.4rem .5rem;text-align:left;font-weight:400;vertical-align:middle;overflow-wrap:anywhere}\n"
    "thead th{color:var(--soft);font-size:.82rem;vertical-align:bottom;hyphens:auto}thead>tr>*{border-bottom:1px "
    "solid var(--line)}\n"
    "tbody tr+tr>*{border-top:1px solid var(--line)}.n{text-align:right;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}thead .n{white-space:normal}\n"
    ".scroll{overflow-x:auto}.scroll th,.scroll td{overflow-wrap:break-word}.scroll tbody th{white-space:nowrap}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(13.3rem,1fr));gap:1rem;"
    "margin-top:1rem}.two{grid-template-columns:repeat(auto-fill,minmax(20rem,1fr))}\n"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem .8rem;min-width:0}\n"
    ".card h3{margin-bottom:.4rem}.card h4{margin:.7rem 0 .2rem;font-size:.86rem;font-weight:600}\n"
    ".bars{list-style:none;margin:0;padding:0;font-size:.9rem;display:grid;gap:.15rem .5rem;align-items:center;"
    "grid-template-columns:fit-content(66%) minmax(2rem,1fr) auto}.bars li{display:contents}\n"
    ".bars li>:first-child{overflow-wrap:anywhere;line-height:1.25}.bars .best>*{font-weight:600}"
    ".bars .best>:first-child::after{content:'\\a0\\2713'}.card .note{margin:.6rem 0 0}"
    ".bars.even{grid-template-columns:50% minmax(1.5rem,1fr) auto}.side{display:flex;flex-wrap:wrap;gap:1.25rem 2.5rem;"
    "align-items:flex-start}.side>.scroll{max-width:100%}.side>.card{flex:1 1 15rem;max-width:24rem}\n"
    ".bar{display:block;position:relative;height:.55rem;border-radius:.15rem;background:var(--track)}"
    ".bar>b,.bar>i{position:absolute;top:0;bottom:0;left:0}.bar>b{border-radius:inherit;background:rgb(var(--seq));"
    "min-width:1px}.bar>i{top:-.18rem;bottom:-.18rem;width:2px;margin-left:-1px;background:var(--ink)}\n",

    ".fall td.chart{width:46%;padding:0;position:relative}.fall i{position:absolute}"
    ".fall .zero{top:0;bottom:0;width:1px;background:var(--soft);opacity:.5}.fall .step{top:calc(50% - .55rem);"
    "height:1.1rem;"
    "min-width:2px;border-radius:.12rem}\n"
    ".fall .link{top:calc(.55rem - 50%);bottom:calc(50% + .55rem);border-left:1px dotted var(--soft)}\n"
    ".up{background:rgb(var(--pos))}.down{background:repeating-linear-gradient(135deg,rgb(var(--neg)) 0 5px,"
    "rgb(var(--neg)/.72) 5px 8px)}.base,.total{background:var(--soft)}.fall .total{background:var(--ink)}\n"
    ".fall thead .n{white-space:nowrap}.fall small{display:block;color:var(--soft);font-size:.84rem}.fall tfoot "
    "th,.fall tfoot td{border-top:2px solid "
    "var(--ink);font-weight:600}.sum{margin-top:.6rem;font-variant-numeric:tabular-nums}.sum span{white-space:nowrap}\n"
    ".key{display:inline-block;width:1.1em;height:.7em;border-radius:.12rem;vertical-align:baseline}\n"
    ".by{position:absolute;opacity:0;pointer-events:none}.by+label{display:inline-block;padding:.2rem .7rem;"
    "border:1px solid var(--line);background:var(--card);cursor:pointer;font-size:.88rem}\n"
    ".by+label{border-radius:.4rem;margin:.2rem .35rem .9rem 0}.by:checked+label{border-color:var(--ink);"
    "box-shadow:inset 0 0 0 1px var(--ink)}\n"
    ".toggled{position:relative}#by-1:checked~* .of-2,#by-2:checked~* .of-1{display:none}\n"
    ".words article{padding:1rem 0;border-top:1px solid var(--line);display:grid;grid-template-columns:9rem "
    "minmax(0,1fr);"
    "gap:.2rem 1.25rem}.words article header{grid-row:span 2}.words article p{margin:0}\n"
    ".words .text{font:1.08rem/2 Georgia,'Times New Roman',serif;white-space:pre-wrap;overflow-wrap:anywhere}\n"
    ".words .text span[class]{border-radius:.15rem;padding:.14em .1em;margin:0 -.1em;"
    "-webkit-box-decoration-break:clone;box-decoration-break:clone}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:.3rem .9rem;align-items:baseline;margin:0 0 .9rem;font-size:.86rem;"
    "color:var(--soft)}.legend span[class]{color:var(--ink);padding:.1em .4em;border-radius:.15rem;"
    "font-variant-numeric:tabular-nums}\n",

    ".heat{width:auto}.heat th,.heat td{padding:.35rem .55rem}.heat "
    "td{text-align:center;font-variant-numeric:tabular-nums;"
    "min-width:3.6rem;border:2px solid var(--page)}.heat thead>tr>*{border:0;text-align:center}.heat tbody tr+tr>*{"
    "border-top:2px solid var(--page)}.heat .self{color:var(--soft)}\n"
    ".maps{table-layout:fixed;min-width:calc(var(--n)*3.5rem + 4.2rem)}.maps th,.maps td{padding:.3rem .25rem;"
    "vertical-align:top}"
    ".maps tbody tr+tr>*{border:0}.maps thead td{width:4.2rem}.maps thead>tr>*{border:0}.maps tbody "
    "th{color:var(--soft);font-size:.86rem}\n"
    ".maps thead th{color:var(--ink);font-weight:600}.maps img,.layout>svg{display:block;width:100%;height:auto;"
    "image-rendering:pixelated}.maps img{border:1px solid var(--line)}.maps td span{display:block;font-size:.8rem;"
    "color:var(--soft);font-variant-numeric:tabular-nums}\n"
    ".layout{display:grid;grid-template-columns:minmax(0,15rem) minmax(0,1fr);gap:1.25rem;align-items:center;"
    "margin:1rem 0}"
    ".nowrap{white-space:nowrap}.layout>svg text{font:6.4px system-ui,sans-serif;fill:var(--ink)}.layout>svg "
    "rect{fill:rgb(var(--seq)/.16);stroke:"
    "rgb(var(--seq));stroke-width:.5}\n"
    ".ramp{display:inline-block;width:7rem;height:.7rem;vertical-align:baseline;margin:0 .3rem;border:1px solid "
    "var(--line)}\n"
    ".small{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:1rem;margin-top:.8rem}"
    ".small figure{margin:0}.small figcaption{margin:.2rem 0 0}.small svg{display:block;width:100%;height:auto}"
    ".small rect{stroke:var(--card);stroke-width:.04}\n"
    ".curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}.curves svg{display:block;"
    "width:100%;height:auto;font:11px system-ui,sans-serif;fill:var(--soft)}\n"
    ".curves polyline{fill:none;stroke-width:2}.curves .grid{stroke:var(--line)}.c0{stroke:rgb(var(--pos))}"
    ".c1{stroke:rgb(var(--seq))}.c2{stroke:rgb(var(--neg))}.c3{stroke:var(--soft)}\n"
    "details{margin-top:1.2rem}summary{cursor:pointer;font-size:.92rem;color:var(--soft)}details[open]>summary{"
    "margin-bottom:.6rem}\n"
    "footer{margin-top:3.5rem;padding-top:.8rem;border-top:1px solid var(--line);font-size:.86rem;color:var(--soft)}\n",

    "@media (max-width:44rem){body{padding:1.25rem 1rem 2rem}h1{font-size:1.5rem}"
    ".head{grid-template-columns:minmax(0,1fr)}"
    "section{margin-top:2.25rem}.words article{grid-template-columns:minmax(0,1fr)}.words article header{grid-row:auto}"
    ".fall td.chart{width:38%}.fall .run{display:none}.maps thead th{font-size:.74rem}.heat th,.heat "
    "td{padding:.3rem .25rem}.heat td{min-width:3rem}th,td{padding:.35rem .3rem}"
    ".layout{grid-template-columns:minmax(0,1fr)}.layout>svg{max-width:17rem}"
    ".cards{grid-template-columns:minmax(0,1fr)}}\n"
    "@media print{body{max-width:none;padding:0;font-size:10pt;background:#fff}blockquote{max-height:none}"
    "nav,.by,.by:not(:checked)+label,summary{"
    "display:none}section{margin-top:1.5rem}article,tr,.card,figure figure,.head{break-inside:avoid}"
    "h2,h3{break-after:avoid}"
    "details::details-content{content-visibility:visible;display:block;height:auto}.scroll{overflow:visible}"
    ".maps{min-width:0}}\n",
};

/* Eight strengths of highlighting a word for each sign. p and n count under the first of two choices, u and d under the
 * second. The line under a word says the sign as well: whole for positive, dashed for negative; the weakest words have
 * none. */
static void put_highlights(cbm_page *page) {
    static const struct {
        const char *choice, *letter, *colour, *line;
    } kinds[] = {{"1", "p", "pos", "solid"},
                 {"1", "n", "neg", "dashed"},
                 {"2", "u", "pos", "solid"},
                 {"2", "d", "neg", "dashed"}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (int level = 1; level <= 8; level++)
            cbm_put(
                page,
                level < 2
                    ? "#by-%s:checked~* .%s%d{background:rgb(var(--%s)/.%02d)}\n"
                    : "#by-%s:checked~* .%s%d{background:rgb(var(--%s)/.%02d);border-bottom:2px %s rgb(var(--%s))}\n",
                kinds[i].choice, kinds[i].letter, level, kinds[i].colour, level * 7, kinds[i].line, kinds[i].colour);
}

/* ------------------------------------------------------------------------------------------
 * Escaping
 * ---------------------------------------------------------------------------------------- */

/* What stands for a character, or NULL where it stands for itself. */
static const char *replacement(utf8proc_int32_t character) {
    switch (character) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    case '\t':
    case '\n': return NULL;
    case '\r': return "";
    default: break;
    }
    int is_control = character < 0x20 || (character >= 0x7F && character < 0xA0) || (character & 0xFFFE) == 0xFFFE ||
                     (character >= 0xFDD0 && character <= 0xFDEF);
    return is_control ? "\xEF\xBF\xBD" : NULL;
}

/* Calls `take` with one piece after the other. */
static void escape(const char *text, size_t length, void (*take)(void *to, const char *piece, size_t size), void *to) {
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t character = -1;
        size_t left = length - i < 4 ? length - i : 4;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)left, &character);
        const char *instead = n > 0 ? replacement(character) : "\xEF\xBF\xBD";
        if (n < 1) n = 1;
        if (instead) take(to, instead, strlen(instead));
        else take(to, text + i, (size_t)n);
        i += (size_t)n;
    }
}

static void take_output(void *to, const char *piece, size_t size) {
    scbm_output_write(to, piece, size);
}

void cbm_page_escape(cbm_page *page, const char *text, size_t length) {
    escape(text, length, take_output, page->out);
}

typedef struct growing {
    char *text; /* NULL: only counted */
    size_t length;
} growing;

static void take_memory(void *to, const char *piece, size_t size) {
    growing *g = to;
    if (g->text) memcpy(g->text + g->length, piece, size);
    g->length += size;
}

/* An escaped copy, or NULL without memory. */
static char *escaped_copy(const char *text, const scbm_hooks *hooks) {
    growing counted = {NULL, 0}, copy = {NULL, 0};
    escape(text, strlen(text), take_memory, &counted);
    copy.text = scbm_alloc(hooks, counted.length + 1);
    if (copy.text) escape(text, strlen(text), take_memory, &copy);
    return copy.text;
}

/* ------------------------------------------------------------------------------------------
 * Numbers
 * ---------------------------------------------------------------------------------------- */

#define MINUS "\xE2\x88\x92"

/* The digits with `decimals` (up to 6) behind the point, rounded half away from zero, and its sign before it. A value
 * that is rounded to zero has none. */
static const char *format(cbm_page *page, double value, int decimals, const char *plus, const char *minus) {
    static const double power[] = {1, 10, 100, 1e3, 1e4, 1e5, 1e6};
    static const int64_t integer_power[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
    char *text = page->numbers[page->next_number++ % CBM_PAGE_NUMBERS];
    double scaled = floor(fabs(value) * power[decimals] + 0.5);
    if (!(scaled < 1e15)) { /* also what is no number */
        char digits[32];
        snprintf(text, sizeof page->numbers[0], "%s", scbm_print_double(value, digits));
        return text;
    }
    int64_t whole = (int64_t)scaled;
    const char *sign = whole == 0 ? "" : value < 0 ? minus : plus;
    if (decimals == 0) snprintf(text, sizeof page->numbers[0], "%s%lld", sign, (long long)whole);
    else
        snprintf(text, sizeof page->numbers[0], "%s%lld.%0*lld", sign, (long long)(whole / integer_power[decimals]),
                 decimals, (long long)(whole % integer_power[decimals]));
    return text;
}

const char *cbm_page_number(cbm_page *page, double value, int decimals) {
    return format(page, value, decimals, "", MINUS);
}

const char *cbm_page_signed(cbm_page *page, double value, int decimals) {
    return format(page, value, decimals, "+", MINUS);
}

const char *cbm_page_plain(cbm_page *page, double value) {
    return format(page, value, 2, "", "-");
}

const char *cbm_page_percent(cbm_page *page, double share) {
    char *text = (char *)format(page, 100.0 * share, share > 0 && share < 0.00995 ? 2 : 1, "", MINUS);
    strcat(text, "%");
    return text;
}

const char *cbm_page_count(cbm_page *page, int64_t n) {
    char digits[32], *text = page->numbers[page->next_number++ % CBM_PAGE_NUMBERS];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

const char *cbm_page_exact(cbm_page *page, float value) {
    return scbm_print_float(value, page->numbers[page->next_number++ % CBM_PAGE_NUMBERS]);
}

void cbm_page_bar(cbm_page *page, double share, double mark) {
    cbm_put(page, "<span class=\"bar\" aria-hidden=\"true\"><b style=\"width:%s%%\"></b>",
            cbm_page_plain(page, 100 * share));
    if (mark >= 0) cbm_put(page, "<i style=\"left:%s%%\"></i>", cbm_page_plain(page, 100 * mark));
    cbm_put(page, "</span>");
}

/* ------------------------------------------------------------------------------------------
 * Opening and closing
 * ---------------------------------------------------------------------------------------- */

static scbm_status take_names(cbm_page *page) {
    const cbm_model *model = page->model;
    int n_classes = 0;
    page->first_class = scbm_alloc_array(page->hooks, (size_t)page->n_concepts + 1, sizeof *page->first_class);
    if (!page->first_class) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        n_classes += cbm_model_n_concept_classes(model, k);
        page->first_class[k + 1] = n_classes;
    }
    page->concept = scbm_alloc_array(page->hooks, (size_t)page->n_concepts, sizeof *page->concept);
    page->label = scbm_alloc_array(page->hooks, (size_t)page->n_labels, sizeof *page->label);
    page->class_name = scbm_alloc_array(page->hooks, (size_t)n_classes, sizeof *page->class_name);
    if (!page->concept || !page->label || !page->class_name) return SCBM_ERROR_MEMORY;
    for (int y = 0; y < page->n_labels; y++)
        if (!(page->label[y] = escaped_copy(cbm_model_label(model, y), page->hooks))) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        if (!(page->concept[k] = escaped_copy(cbm_model_concept(model, k), page->hooks))) return SCBM_ERROR_MEMORY;
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
            char **place = &page->class_name[page->first_class[k] + c];
            if (!(*place = escaped_copy(cbm_model_concept_class(model, k, c), page->hooks))) return SCBM_ERROR_MEMORY;
        }
    }
    return SCBM_OK;
}

/* By insertion, so that equal ones keep their order. */
static scbm_status sort_concepts(cbm_page *page, const double *importance) {
    page->order = scbm_alloc_array(page->hooks, (size_t)page->n_concepts, sizeof *page->order);
    if (!page->order) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        int place = k;
        for (; place > 0 && importance[k] > importance[page->order[place - 1]]; place--)
            page->order[place] = page->order[place - 1];
        page->order[place] = k;
    }
    return SCBM_OK;
}

static void free_names(cbm_page *page) {
    for (int k = 0; page->concept && k < page->n_concepts; k++) scbm_release(page->hooks, page->concept[k]);
    for (int y = 0; page->label && y < page->n_labels; y++) scbm_release(page->hooks, page->label[y]);
    for (int c = 0; page->class_name && c < page->first_class[page->n_concepts]; c++)
        scbm_release(page->hooks, page->class_name[c]);
    scbm_release(page->hooks, page->concept);
    scbm_release(page->hooks, page->label);
    scbm_release(page->hooks, page->class_name);
    scbm_release(page->hooks, page->first_class);
    scbm_release(page->hooks, page->order);
}

scbm_status cbm_page_open(cbm_page *page, const char *path, const char *title, const cbm_model *model,
                          const double *importance, const scbm_hooks *hooks) {
    memset(page, 0, sizeof *page);
    page->hooks = hooks;
    page->model = model;
    page->n_concepts = cbm_model_n_concepts(model);
    page->n_labels = cbm_model_n_labels(model);
    scbm_status status = page->n_concepts ? SCBM_OK
                                          : scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: a model without concepts", path);
    if (!status) status = take_names(page);
    if (!status) status = sort_concepts(page, importance);
    if (!status) status = scbm_output_open(&page->out, path, hooks);
    if (status) {
        free_names(page);
        return status;
    }
    cbm_put(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    cbm_page_escape(page, title, strlen(title));
    cbm_put(page, "</title>\n<style>\n");
    for (size_t i = 0; i < sizeof style / sizeof style[0]; i++)
        scbm_output_write(page->out, style[i], strlen(style[i]));
    put_highlights(page);
    cbm_put(page, "</style>\n</head>\n<body>\n");
    return SCBM_OK;
}

scbm_status cbm_page_close(cbm_page *page, scbm_status status) {
    free_names(page);
    if (status) {
        scbm_output_abandon(page->out);
        return status;
    }
    cbm_put(page, "<footer>Written by sparsecbm %d.%d.%d.</footer>\n</body>\n</html>\n", SCBM_VERSION_MAJOR,
            SCBM_VERSION_MINOR, SCBM_VERSION_PATCH);
    return scbm_output_commit(page->out);
}
