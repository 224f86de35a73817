/*
 * tests/test-report.c - reports: HTML that is well formed, harmless and says what was computed; pictures that decode
 */
#define _XOPEN_SOURCE 700

#include "models/report/parts.h"
#include "tests/small-encoder.h"

#include <unistd.h>

#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include <stb/stb_image.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

static cbm_model *encoder, *sparse, *dense;

enum { K = SMALL_CONCEPTS, N_TEXTS = 8 };
static const char *const bad_concepts[K] = {"<b>taste</b>", "st\"aff & 'co'"};
static const char *const bad_text = "the soup was <script>alert(\"tasty\")</script> & 'rude'\nfriends";

/* ------------------------------------------------------------------------------------------
 * Models whose names are made to break pages
 * ---------------------------------------------------------------------------------------- */

static scbm_status bad_data(cbm_dataset *data, uint64_t first, size_t n) {
    scbm_status status = small_data(data, first, n);
    if (status) return status;
    data->label_classes.name[0] = "</title><script>low()</script>";
    data->label_classes.name[2] = "\xC3\xBC"
                                  "ber-high > even";
    data->concept_classes[0].name[0] = "\"><script>bland()</script>";
    data->concept_classes[1].name[1] = "rude' onmouseover='x";
    return SCBM_OK;
}

static cbm_model *bad_model(double sparsity, const char *path) {
    cbm_dataset train, valid;
    assert_ok(bad_data(&train, 0, 60));
    assert_ok(bad_data(&valid, 500, 20));
    return train_shortly(encoder, &train, &valid, bad_concepts, CBM_JOINT, sparsity, path);
}

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    sparse = bad_model(0.6, in_folder("sparse.gguf"));
    dense = bad_model(0.0, in_folder("dense.gguf"));
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_model_free(sparse);
    cbm_model_free(dense);
    return remove_folder(state);
}

/* steps 0: without integrated gradients. */
static cbm_context *explain(const cbm_model *model, const char *text, int steps, cbm_explanation *e) {
    cbm_context *ctx = context_for(model);
    const cbm_explain_options options = {.steps = steps ? steps : -1};
    const cbm_explanation *explanation;
    if (cbm_explain(ctx, text, &options, &explanation)) fail_msg("%s", cbm_context_error(ctx));
    *e = *explanation;
    return ctx;
}

/* The page that explains a text. */
static char *page_of(const cbm_model *model, const char *text, const cbm_explanation *e) {
    size_t size;
    assert_ok(cbm_report_html(in_folder("page.html"), "a <model> & more", model, text, strlen(text), e, NULL));
    char *page = read_file(in_folder("page.html"), &size);
    assert_int_equal(strlen(page), size);
    return page;
}

static char *explained(const cbm_model *model, const char *text, int steps) {
    cbm_explanation e;
    cbm_context *ctx = explain(model, text, steps, &e);
    char *page = page_of(model, text, &e);
    cbm_context_free(ctx);
    return page;
}

static void global_texts(cbm_dataset *data) {
    assert_ok(small_data(data, 2000, N_TEXTS));
    data->text[3] = "<script>tasty</script> & \"rude\"";
    data->text_length[3] = strlen(data->text[3]);
}

/* With faithfulness come the words of labels, too. */
static cbm_context *explain_all(const cbm_model *model, int faithfulness, cbm_global_report **report) {
    cbm_dataset data;
    const cbm_global_options options = {.faithfulness = faithfulness, .labels = faithfulness};
    cbm_context *ctx = context_for(model);
    global_texts(&data);
    assert_ok(
        cbm_global_report_create(report, ctx, (const char *const *)data.text, data.text_length, data.n, &options));
    cbm_dataset_clear(&data);
    return ctx;
}

static char *globally_explained(const cbm_model *model, int faithfulness) {
    cbm_global_report *report;
    cbm_context *ctx = explain_all(model, faithfulness, &report);
    assert_ok(cbm_report_global_html(in_folder("global.html"), "a <model> & more", model, report, NULL));
    cbm_global_report_free(report);
    cbm_context_free(ctx);
    return read_file(in_folder("global.html"), NULL);
}

/* ------------------------------------------------------------------------------------------
 * Well-formedness, as strict as XML, so that no browser has to guess
 * ---------------------------------------------------------------------------------------- */

static int is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == ':';
}

static size_t name_length(const char *text) {
    size_t n = 0;
    while (is_name(text[n])) n++;
    return n;
}

static int is_void(const char *name) {
    return strcmp(name, "meta") == 0 || strcmp(name, "img") == 0 || strcmp(name, "input") == 0;
}

/* At an &: it must begin one of the five that are written. */
static void check_entity(const char *at) {
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (size_t i = 0; i < 5; i++)
        if (strncmp(at, known[i], strlen(known[i])) == 0) return;
    fail_msg("an & that is no entity: %.40s", at);
}

/* From behind an element's name to behind its >: attributes are name or name="value", each once. *is_closed: it ends
 * in />. */
static const char *check_attributes(const char *at, int *is_closed) {
    char names[16][24];
    int n = 0;
    *is_closed = 0;
    while (*at == ' ') {
        size_t length = name_length(++at);
        assert_true(length > 0 && length < sizeof names[0] && n < 16);
        snprintf(names[n], sizeof names[0], "%.*s", (int)length, at);
        for (int i = 0; i < n; i++) assert_string_not_equal(names[i], names[n]);
        n++;
        at += length;
        if (*at != '=') continue;
        if (at[1] != '"') fail_msg("a value without quotes: %.40s", at);
        for (at += 2; *at && *at != '"'; at++) {
            if (*at == '<' || *at == '>') fail_msg("'%c' in a value: %.40s", *at, at);
            if (*at == '&') check_entity(at);
        }
        at++;
    }
    if (*at == '/') {
        *is_closed = 1;
        at++;
    }
    if (*at != '>') fail_msg("an element does not end: %.40s", at);
    return at + 1;
}

/* Returns the number of elements. */
static int check_page(const char *page) {
    static char open[64][16];
    int depth = 0, n_elements = 0, is_closed;
    assert_int_equal(strncmp(page, "<!DOCTYPE html>\n", 16), 0);
    for (const char *at = page + 16; *at;) {
        if (*at == '&') check_entity(at);
        if (*at != '<') {
            assert_true(*at != '>' || depth == 0);
            at++;
            continue;
        }
        int is_end = at[1] == '/';
        char name[16];
        at += 1 + is_end;
        size_t length = name_length(at);
        if (!length || length >= sizeof name) fail_msg("no element: %.40s", at);
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        at += length;
        if (is_end) {
            if (!depth || strcmp(open[depth - 1], name) != 0)
                fail_msg("</%s> closes %s", name, depth ? open[depth - 1] : "nothing");
            assert_int_equal(*at, '>');
            depth--;
            at++;
            continue;
        }
        at = check_attributes(at, &is_closed);
        n_elements++;
        if (is_closed || is_void(name)) continue;
        assert_true(depth < 64);
        strcpy(open[depth++], name);
        if (strcmp(name, "style") == 0) at = strstr(at, "</style>");
        assert_non_null(at);
    }
    if (depth) fail_msg("<%s> is not closed", open[depth - 1]);
    return n_elements;
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (; (text = strstr(text, what)); text += strlen(what)) n++;
    return n;
}

static void assert_has(const char *page, const char *words) {
    if (!strstr(page, words)) fail_msg("'%s' is not in the page", words);
}

/* Every id once; every link and label leads to one. */
static void check_ids(const char *page) {
    char id[64], wanted[80];
    const char *kinds[] = {"href=\"#", "for=\""};
    for (const char *at = page; (at = strstr(at, " id=\"")); at += 5) {
        assert_int_equal(sscanf(at + 5, "%63[^\"]", id), 1);
        snprintf(wanted, sizeof wanted, " id=\"%s\"", id);
        assert_int_equal(count(page, wanted), 1);
    }
    for (int i = 0; i < 2; i++)
        for (const char *at = page; (at = strstr(at, kinds[i])); at++) {
            assert_int_equal(sscanf(at + strlen(kinds[i]), "%63[^\"]", id), 1);
            snprintf(wanted, sizeof wanted, " id=\"%s\"", id);
            assert_int_equal(count(page, wanted), 1);
        }
}

static void pages_are_well_formed(void **state) {
    (void)state;
    const struct {
        const cbm_model *model;
        const char *text;
        int steps;
    } cases[] = {{sparse, "the soup was tasty and the waiter rude", 8},
                 {sparse, bad_text, 8},
                 {dense, bad_text, 8},
                 {sparse, bad_text, 0},
                 {sparse, "", 8},
                 {dense, "   ", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *page = explained(cases[i].model, cases[i].text, cases[i].steps);
        assert_true(check_page(page) > 50);
        check_ids(page);
        assert_int_equal(count(page, "<h1>"), 1);
        assert_null(strstr(page, "{{"));
        assert_int_equal(count(page, "<img "), count(page, " alt=\"Layer "));
        free(page);
    }
    for (int faithfulness = 0; faithfulness < 2; faithfulness++) {
        char *page = globally_explained(faithfulness ? sparse : dense, faithfulness);
        assert_true(check_page(page) > 50);
        check_ids(page);
        assert_int_equal(count(page, "<polyline"), faithfulness ? 8 : 0);
        assert_null(strstr(page, "{{"));
        free(page);
    }
}

/* What a fragment becomes, by `put`, which writes to the page. */
static void assert_filled(void (*put)(cbm_page *page), const char *wanted) {
    cbm_page page = {.next_number = 0};
    assert_ok(scbm_output_open(&page.out, in_folder("fragment"), NULL));
    put(&page);
    assert_ok(scbm_output_commit(page.out));
    char *text = read_file(in_folder("fragment"), NULL);
    assert_string_equal(text, wanted);
    free(text);
}

static void put_places(cbm_page *page) {
    static const char fragment[] = "<p {{a}}{{#b}} b=\"{{b}}\"{{/b}}{{#c}} c=\"{{c}}{{a}}\"{{/c}}>{{d}}\n";
    cbm_page_put(page, fragment, "a", "{{c}}", "b", NULL, "c", "3", NULL);
    cbm_page_put(page, fragment, "c", "", "a", "A", "d", "}}", NULL);
    cbm_page_put(page, "{{no end", NULL);
    cbm_page_put(page, "", NULL);
}

static void put_content(cbm_page *page) {
    static const char fragment[] = "<p>{{a}}{{content}}{{a}}</p>";
    cbm_page_begin(page, fragment, "a", "1", NULL);
    cbm_page_escape(page, "<{{a}}>", 7);
    cbm_page_end(page, fragment, "a", "2", NULL);
    cbm_page_begin(page, "no content", NULL);
    cbm_page_end(page, "no content", NULL);
}

static void fragments_are_filled_in(void **state) {
    (void)state;
    /* What is filled in is not looked at again, and a place that nobody filled is seen. */
    assert_filled(put_places, "<p {{c}} c=\"3{{c}}\">{{d}}\n<p A c=\"A\">}}\n{{no end");
    assert_filled(put_content, "<p>1&lt;{{a}}&gt;2</p>no content");
}

/* ------------------------------------------------------------------------------------------
 * Text from outside
 * ---------------------------------------------------------------------------------------- */

static void text_from_outside_stays_text(void **state) {
    (void)state;
    char *pages[] = {explained(sparse, bad_text, 8), explained(dense, bad_text, 0), globally_explained(sparse, 0)};
    for (int i = 0; i < 3; i++) {
        assert_null(strstr(pages[i], "<script"));
        assert_null(strstr(pages[i], "<model>"));
        assert_null(strstr(pages[i], "<b>taste"));
        assert_null(strstr(pages[i], "onmouseover='"));
        assert_has(pages[i], "<title>a &lt;model&gt; &amp; more</title>");
        assert_has(pages[i], "&lt;/title&gt;&lt;script&gt;low()&lt;/script&gt;");
        assert_has(pages[i], "&lt;b&gt;taste&lt;/b&gt;");
        assert_has(pages[i], "st&quot;aff &amp; &#39;co&#39;");
        assert_has(pages[i], "\xC3\xBC"
                             "ber-high &gt; even");
        assert_has(pages[i], "&quot;&gt;&lt;script&gt;bland()&lt;/script&gt;");
        assert_has(pages[i], "rude&#39; onmouseover=&#39;x");
    }
    assert_has(pages[0], "&lt;script&gt;alert(&quot;tasty&quot;)&lt;/script&gt; &amp; &#39;rude&#39;\nfriends");
    for (int i = 0; i < 3; i++) free(pages[i]);
}

static void bytes_that_are_no_text_are_replaced(void **state) {
    (void)state;
    cbm_explanation e;
    /* The same length with other bytes in it than what was explained: a control character, a zero, a lone continuation
     * byte, a surrogate, and at the end a character that is cut off. */
    const char *text = "the soup was tasty and rude friends";
    char bad[64];
    strcpy(bad, text);
    bad[0] = 1;
    bad[1] = 0;
    bad[5] = (char)0x80;
    memcpy(bad + 13, "\xED\xA0\x80", 3);
    memcpy(bad + strlen(text) - 2, "\xE2\x82", 2);
    cbm_context *ctx = explain(sparse, text, 8, &e);
    assert_ok(cbm_report_html(in_folder("page.html"), "\xFFtitle\x02", sparse, bad, strlen(text), &e, NULL));
    size_t size;
    char *page = read_file(in_folder("page.html"), &size);
    assert_int_equal(strlen(page), size); /* no zero in it */
    check_page(page);
    for (size_t i = 0; i < size; i++) assert_true((unsigned char)page[i] >= 0x20 || page[i] == '\n');
    assert_has(page, "<title>\xEF\xBF\xBDtitle\xEF\xBF\xBD</title>");
    assert_has(page, "\xEF\xBF\xBD\xEF\xBF\xBD"
                     "e s\xEF\xBF\xBDup was \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDty");
    assert_has(page, "frien\xEF\xBF\xBD\xEF\xBF\xBD</blockquote>");
    free(page);
    cbm_context_free(ctx);
}

/* Nothing is fetched and nothing runs. */
static void pages_need_no_network_and_no_script(void **state) {
    (void)state;
    const char *const never[] = {"http",  "//",      "url(",    "@import",     "<script",
                                 "<link", "<iframe", "<object", "javascript:", " on"};
    char *pages[] = {explained(sparse, "the soup was tasty", 8), globally_explained(sparse, 1)};
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < sizeof never / sizeof never[0]; j++) {
            const char *found = strstr(pages[i], never[j]);
            /* "//" may stand in a picture's base64, " on" begins words and, escaped, a class's name. */
            while (found && strcmp(never[j], "//") == 0 && found[-1] != ':') found = strstr(found + 1, never[j]);
            while (found && strcmp(never[j], " on") == 0 && found[3 + name_length(found + 3)] != '=')
                found = strstr(found + 1, never[j]);
            if (found && strncmp(found, " onmouseover=&#39;", 18) == 0) continue;
            if (found) fail_msg("'%s' in the page: %.60s", never[j], found);
        }
        assert_int_equal(count(pages[i], " src=\""), count(pages[i], " src=\"data:image/png;base64,"));
        assert_true(strlen(pages[i]) > 15000 && strlen(pages[i]) < 150000);
        free(pages[i]);
    }
}

/* ------------------------------------------------------------------------------------------
 * Numbers
 * ---------------------------------------------------------------------------------------- */

/* The value of the next <data>, and the number that is shown, in thousandths; *at moves behind it. */
static double next_data(const char **at, long *shown) {
    double value;
    const char *begin = strstr(*at, "<data value=\""), *end;
    assert_non_null(begin);
    begin += 13;
    end = strchr(begin, '"');
    assert_ok(scbm_parse_double(begin, (size_t)(end - begin), &value));
    long sign = 1, digits = 0;
    for (end += 2; *end != '<'; end++) {
        if (strncmp(end, "\xE2\x88\x92", 3) == 0) sign = -1;
        if (*end >= '0' && *end <= '9') digits = 10 * digits + *end - '0';
    }
    *shown = sign * digits;
    *at = end;
    return value;
}

/* What the table shows: bias and contributions, the largest first, add up to the logit, exactly and as shown. */
static void check_contributions(const char *page, const cbm_prediction *p) {
    const char *at = strstr(page, "<table class=\"fall\">");
    long shown, sum = 0;
    double last = INFINITY, total = 0;
    assert_non_null(at);
    assert_true((float)next_data(&at, &shown) == p->bias);
    sum += shown;
    total += (double)p->bias;
    int seen[K] = {0};
    for (int i = 0; i < K; i++) {
        double value = next_data(&at, &shown);
        int found = 0;
        for (int k = 0; k < K && !found; k++)
            if (!seen[k] && (float)value == p->concepts[k].contribution) found = seen[k] = 1;
        assert_true(found);
        assert_true(fabs(value) <= last);
        assert_near((double)shown / 1000, value, 0.00101);
        last = fabs(value);
        sum += shown;
        total += value;
    }
    float logit = (float)next_data(&at, &shown);
    assert_true(logit == p->logits[p->label_index]);
    assert_near(total, (double)logit, 1e-4);
    assert_near((double)shown / 1000, (double)logit, 0.000501);
    assert_int_equal(sum, shown);
}

static void contributions_are_the_predictions_and_add_up(void **state) {
    (void)state;
    static const char *const texts[] = {"tasty", "the soup was bland and the waiter rude", "kind friends",
                                        "we came there"};
    const cbm_model *models[] = {sparse, dense};
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < 4; i++) {
            cbm_explanation e;
            cbm_context *ctx = explain(models[m], texts[i], 0, &e);
            char *page = page_of(models[m], texts[i], &e);
            check_contributions(page, e.prediction);
            free(page);
            cbm_context_free(ctx);
        }
}

/* Contributions that each are rounded down by almost half a thousandth would show a sum that is one less. */
static void shown_contributions_add_up_where_rounding_would_not(void **state) {
    (void)state;
    static const float cases[][3] = {{0.1004f, 0.2004f, 0.3004f},
                                     {-0.1004f, -0.2004f, 0.3004f},
                                     {0.0006f, 0.0006f, 0.0006f},
                                     {-1.0006f, 0.2496f, -0.0006f},
                                     {0.0f, 0.0f, 0.0f}};
    cbm_explanation e;
    cbm_context *ctx = explain(sparse, "tasty", 0, &e);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cbm_concept_result concepts[K];
        float logits[SMALL_LABELS];
        cbm_prediction prediction = *e.prediction;
        cbm_explanation changed = e;
        changed.prediction = &prediction;
        memcpy(concepts, prediction.concepts, sizeof concepts);
        memcpy(logits, prediction.logits, sizeof logits);
        for (int k = 0; k < K; k++) concepts[k].contribution = cases[i][k + 1];
        logits[prediction.label_index] = cases[i][0] + cases[i][1] + cases[i][2];
        prediction.bias = cases[i][0];
        prediction.concepts = concepts;
        prediction.logits = logits;
        char *page = page_of(sparse, "tasty", &changed);
        check_contributions(page, &prediction);
        free(page);
    }
    cbm_context_free(ctx);
}

static void numbers_are_printed_for_readers(void **state) {
    (void)state;
    static cbm_page page;
    assert_string_equal(cbm_page_number(&page, 1.23456, 3), "1.235");
    assert_string_equal(cbm_page_number(&page, -0.0454, 2), "\xE2\x88\x92"
                                                            "0.05");
    assert_string_equal(cbm_page_number(&page, -0.0004, 3), "0.000");
    assert_string_equal(cbm_page_number(&page, 7.5, 0), "8");
    assert_string_equal(cbm_page_signed(&page, 12.0, 2), "+12.00");
    assert_string_equal(cbm_page_signed(&page, -0.5, 1), "\xE2\x88\x92"
                                                         "0.5");
    assert_string_equal(cbm_page_percent(&page, 0.1234), "12.3%");
    assert_string_equal(cbm_page_percent(&page, 0.0012), "0.12%");
    assert_string_equal(cbm_page_percent(&page, 0.0), "0.0%");
    assert_string_equal(cbm_page_percent(&page, 1.0), "100.0%");
    assert_string_equal(cbm_page_plain(&page, -12.345), "-12.35");
    assert_string_equal(cbm_page_exact(&page, 0.1f), "0.1");
    assert_string_equal(cbm_page_count(&page, 0), "0");
    assert_string_equal(cbm_page_count(&page, 999), "999");
    assert_string_equal(cbm_page_count(&page, 10616832), "10,616,832");
    assert_string_equal(cbm_page_number(&page, 1e300, 2), "1e300");
    /* Two masks of density a and b: ab both, a + b - ab either. */
    assert_near(cbm_chance_overlap(0.3, 0.3), 0.09 / 0.51, 1e-12);
    assert_near(cbm_chance_overlap(0.0, 0.0), 1.0, 0.0);
    char title[64];
    assert_string_equal(cbm_matrix_title("blk.11.attn_output.weight", title), "attention output");
    assert_string_equal(cbm_matrix_title("blk.0.lstm_reverse_input.weight", title), "reverse input");
    assert_string_equal(cbm_matrix_title("blk.0.cell_input.weight", title), "cell_input");
    assert_string_equal(cbm_matrix_title("plain", title), "plain");
}

/* ------------------------------------------------------------------------------------------
 * Words
 * ---------------------------------------------------------------------------------------- */

/* The text of a paragraph without its elements, entities read back; *at moves behind it. */
static void read_paragraph(const char **at, char *text, size_t size) {
    size_t n = 0;
    const char *p = strstr(*at, "<p class=\"text\"");
    assert_non_null(p);
    for (p = strchr(p, '>') + 1; strncmp(p, "</p>", 4) != 0;) {
        static const char *const entities[][2] = {
            {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#39;", "'"}};
        if (*p == '<') {
            p = strchr(p, '>') + 1;
            continue;
        }
        assert_true(n + 1 < size);
        text[n] = *p;
        size_t length = 1;
        for (int i = 0; i < 5; i++)
            if (strncmp(p, entities[i][0], strlen(entities[i][0])) == 0) {
                text[n] = *entities[i][1];
                length = strlen(entities[i][0]);
            }
        n++;
        p += length;
    }
    text[n] = 0;
    *at = p;
}

static void highlighted_texts_are_the_text(void **state) {
    (void)state;
    for (int steps = 0; steps <= 8; steps += 8) {
        char *page = explained(sparse, bad_text, steps), text[256];
        const char *at = page;
        for (int k = 0; k < K; k++) {
            read_paragraph(&at, text, sizeof text);
            assert_string_equal(text, bad_text);
        }
        assert_null(strstr(at, "<p class=\"text\""));
        free(page);
    }
}

/* One word has the full colour by each method, on the side of its sign; its tooltip has its numbers. */
static void the_strongest_word_has_the_full_colour(void **state) {
    (void)state;
    static const char *const letters[2][2] = {{"m1p8", "m1n8"}, {"m2p8", "m2n8"}};
    cbm_explanation e;
    const char *text = "the soup was tasty and the waiter rude";
    cbm_context *ctx = explain(sparse, text, 8, &e);
    char *page = page_of(sparse, text, &e), wanted[160];
    const int methods[2] = {cbm_attribution_method_find("integrated_gradients"),
                            cbm_attribution_method_find("gradient_input")};
    for (int method = 0; method < 2; method++) {
        const float *const *best = NULL;
        int word = 0;
        for (int k = 0; k < K; k++)
            for (int i = 0; i < e.n_words; i++) {
                const float *const *values = e.concepts[k].logit.words;
                if (best && fabsf(values[methods[method]][i]) <= fabsf(best[methods[method]][word])) continue;
                best = values;
                word = i;
            }
        float value = best[methods[method]][word];
        cbm_page numbers = {.next_number = 0};
        snprintf(wanted, sizeof wanted, "integrated gradients %s, gradient \xC3\x97 input %s\">%.*s</span>",
                 cbm_page_signed(&numbers, (double)best[methods[0]][word], 3),
                 cbm_page_signed(&numbers, (double)best[methods[1]][word], 3), e.words[word].end - e.words[word].start,
                 text + e.words[word].start);
        const char *found = strstr(page, wanted), *begin = found;
        assert_non_null(found);
        while (*begin != '<') begin--;
        char element[64];
        snprintf(element, sizeof element, "%.*s", (int)(found - begin < 60 ? found - begin : 60), begin);
        if (!strstr(element, letters[method][value < 0])) fail_msg("no %s in: %s", letters[method][value < 0], element);
    }
    free(page);
    cbm_context_free(ctx);
}

/* Labels whose words were looked at have their own highlights, and columns in the table. */
static void labels_have_their_words_too(void **state) {
    (void)state;
    static const int labels[] = {CBM_PREDICTED, CBM_RUNNER_UP};
    const cbm_explain_options options = {.labels = labels, .n_labels = 2};
    const char *text = "the soup was tasty and the waiter rude";
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    assert_ok(cbm_explain(ctx, text, &options, &e));
    char *page = page_of(sparse, text, e);
    check_page(page);
    assert_int_equal(count(page, "<h3>the label</h3>"), 2);
    assert_int_equal(count(page, "<p class=\"text\""), K + 2);
    free(page);
    cbm_context_free(ctx);
}

static void what_was_cut_off_is_shown_apart(void **state) {
    (void)state;
    const char *text =
        "the soup was tasty and the waiter was rude and it was there and we came with friends and the waiter was "
        "kind and "
        "it was on monday there";
    cbm_explanation e;
    cbm_context *ctx = explain(sparse, text, 0, &e);
    assert_true(e.prediction->truncated);
    char *page = page_of(sparse, text, &e);
    assert_has(page, "the model reads 24 tokens");
    assert_has(page, "friends and the waiter was \xE2\x80\xA6</blockquote>"); /* 22 words and two special tokens */
    assert_has(page, " kind and it was on monday there</p></details>");
    check_page(page);
    free(page);
    cbm_context_free(ctx);
}

static void attributions_that_have_not_converged_say_so(void **state) {
    (void)state;
    cbm_explanation e;
    cbm_context *ctx = explain(sparse, "tasty soup", 8, &e);
    cbm_concept_explanation concepts[K];
    memcpy(concepts, e.concepts, sizeof concepts);
    for (int k = 0; k < K; k++) concepts[k].logit.converged = 1;
    e.concepts = concepts;
    char *page = page_of(sparse, "tasty soup", &e);
    assert_null(strstr(page, "not enough for the attributions to converge"));
    free(page);
    concepts[1].logit.converged = 0;
    concepts[1].logit.steps = 512;
    page = page_of(sparse, "tasty soup", &e);
    assert_int_equal(count(page, "512 steps were not enough for the attributions to converge"), 1);
    free(page);
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Subnetworks
 * ---------------------------------------------------------------------------------------- */

static void subnetworks_are_shown_where_there_are_any(void **state) {
    (void)state;
    cbm_explanation e;
    cbm_context *ctx = explain(sparse, "tasty", 0, &e);
    char *page = page_of(sparse, "tasty", &e), wanted[64];
    cbm_page numbers = {.next_number = 0};
    assert_int_equal(count(page, "<img "), SMALL_LAYERS * (K + 1));
    snprintf(wanted, sizeof wanted, ">%s</td>", cbm_page_number(&numbers, e.subnetworks->overlap[1], 3));
    assert_true(count(page, wanted) >= 2);
    snprintf(wanted, sizeof wanted, ">%s</span>", cbm_page_percent(&numbers, e.subnetworks->kept_by[K]));
    assert_has(page, wanted);
    assert_has(page, cbm_page_count(&numbers, e.subnetworks->n_weights));
    free(page);
    cbm_context_free(ctx);
    page = explained(dense, "tasty", 0);
    assert_int_equal(count(page, "<img "), 0);
    assert_has(page, "This model is dense");
    free(page);
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes the next picture of a page to RGBA, for stbi_image_free; *at moves behind it. */
static unsigned char *next_picture(const char **at, int *width, int *height) {
    const char *p = strstr(*at, "base64,");
    static unsigned char bytes[1 << 16];
    size_t n = 0;
    unsigned bits = 0;
    int n_bits = 0, components;
    assert_non_null(p);
    for (p += 7; base64_digit(*p) >= 0; p++) {
        bits = bits << 6 | (unsigned)base64_digit(*p);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        assert_true(n < sizeof bytes);
        bytes[n++] = (unsigned char)(bits >> n_bits);
    }
    *at = p;
    unsigned char *pixels = stbi_load_from_memory(bytes, (int)n, width, height, &components, 4);
    if (!pixels) fail_msg("a picture in the page: %s", stbi_failure_reason());
    assert_int_equal(components, 4);
    return pixels;
}

/* Where a cell keeps more weights than another, its point is at least as dark. The encoder is 32 wide, so a square
 * matrix has 6 x 6 cells; the first lies at the top left. Pictures stand in the page's order of concepts: by
 * contribution. */
static void maps_are_as_dark_as_masks_are_dense(void **state) {
    (void)state;
    cbm_explanation e;
    cbm_context *ctx = explain(sparse, "tasty", 0, &e);
    char *page = page_of(sparse, "tasty", &e);
    const char *at = page;
    const cbm_concept_result *c = e.prediction->concepts;
    int first = fabsf(c[1].contribution) > fabsf(c[0].contribution);
    const int streams[3] = {first, 1 - first, CBM_ALL_CONCEPTS};
    for (int block = 0; block < SMALL_LAYERS; block++)
        for (int i = 0; i < 3; i++) {
            float density[36];
            int width, height, differ = 0;
            unsigned char *pixels = next_picture(&at, &width, &height);
            assert_true(width >= 6 && height >= 6);
            assert_ok(
                cbm_mask_map(sparse, block * e.subnetworks->n_matrices / SMALL_LAYERS, streams[i], 6, 6, density));
            for (int a = 0; a < 36; a++)
                for (int b = 0; b < 36; b++) {
                    int alpha_a = pixels[4 * (a / 6 * width + a % 6) + 3],
                        alpha_b = pixels[4 * (b / 6 * width + b % 6) + 3];
                    if (density[a] < density[b] && alpha_a > alpha_b) fail_msg("a denser cell is lighter");
                    differ |= alpha_a != alpha_b;
                }
            assert_true(differ);
            stbi_image_free(pixels);
        }
    free(page);
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * PNG
 * ---------------------------------------------------------------------------------------- */

static void pngs_hold_the_pixels(void **state) {
    (void)state;
    static const int sizes[][2] = {{1, 1}, {1, 37}, {300, 1}, {31, 17}, {200, 150}};
    static const int components[] = {1, 3, 4};
    scbm_random random = {3, 1, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int j = 0; j < 3; j++)
            for (int kind = 0; kind < 2; kind++) { /* noise, flat areas */
                int w = sizes[i][0], h = sizes[i][1], n = components[j], width, height, found;
                size_t size = (size_t)w * (size_t)h * (size_t)n, png_size;
                unsigned char *pixels = malloc(size), *png;
                assert_non_null(pixels);
                for (size_t p = 0; p < size; p++)
                    pixels[p] = (unsigned char)(kind ? p / (size_t)n / 100 * 40 : scbm_random_below(&random, 256));
                assert_ok(cbm_png_encode(pixels, w, h, n, NULL, &png, &png_size));
                assert_memory_equal(png, "\x89PNG\r\n\x1A\n", 8);
                unsigned char *decoded = stbi_load_from_memory(png, (int)png_size, &width, &height, &found, 0);
                if (!decoded) fail_msg("%s", stbi_failure_reason());
                assert_int_equal(width, w);
                assert_int_equal(height, h);
                assert_int_equal(found, n);
                assert_memory_equal(decoded, pixels, size);
                stbi_image_free(decoded);
                scbm_release(NULL, png);
                free(pixels);
            }
    unsigned char *png, pixel[3] = {0};
    size_t size;
    assert_error(cbm_png_encode(pixel, 0, 1, 3, NULL, &png, &size), SCBM_ERROR_ARGUMENT, "0 x 1");
    assert_error(cbm_png_encode(pixel, 100000, 100000, 3, NULL, &png, &size), SCBM_ERROR_ARGUMENT, "100000 x 100000");
}

static void pictures_show_the_subnetworks(void **state) {
    (void)state;
    const cbm_subnetworks *s;
    cbm_context *ctx = context_for(sparse);
    const char *path = in_folder("masks.png");
    assert_ok(cbm_describe_subnetworks(ctx, &s));
    assert_ok(cbm_report_png(path,
                             "a model, \xC3\xBC"
                             "ber \xE6\xA8\xA1 \xFF",
                             sparse, s, NULL));
    int width, height, components;
    unsigned char *pixels = stbi_load(path, &width, &height, &components, 3);
    if (!pixels) fail_msg("%s", stbi_failure_reason());
    assert_true(width > 400 && width < 3000 && height > 400 && height < 3000);
    assert_int_equal(components, 3);
    int white = 0, dark = 0, teal = 0;
    for (int i = 0; i < width * height; i++) {
        const unsigned char *p = pixels + 3 * i;
        white += p[0] == 255 && p[1] == 255 && p[2] == 255;
        dark += p[0] < 60 && p[1] < 60 && p[2] < 60;
        teal += p[1] > p[0] + 20 && p[2] > p[0] + 20;
    }
    /* Paper, letters and masks. */
    assert_true(white > width * height / 3 && dark > 2000 && teal > 5000);
    for (int y = 0; y < height; y++) /* nothing is cut off at the edges */
        for (int c = 0; c < 3; c++) {
            assert_int_equal(pixels[3 * y * width + c], 255);
            assert_int_equal(pixels[3 * (y * width + width - 1) + c], 255);
        }
    stbi_image_free(pixels);

    /* A long title in a script that the font has not. */
    char title[4000] = "";
    for (int i = 0; i < 400; i++) strcat(title, "\xE6\xA8\xA1 ");
    assert_ok(cbm_report_png(path, title, sparse, s, NULL));
    cbm_context_free(ctx);

    ctx = context_for(dense);
    assert_ok(cbm_describe_subnetworks(ctx, &s));
    assert_error(cbm_report_png(in_folder("dense.png"), "dense", dense, s, NULL), SCBM_ERROR_UNSUPPORTED, "dense");
    assert_int_equal(access(in_folder("dense.png"), F_OK), -1);
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Training runs and vanilla models
 * ---------------------------------------------------------------------------------------- */

enum { N_EPOCHS = 11, N_STEPS = 700 };

/* A history of rising numbers; the ninth epoch is the best. */
static const cbm_train_history *made_history(void) {
    static cbm_epoch_report epoch[N_EPOCHS];
    static float loss[N_STEPS], norm[N_STEPS];
    static cbm_train_history history = {.n_epochs = N_EPOCHS,
                                        .best_epoch = 9,
                                        .epoch = epoch,
                                        .n_steps = N_STEPS,
                                        .step_loss = loss,
                                        .step_norm = norm};
    for (int i = 0; i < N_STEPS; i++) {
        loss[i] = 3.0f / (float)(i + 1);
        norm[i] = i == 40 ? NAN : 1.0f;
    }
    for (int i = 0; i < N_EPOCHS; i++)
        epoch[i] = (cbm_epoch_report){.epoch = i + 1,
                                      .epochs = N_EPOCHS,
                                      .train_loss = 2.0 / (i + 1),
                                      .valid_loss = i == 3 ? INFINITY : 2.5 / (i + 1),
                                      .label_accuracy = 0.05 * i,
                                      .concept_accuracy = 0.5,
                                      .sparsity = i > 2 ? 0.6 : 0.0,
                                      .magnitude_overlap = i == 2 ? 0.9 : -1};
    return &history;
}

static char *training_page(const cbm_model *model, const cbm_training_report *report) {
    assert_ok(cbm_report_training_html(in_folder("training.html"), "a <model> & more", model, report, NULL));
    char *page = read_file(in_folder("training.html"), NULL);
    assert_true(check_page(page) > 50);
    check_ids(page);
    assert_null(strstr(page, "{{"));
    assert_null(strstr(page, "<script"));
    assert_has(page, "a &lt;model&gt; &amp; more");
    return page;
}

static void a_training_run_has_a_page(void **state) {
    (void)state;
    cbm_dataset data;
    assert_ok(bad_data(&data, 500, 40));
    const cbm_model *const models[] = {sparse, dense};
    for (int m = 0; m < 2; m++) {
        cbm_context *ctx = context_for(models[m]);
        cbm_training_report report = {.history = made_history(), .validation = &data};
        assert_ok(cbm_evaluate(ctx, &data, &report.evaluation));
        char *page = training_page(models[m], &report), cell[64];
        assert_has(page, "Epoch 9 of 11");
        assert_int_equal(count(page, "<polyline"), 10); /* two in each of four charts, and the steps' two */
        assert_int_equal(count(page, "class=\"mark\""), 4);
        assert_int_equal(count(page, "class=\"heat\""), 1 + SMALL_CONCEPTS);
        int64_t confusion[SMALL_LABELS * SMALL_LABELS] = {0};
        cbm_count_confusion(confusion, SMALL_LABELS, data.label, report.evaluation->label, data.n, 1);
        for (int i = 0; i < SMALL_LABELS * SMALL_LABELS; i++) {
            snprintf(cell, sizeof cell, ">%lld</td>", (long long)confusion[i]);
            assert_has(page, cell);
        }
        assert_has(page, "<h2>Settings</h2>");
        assert_has(page, m ? "<th scope=\"row\">lr</th>" : "<b>0.6</b>"); /* the sparsity, which is not the default's */
        free(page);
        report.evaluation = NULL;
        page = training_page(models[m], &report);
        assert_null(strstr(page, "id=\"measures\""));
        free(page);
        cbm_context_free(ctx);
    }
    cbm_dataset_clear(&data);
}

/* Also of a run without an epoch, and of many labels that no matrix is shown of. */
static void pages_of_vanilla_models_are_about_labels_and_words(void **state) {
    (void)state;
    cbm_dataset data;
    cbm_model *vanilla = small_model(encoder, CBM_VANILLA, 0.0, in_folder("vanilla.gguf"));
    cbm_context *ctx = context_for(vanilla);
    const cbm_train_history none = {0};
    const cbm_explanation *e;
    assert_ok(small_data(&data, 500, 10));
    cbm_training_report report = {.history = &none, .validation = &data};
    assert_ok(cbm_evaluate(ctx, &data, &report.evaluation));
    char *page = training_page(vanilla, &report);
    assert_int_equal(count(page, "<polyline"), 0);
    assert_int_equal(count(page, "class=\"heat\""), 1);
    free(page);
    report.history = made_history();
    free(training_page(vanilla, &report));
    assert_ok(cbm_explain(ctx, "tasty soup", NULL, &e));
    page = page_of(vanilla, "tasty soup", e);
    assert_true(check_page(page) > 20);
    check_ids(page);
    assert_null(strstr(page, "{{"));
    assert_has(page, "What the words say for the label");
    assert_null(strstr(page, "subnetworks"));
    assert_null(strstr(page, "id=\"concepts\""));
    free(page);
    page = globally_explained(vanilla, 1);
    assert_true(check_page(page) > 20);
    check_ids(page);
    assert_null(strstr(page, "{{"));
    assert_has(page, "towards the predicted label: their sum");
    assert_has(page, "and the label is read again");
    assert_null(strstr(page, "#concepts"));
    assert_null(strstr(page, "ubnetworks"));
    free(page);
    const cbm_report_entry entry = {.page = "1.html", .text = "tasty", .length = 5};
    assert_ok(cbm_report_index_html(in_folder("index.html"), "vanilla", vanilla, &entry, 1, NULL));
    assert_error(cbm_report_index_html(in_folder("index.html"), "encoder", encoder, NULL, 0, NULL),
                 SCBM_ERROR_UNSUPPORTED, "an encoder has no labels");
    cbm_dataset_clear(&data);
    cbm_context_free(ctx);
    cbm_model_free(vanilla);
}

static void an_evaluation_of_something_else_has_no_page(void **state) {
    (void)state;
    cbm_dataset data, other;
    cbm_context *ctx = context_for(dense);
    cbm_training_report report = {.history = made_history()};
    const char *path = in_folder("none.html");
    assert_ok(bad_data(&data, 0, 12));
    assert_ok(bad_data(&other, 0, 11));
    assert_ok(cbm_evaluate(ctx, &data, &report.evaluation));
    assert_error(cbm_report_training_html(path, "x", dense, &report, NULL), SCBM_ERROR_ARGUMENT, "data set");
    report.validation = &other;
    assert_error(cbm_report_training_html(path, "x", dense, &report, NULL), SCBM_ERROR_ARGUMENT, "data set");
    report.validation = &data;
    assert_error(cbm_report_training_html(path, "x", encoder, &report, NULL), SCBM_ERROR_ARGUMENT, "another model");
    data.label[0] = SMALL_LABELS;
    assert_error(cbm_report_training_html(path, "x", dense, &report, NULL), SCBM_ERROR_ARGUMENT, "gold class");
    report.history = NULL;
    assert_error(cbm_report_training_html(path, "x", dense, &report, NULL), SCBM_ERROR_ARGUMENT, "no history");
    assert_int_equal(exists(path), 0);
    cbm_dataset_clear(&data);
    cbm_dataset_clear(&other);
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Failures
 * ---------------------------------------------------------------------------------------- */

typedef struct everything {
    cbm_context *ctx;
    const cbm_explanation *explanation;
    cbm_global_report *global;
    cbm_context *evaluating;
    cbm_dataset data;
    cbm_training_report training;
} everything;

static everything make_everything(void) {
    everything all;
    all.ctx = explain_all(sparse, 0, &all.global);
    if (cbm_explain(all.ctx, "tasty", NULL, &all.explanation)) fail_msg("%s", cbm_context_error(all.ctx));
    all.evaluating = context_for(sparse);
    assert_ok(bad_data(&all.data, 500, 12));
    all.training = (cbm_training_report){.history = made_history()};
    assert_ok(cbm_evaluate(all.evaluating, &all.data, &all.training.evaluation));
    return all;
}

static void free_everything(everything *all) {
    cbm_global_report_free(all->global);
    cbm_context_free(all->ctx);
    cbm_context_free(all->evaluating);
    cbm_dataset_clear(&all->data);
}

enum { KINDS = 4 };

static scbm_status write_training(const everything *all, const char *path, const scbm_hooks *hooks) {
    cbm_training_report report = all->training;
    report.validation = &all->data;
    return cbm_report_training_html(path, "model", sparse, &report, hooks);
}

static scbm_status write_report(const everything *all, int kind, const char *path, const scbm_hooks *hooks) {
    if (kind == 0) return cbm_report_html(path, "model", sparse, "tasty", 5, all->explanation, hooks);
    if (kind == 1) return cbm_report_global_html(path, "model", sparse, all->global, hooks);
    if (kind == 2) return write_training(all, path, hooks);
    return cbm_report_png(path, "model", sparse, all->explanation->subnetworks, hooks);
}

static void a_path_that_cannot_be_written_is_an_error(void **state) {
    (void)state;
    everything all = make_everything();
    for (int kind = 0; kind < KINDS; kind++) {
        assert_error(write_report(&all, kind, in_folder("nowhere/report"), NULL), SCBM_ERROR_IO, "nowhere/report");
        assert_error(write_report(&all, kind, folder, NULL), SCBM_ERROR_IO, "is a folder");
        assert_error(write_report(&all, kind, "", NULL), SCBM_ERROR_ARGUMENT, "needs a name");
        if (access("/dev/full", W_OK) == 0)
            assert_error(write_report(&all, kind, "/dev/full", NULL), SCBM_ERROR_IO, "/dev/full");
    }
    free_everything(&all);
}

/* Allocations that fail at places all over a report: no memory is lost, and what stood in the file before stays. */
static void without_memory_the_old_report_stays(void **state) {
    (void)state;
    enum { SAMPLES = 40 };
    everything all = make_everything();
    const char *path = in_folder("report");
    for (int kind = 0; kind < KINDS; kind++) {
        counting_allocator counter = {0};
        scbm_hooks hooks = allocator_hooks(&counter);
        assert_ok(write_report(&all, kind, path, &hooks));
        assert_int_equal(counter.held, 0);
        size_t size, size_again;
        char *before = read_file(path, &size);
        long n = counter.n, last = 0;
        assert_true(n > 20);
        for (int i = 0; i < SAMPLES; i++) {
            long fails_at = i < SAMPLES / 2 ? i + 1 : n - (n - SAMPLES / 2) * (SAMPLES - 1 - i) / (SAMPLES / 2);
            if (fails_at <= last || fails_at > n) continue;
            last = fails_at;
            counter = (counting_allocator){.fails_at = fails_at};
            assert_int_equal(write_report(&all, kind, path, &hooks), SCBM_ERROR_MEMORY);
            assert_int_equal(counter.held, 0);
            char *after = read_file(path, &size_again);
            assert_int_equal(size_again, size);
            assert_memory_equal(after, before, size);
            free(after);
        }
        assert_int_equal(last, n);
        free(before);
    }
    free_everything(&all);
}

/* The same bytes again. */
static void reports_are_the_same_again(void **state) {
    (void)state;
    char *a = explained(sparse, bad_text, 8), *b = explained(sparse, bad_text, 8);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_well_formed),
        cmocka_unit_test(fragments_are_filled_in),
        cmocka_unit_test(text_from_outside_stays_text),
        cmocka_unit_test(bytes_that_are_no_text_are_replaced),
        cmocka_unit_test(pages_need_no_network_and_no_script),
        cmocka_unit_test(contributions_are_the_predictions_and_add_up),
        cmocka_unit_test(shown_contributions_add_up_where_rounding_would_not),
        cmocka_unit_test(numbers_are_printed_for_readers),
        cmocka_unit_test(highlighted_texts_are_the_text),
        cmocka_unit_test(the_strongest_word_has_the_full_colour),
        cmocka_unit_test(labels_have_their_words_too),
        cmocka_unit_test(what_was_cut_off_is_shown_apart),
        cmocka_unit_test(attributions_that_have_not_converged_say_so),
        cmocka_unit_test(subnetworks_are_shown_where_there_are_any),
        cmocka_unit_test(maps_are_as_dark_as_masks_are_dense),
        cmocka_unit_test(pngs_hold_the_pixels),
        cmocka_unit_test(pictures_show_the_subnetworks),
        cmocka_unit_test(a_training_run_has_a_page),
        cmocka_unit_test(pages_of_vanilla_models_are_about_labels_and_words),
        cmocka_unit_test(an_evaluation_of_something_else_has_no_page),
        cmocka_unit_test(a_path_that_cannot_be_written_is_an_error),
        cmocka_unit_test(without_memory_the_old_report_stays),
        cmocka_unit_test(reports_are_the_same_again),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
