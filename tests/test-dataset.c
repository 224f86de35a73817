/*
 * tests/test-dataset.c - labelled texts from CSV and JSON Lines, and lines of text: what is written is read, and
 * whatever is wrong is one line that says where
 */
#define _XOPEN_SOURCE 700

#include "models/cbm-train.h"
#include "tests/helpers.h"

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The path of a file in the folder that holds these bytes; the last 64 stay. */
static const char *file_of(const char *name, const char *bytes, size_t size) {
    const char *path = in_folder(name);
    write_file(path, bytes, size);
    return path;
}

/* A text, a label and two concepts. */
static const cbm_concept_column concepts[] = {{"food", "f"}, {"noise level", "n"}};
static const cbm_dataset_options usual = {.text = "text", .label = "stars", .concepts = concepts, .n_concepts = 2};

static void read_text(cbm_dataset *data, const cbm_dataset_options *options, const char *name, const char *content) {
    assert_ok(cbm_dataset_read_memory(data, options, name, content, strlen(content), NULL));
}

static void assert_classes(const cbm_classes *classes, const char *names) {
    char found[256] = "";
    for (size_t c = 0; c < classes->n; c++) {
        if (c) strcat(found, "|");
        strcat(found, classes->name[c]);
    }
    assert_string_equal(found, names);
}

static const char *label_of(const cbm_dataset *data, size_t i) {
    return data->label[i] < 0 ? NULL : data->label_classes.name[data->label[i]];
}

static const char *concept_of(const cbm_dataset *data, size_t i, int k) {
    int32_t c = data->concept_class[i * (size_t)data->n_concepts + (size_t)k];
    return c < 0 ? NULL : data->concept_classes[k].name[c];
}

static void assert_row(const cbm_dataset *data, size_t i, const char *text, const char *label, const char *food,
                       const char *noise) {
    assert_true(i < data->n);
    assert_string_equal(data->text[i], text);
    assert_int_equal(data->text_length[i], strlen(text));
    assert_string_equal(label_of(data, i), label);
    assert_string_equal(concept_of(data, i, 0), food);
    assert_string_equal(concept_of(data, i, 1), noise);
}

/* ------------------------------------------------------------------------------------------
 * Formats
 * ---------------------------------------------------------------------------------------- */

/* Commas, doubled quotes and both kinds of line break inside quotes; spaces belong to a field; columns in any order and
 * columns that nobody asked for, whatever is in them. */
static void csv_is_read_by_rfc_4180(void **state) {
    static const char content[] = "n,\"text\",unused,stars,f\n"
                                  "Positive,\"a, b\",x,5,Negative\n"
                                  "Positive,\"she said \"\"hi\"\"\",\xff,1,Positive\n"
                                  "\n"
                                  "Negative,\"two\nlines\r\nthree\",\"\",1,Positive\n"
                                  "Negative, spaces \t,\"\",1,Positive\n"
                                  "Negative,,\"\",1,Positive\n"
                                  "Negative,\"\",\"\",1,Positive\n"
                                  "Negative,\"\"\"\",\"\",1,\"Positive\"";
    cbm_dataset data;
    (void)state;
    read_text(&data, &usual, "reviews.csv", content);
    assert_int_equal(data.n, 7);
    assert_int_equal(data.n_read, 7);
    assert_int_equal(data.n_concepts, 2);
    assert_row(&data, 0, "a, b", "5", "Negative", "Positive");
    assert_row(&data, 1, "she said \"hi\"", "1", "Positive", "Positive");
    assert_row(&data, 2, "two\nlines\r\nthree", "1", "Positive", "Negative");
    assert_row(&data, 3, " spaces \t", "1", "Positive", "Negative");
    assert_row(&data, 4, "", "1", "Positive", "Negative");
    assert_row(&data, 5, "", "1", "Positive", "Negative");
    assert_row(&data, 6, "\"", "1", "Positive", "Negative");
    cbm_dataset_clear(&data);
}

static void line_ends_and_byte_order_marks_do_not_matter(void **state) {
    static const char *const contents[] = {
        "text,stars,f,n\n\xc3\xa4,1,a,b\ny,2,a,b\n",
        "text,stars,f,n\n\xc3\xa4,1,a,b\ny,2,a,b",
        "text,stars,f,n\r\n\xc3\xa4,1,a,b\r\ny,2,a,b\r\n",
        "text,stars,f,n\r\n\xc3\xa4,1,a,b\r\ny,2,a,b",
        "\xef\xbb\xbftext,stars,f,n\n\xc3\xa4,1,a,b\n\n\ny,2,a,b\n\n",
        "\xef\xbb\xbf\"text\",stars,f,n\r\n\xc3\xa4,1,a,b\r\n\r\ny,2,a,\"b\"",
    };
    (void)state;
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        cbm_dataset data;
        read_text(&data, &usual, "reviews.csv", contents[i]);
        assert_int_equal(data.n, 2);
        assert_row(&data, 0, "\xc3\xa4", "1", "a", "b");
        assert_row(&data, 1, "y", "2", "a", "b");
        cbm_dataset_clear(&data);
    }
}

static void json_lines_are_read(void **state) {
    static const char content[] =
        "\xef\xbb\xbf{\"text\": \"a \\\"b\\\"\\n\\u00e4 \\ud83d\\ude00 \\\\u0000\", \"stars\": 10, \"f\": true, \"n\": null}\r\n"
        "\n"
        "  \t\r\n"
        "{\"n\": \"x\", \"f\": false, \"stars\": \"2\", \"other\": {\"text\": [1, 2]}, \"text\": \"\"}\n"
        "{\"text\": \"z\", \"stars\": 2.5, \"f\": \"true\", \"n\": \"x\"}";
    cbm_dataset data;
    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"reviews.jsonl", "x.JSON", "dir.csv/x.ndjson"};
        read_text(&data, &usual, names[i], content);
        assert_int_equal(data.n, 3);
        assert_row(&data, 0, "a \"b\"\n\xc3\xa4 \xf0\x9f\x98\x80 \\u0000", "10", "true", "unknown");
        assert_row(&data, 1, "", "2", "false", "x");
        assert_row(&data, 2, "z", "2.5", "true", "x");
        assert_classes(&data.label_classes, "2|2.5|10");
        assert_classes(&data.concept_classes[0], "false|true");
        assert_classes(&data.concept_classes[1], "x|unknown");
        cbm_dataset_clear(&data);
    }
}

static void files_are_put_together(void **state) {
    static const char one[] = "text,stars,f,n\na,5,x,y\nb,no majority,x,y\n", two[] = "n,f,stars,text\nz,x,1,c";
    static const char three[] = "{\"text\": \"d\", \"stars\": 5, \"f\": \"w\", \"n\": \"y\"}\n";
    cbm_dataset_options options = usual;
    const char *paths[3];
    cbm_dataset data;
    (void)state;
    paths[0] = file_of("one.csv", one, strlen(one));
    paths[1] = file_of("two", two, strlen(two)); /* any other name is CSV */
    paths[2] = file_of("three.jsonl", three, strlen(three));
    options.paths = paths;
    options.n_paths = 3;
    options.drop_labels = (const char *const[]){"no majority"};
    options.n_drop_labels = 1;
    assert_ok(cbm_dataset_read(&data, &options, NULL));
    assert_int_equal(data.n, 3);
    assert_int_equal(data.n_read, 4);
    assert_row(&data, 0, "a", "5", "x", "y");
    assert_row(&data, 1, "c", "1", "x", "z");
    assert_row(&data, 2, "d", "5", "w", "y");
    assert_classes(&data.label_classes, "1|5");
    assert_classes(&data.concept_classes[0], "w|x");
    cbm_dataset_clear(&data);
}

/* Fields and rows that lie across the pieces in which a file is parsed, and many rows. */
static void long_fields_and_many_rows_are_whole(void **state) {
    enum { ROWS = 3000, LONG = 300000 };
    size_t size = 0, capacity = ROWS * 200 + 3 * LONG;
    char *content = malloc(capacity);
    cbm_dataset data;
    (void)state;
    assert_non_null(content);
    size += (size_t)snprintf(content, capacity, "stars,text,f,n\n");
    for (int i = 0; i < ROWS; i++) {
        size += (size_t)snprintf(content + size, capacity - size, "%d,\"", i % 7);
        int length = i == 1500 ? LONG : i % 90;
        for (int j = 0; j < length; j++)
            content[size++] = j % 3 == 0 ? ',' : j % 5 == 0 ? '\n' : (char)('a' + (i + j) % 26);
        size += (size_t)snprintf(content + size, capacity - size, "\",x,y\n");
    }
    assert_ok(cbm_dataset_read_memory(&data, &usual, "x.csv", content, size, NULL));
    assert_int_equal(data.n, ROWS);
    for (int i = 0; i < ROWS; i++) {
        size_t length = i == 1500 ? LONG : (size_t)(i % 90);
        assert_int_equal(data.label[i], i % 7);
        assert_int_equal(data.text_length[i], length);
        for (size_t j = 0; j < length; j++)
            if (data.text[i][j] != (j % 3 == 0 ? ',' : j % 5 == 0 ? '\n' : (char)('a' + ((size_t)i + j) % 26)))
                fail_msg("row %d differs at byte %zu", i, j);
    }
    cbm_dataset_clear(&data);
    free(content);
}

static void texts_alone_can_be_read(void **state) {
    const cbm_dataset_options options = {.text = "text"};
    cbm_dataset data;
    (void)state;
    read_text(&data, &options, "x.csv", "text,stars\na,\nb,1\n");
    assert_int_equal(data.n, 2);
    assert_string_equal(data.text[1], "b");
    assert_int_equal(data.label[0], -1);
    assert_int_equal(data.label[1], -1);
    assert_int_equal(data.label_classes.n, 0);
    cbm_dataset_clear(&data);
    read_text(&data, &options, "x.jsonl", "{\"text\": \"a\"}");
    assert_int_equal(data.n, 1);
    cbm_dataset_clear(&data);
}

static void tabs_part_fields_too(void **state) {
    static const char content[] = "text\tstars\tf\tn\r\na, b\t5\tx\ty\r\n\"tab\there\nand \"\"there\"\"\"\t1\tx\tz";
    static const char *const names[] = {"reviews.tsv", "x.TAB"};
    cbm_dataset data;
    (void)state;
    for (int i = 0; i < 2; i++) {
        read_text(&data, &usual, names[i], content);
        assert_int_equal(data.n, 2);
        assert_row(&data, 0, "a, b", "5", "x", "y");
        assert_row(&data, 1, "tab\there\nand \"there\"", "1", "x", "z");
        cbm_dataset_clear(&data);
    }
}

static void arrays_of_objects_are_read(void **state) {
    static const char *const contents[] = {
        "[{\"text\": \"a [1] {2}\", \"stars\": 2, \"f\": \"x\", \"n\": null},\n {\"n\": 1, \"f\": \"x\", \"stars\": \"10\", \"text\": \"b,]\"}]",
        "\xef\xbb\xbf\r\n [ {\"text\":\"a [1] {2}\",\"stars\":2,\"f\":\"x\",\"n\":null}\t,\n\n{\"n\":1,\"f\":\"x\",\"stars\":10,\"text\":\"b,]\"\n}\n]\n \n",
    };
    cbm_dataset data;
    (void)state;
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        read_text(&data, &usual, "reviews.json", contents[i]);
        assert_int_equal(data.n, 2);
        assert_row(&data, 0, "a [1] {2}", "2", "x", "unknown");
        assert_row(&data, 1, "b,]", "10", "x", "1");
        assert_int_equal(data.row[1], 2);
        assert_classes(&data.label_classes, "2|10");
        cbm_dataset_clear(&data);
    }
}

static void the_format_can_be_chosen(void **state) {
    static const struct {
        cbm_data_format format;
        const char *name, *content;
    } cases[] = {
        {CBM_DATA_CSV, "x.json", "text\na\n"},         {CBM_DATA_TSV, "x.csv", "text\tb\na\t2\n"},
        {CBM_DATA_JSONL, "x", "{\"text\": \"a\"}"},    {CBM_DATA_JSON, "x.csv", "[{\"text\": \"a\"}]"},
        {CBM_DATA_JSON, "x.csv", "{\"text\": \"a\"}"}, {CBM_DATA_BY_NAME, "x.json", "{\"text\": \"a\"}"},
        {CBM_DATA_BY_NAME, "x", "text\na\n"},
    };
    cbm_dataset_options options = {.text = "text"};
    cbm_dataset data;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options.format = cases[i].format;
        read_text(&data, &options, cases[i].name, cases[i].content);
        assert_int_equal(data.n, 1);
        assert_string_equal(data.text[0], "a");
        cbm_dataset_clear(&data);
    }
    options.format = (cbm_data_format)9;
    assert_int_equal(cbm_dataset_read_memory(&data, &options, "x", "text\na\n", 7, NULL), SCBM_ERROR_ARGUMENT);
    options.format = CBM_DATA_BY_NAME;
    options.reserved[7] = 1;
    assert_int_equal(cbm_dataset_read_memory(&data, &options, "x", "text\na\n", 7, NULL), SCBM_ERROR_ARGUMENT);
}

/* Reads with the file as standard input. */
static scbm_status read_from_input(cbm_dataset *data, const cbm_dataset_options *options, const char *path) {
    int kept = dup(STDIN_FILENO), file = open(path, O_RDONLY);
    assert_true(kept >= 0 && file >= 0);
    dup2(file, STDIN_FILENO);
    scbm_status status = cbm_dataset_read(data, options, NULL);
    dup2(kept, STDIN_FILENO);
    close(file);
    close(kept);
    return status;
}

static void standard_input_needs_a_format(void **state) {
    static const char *const paths[] = {"-"};
    const char *path = file_of("input", "text,stars\na,1\nb,x\n", 19);
    cbm_dataset_options options = {
        .paths = paths, .n_paths = 1, .format = CBM_DATA_CSV, .text = "text", .label = "stars"};
    cbm_dataset data;
    (void)state;
    assert_ok(read_from_input(&data, &options, path));
    assert_int_equal(data.n, 2);
    assert_string_equal(data.text[1], "b");
    cbm_dataset_clear(&data);
    options.format = CBM_DATA_JSONL;
    assert_int_equal(read_from_input(&data, &options, path), SCBM_ERROR_FORMAT);
    assert_non_null(strstr(scbm_last_error(), "standard input, line 1: this is not JSON"));
    options.format = CBM_DATA_BY_NAME;
    options.format_option = "--format F";
    assert_int_equal(read_from_input(&data, &options, path), SCBM_ERROR_ARGUMENT);
    assert_non_null(strstr(scbm_last_error(), "it must be chosen (--format F)"));
    options.format = CBM_DATA_TSV;
    assert_int_equal(read_from_input(&data, &options, file_of("none", "", 0)), SCBM_ERROR_FORMAT);
    assert_non_null(strstr(scbm_last_error(), "standard input: the file is empty"));
}

/* In one column a blank line is a row, which would shift all that follow; at the end it is none, and in more columns
 * never. */
static void a_blank_line_is_an_empty_cell_of_one_column(void **state) {
    static const struct {
        const char *content, *texts;
    } cases[] = {
        {"text\na\n\nb\n", "a||b"},      {"text\r\na\r\n\r\nb\r\n", "a||b"},
        {"text\ra\r\rb", "a||b"},        {"text\n\n\na", "||a"},
        {"\n\ntext\na\n", "a"},          {"text\na\n\n\n", "a"},
        {"text\na\n\"\"\n", "a|"},       {"text\n\"\"\n\n\"\"", "||"},
        {"text,b\na,\n\n\nb,\n", "a|b"},
    };
    const cbm_dataset_options options = {.text = "text"};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cbm_dataset data;
        char found[64] = "";
        read_text(&data, &options, "x.csv", cases[i].content);
        for (size_t j = 0; j < data.n; j++) {
            if (j) strcat(found, "|");
            strcat(found, data.text[j]);
            assert_int_equal(data.row[j], j + 1);
        }
        if (strcmp(found, cases[i].texts) != 0) fail_msg("case %zu is '%s', not '%s'", i, found, cases[i].texts);
        cbm_dataset_clear(&data);
    }
}

/* ------------------------------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------------------------- */

static void rows_know_where_they_come_from(void **state) {
    static const char one[] = "text,stars,name\na,x,first\nb,1,\xc3\xa4\n",
                      two[] = "\n{\"text\": \"c\", \"stars\": 1, \"name\": 7}\n";
    cbm_dataset_options options = {.text = "text", .label = "stars", .id = "name", .n_paths = 2};
    const char *paths[2];
    cbm_dataset data;
    (void)state;
    paths[0] = file_of("one.csv", one, strlen(one));
    paths[1] = file_of("two.jsonl", two, strlen(two));
    options.paths = paths;
    options.drop_labels = (const char *const[]){"y", "x"};
    options.n_drop_labels = 2;
    assert_ok(cbm_dataset_read(&data, &options, NULL));
    assert_int_equal(data.n, 2);
    assert_int_equal(data.n_read, 3);
    assert_int_equal(data.n_dropped, 1);
    assert_int_equal(data.row[0], 2);
    assert_int_equal(data.file[0], 0);
    assert_string_equal(data.id[0], "\xc3\xa4");
    assert_int_equal(data.row[1], 2);
    assert_int_equal(data.file[1], 1);
    assert_string_equal(data.id[1], "7");
    cbm_dataset_clear(&data);
    options.id = "key";
    options.id_option = "--id COLUMN";
    assert_int_equal(cbm_dataset_read(&data, &options, NULL), SCBM_ERROR_FORMAT);
    assert_non_null(strstr(scbm_last_error(), "there is no column 'key' (--id COLUMN chooses another)"));
}

static void classes_are_counted(void **state) {
    static const char *foods[] = {"good", "bad", "so-so", "unknown"};
    const cbm_classes known[] = {{foods, 4, NULL}, {(const char *[]){"y"}, 1, NULL}};
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.concept_classes = known;
    read_text(&data, &options, "x.csv", "text,stars,f,n\na,10,good,y\nb,9,,y\nc,9,good,y\n");
    assert_classes(&data.label_classes, "9|10");
    assert_int_equal(data.label_classes.count[0], 2);
    assert_int_equal(data.label_classes.count[1], 1);
    assert_classes(&data.concept_classes[0], "good|bad|so-so|unknown");
    static const int64_t wanted[] = {2, 0, 0, 1};
    assert_memory_equal(data.concept_classes[0].count, wanted, sizeof wanted);
    assert_int_equal(data.concept_classes[1].count[0], 3);
    assert_string_equal(data.concept_name[1], "noise level");
    cbm_dataset_clear(&data);
}

static void reading_can_end_early(void **state) {
    static const char *const contents[] = {
        "text,stars,f,n\na,drop,x,y\nb,1,x,y\nc,2,x,y\nd,3,x\xff,y,z\n\"",
        "{\"text\": \"a\", \"stars\": \"drop\", \"f\": 1, \"n\": 1}\n{\"text\": \"b\", \"stars\": 1, \"f\": 1, \"n\": 1}\n"
        "{\"text\": \"c\", \"stars\": 2, \"f\": 1, \"n\": 1}\n{",
        "[{\"text\": \"a\", \"stars\": \"drop\", \"f\": 1, \"n\": 1}, {\"text\": \"b\", \"stars\": 1, \"f\": 1, \"n\": 1},\n"
        "{\"text\": \"c\", \"stars\": 2, \"f\": 1, \"n\": 1}, {",
    };
    static const char *const names[] = {"x.csv", "x.jsonl", "x.json"};
    cbm_dataset_options options = usual;
    (void)state;
    options.drop_labels = (const char *const[]){"drop"};
    options.n_drop_labels = 1;
    for (int i = 0; i < 3; i++) {
        cbm_dataset data;
        options.limit = 2;
        read_text(&data, &options, names[i], contents[i]);
        assert_int_equal(data.n, 2);
        assert_int_equal(data.n_read, 3);
        assert_string_equal(data.text[1], "c");
        assert_classes(&data.label_classes, "1|2");
        cbm_dataset_clear(&data);
        options.limit = 3;
        assert_int_equal(cbm_dataset_read_memory(&data, &options, names[i], contents[i], strlen(contents[i]), NULL),
                         SCBM_ERROR_FORMAT);
    }
}

/* What is kept, as "a|b", and how many rows are bad; the first reason. */
static void check_kept(const char *name, const char *content, size_t size, const char *kept, size_t n_bad,
                       const char *reason) {
    cbm_dataset_options options = usual;
    cbm_dataset data;
    char found[256] = "";
    options.keep_going = 1;
    assert_ok(cbm_dataset_read_memory(&data, &options, name, content, size, NULL));
    for (size_t i = 0; i < data.n; i++) {
        if (i) strcat(found, "|");
        strcat(found, data.text[i]);
    }
    if (strcmp(found, kept) != 0) fail_msg("%s: '%s' is kept, not '%s'", content, found, kept);
    assert_int_equal(data.n_bad, n_bad);
    assert_int_equal(data.n_read, data.n + data.n_bad);
    assert_int_equal(data.n_listed, n_bad);
    if (n_bad && !strstr(data.bad[0].reason, reason)) fail_msg("got '%s'; wanted '%s'", data.bad[0].reason, reason);
    cbm_dataset_clear(&data);
}

static void bad_rows_can_be_left_out(void **state) {
    static const struct {
        const char *content, *kept;
        size_t n_bad;
        const char *reason;
    } csv
        [] =
            {
                {"text,stars,f,n\na,1,x,y\nb,2,x\nc,3,x,y\n", "a|c", 1, "x.csv, row 2: there are 3 fields"},
                {"text,stars,f,n\na,1,x,y,z\nb,,x,y\nc,3,x,y\n", "c", 2, "row 1: there are 5 fields"},
                {"text,stars,f,n\n\xff,1,x,y\nb,2,\xe4,\"y\n\"\nc,3,x,y\n", "c", 2,
                 "row 1, column 'text': byte 1 (0xff)"},
                {"text,stars,f,n\na,1,x\"y,z\nb,2,x,y\n", "b", 1, "row 1, column 'f': a quote"},
                {"text,stars,f,n\na,1,x,y\n\"b,2,x,y\nc,3,x,y\nd,4,x,y\n", "a|c|d", 1,
                 "row 2, column 'text': a field begins with a quote"},
                {"text,stars,f,n\na,1,x,y\n\"b,2,x,y\nc,3,\"x\",y\nd,4,x,y\n", "a|c|d", 1,
                 "row 2, column 'text': a quote"},
                {"text,stars,f,n\na,1,x,y\nb,2,x,\"", "a", 1, "row 2, column 'n': a field begins with a quote"},
                {"text,stars,f,n\r\n\"a\r\nb\" c,1,x,y\r\nd,4,x,y\r\n", "d", 2, "row 1, column 'text': a quote"},
            },
     json[] = {
         {"{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 1}\n{x\n[]\n{\"text\": \"b\", \"stars\": 1, \"f\": 1, \"n\": 1}\n{}",
          "a|b", 3, "x.json, line 2: this is not JSON"},
         {"[{\"text\": 1}, 7, {\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 1}, {\"text\": \"b\\u0000\", \"stars\": 1, \"f\": 1, \"n\": 1}]",
          "a", 3, "x.json, row 1, column 'text': there is a number"},
     };
    (void)state;
    for (size_t i = 0; i < sizeof csv / sizeof *csv; i++)
        check_kept("x.csv", csv[i].content, strlen(csv[i].content), csv[i].kept, csv[i].n_bad, csv[i].reason);
    for (size_t i = 0; i < sizeof json / sizeof *json; i++)
        check_kept("x.json", json[i].content, strlen(json[i].content), json[i].kept, json[i].n_bad, json[i].reason);
}

static void what_is_wrong_with_the_file_ends_reading(void **state) {
    static const struct {
        const char *name, *content, *words;
    } cases[] = {
        {"x.csv", "text,stars,f\na,1,x\n", "there is no column 'n'"},
        {"x.csv", "text,\"stars,f,n\na,1,x\n", "column 2 of the header: a field begins with a quote"},
        {"x.csv", "text,stars,f,n\na,1,x\nb,2,x\n",
         "x.csv: no row is left: 2 of 2 are bad, the first because: x.csv, row 1: there are 3"},
        {"x.json", "[{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 1}, x]",
         "x.json: this is not JSON after row 1, at byte 45 of the file"},
    };
    cbm_dataset_options options = usual;
    (void)state;
    options.keep_going = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cbm_dataset data;
        scbm_status status = cbm_dataset_read_memory(&data, &options, cases[i].name, cases[i].content,
                                                     strlen(cases[i].content), NULL);
        if (status != SCBM_ERROR_FORMAT || !strstr(scbm_last_error(), cases[i].words))
            fail_msg("got %s: '%s'; wanted '%s'", scbm_status_name(status), scbm_last_error(), cases[i].words);
    }
}

/* A class that only bad rows have is none; a list of bad rows ends somewhere. */
static void bad_rows_bring_no_classes_and_are_listed_to_a_bound(void **state) {
    size_t size = 0, capacity = 100000;
    char *content = malloc(capacity);
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    assert_non_null(content);
    size += (size_t)snprintf(content, capacity, "text,stars,f,n\na,1,x,y\n");
    for (int i = 0; i < 50; i++) size += (size_t)snprintf(content + size, capacity - size, "b,%d,z,\xff\n", i + 2);
    options.keep_going = 1;
    assert_ok(cbm_dataset_read_memory(&data, &options, "x.csv", content, size, NULL));
    assert_int_equal(data.n, 1);
    assert_int_equal(data.n_bad, 50);
    assert_int_equal(data.n_listed, CBM_MAX_BAD_ROWS);
    assert_int_equal(data.bad[CBM_MAX_BAD_ROWS - 1].row, CBM_MAX_BAD_ROWS + 1);
    assert_classes(&data.label_classes, "1");
    cbm_dataset_clear(&data);
    free(content);
}

/* Hundreds of thousands of rows with thousands of classes, in few pieces of memory and little time. */
static void many_rows_of_many_classes_take_a_second(void **state) {
    enum { ROWS = 300000 };
    char *content = malloc(ROWS * 40u);
    const cbm_dataset_options options = {.text = "text", .label = "class"};
    counting_allocator memory = {0};
    const scbm_hooks hooks = allocator_hooks(&memory);
    size_t size = 0;
    cbm_dataset data;
    (void)state;
    assert_non_null(content);
    size += (size_t)sprintf(content, "class,text\n");
    for (int i = 0; i < ROWS; i++)
        size += (size_t)sprintf(content + size, "c%d,a text %d\n", i * 7 % CBM_MAX_CLASSES, i);
    limit_processor_seconds(30);
    assert_ok(cbm_dataset_read_memory(&data, &options, "x.csv", content, size, &hooks));
    limit_processor_seconds(0);
    assert_int_equal(data.n, ROWS);
    assert_int_equal(data.label_classes.n, CBM_MAX_CLASSES);
    assert_string_equal(data.text[ROWS - 1], "a text 299999");
    assert_string_equal(label_of(&data, 1), "c7");
    assert_true(memory.n < 500);
    cbm_dataset_clear(&data);
    assert_int_equal(memory.held, 0);
    free(content);
}

/* ------------------------------------------------------------------------------------------
 * Row by row
 * ---------------------------------------------------------------------------------------- */

static void data_sets_are_made_row_by_row(void **state) {
    static const cbm_concept_column named[] = {{"food", NULL}, {"noise", NULL}};
    const cbm_dataset_options options = {.concepts = named, .n_concepts = 2};
    cbm_dataset data;
    (void)state;
    assert_ok(cbm_dataset_begin(&data, &options, NULL));
    assert_int_equal(data.n, 0);
    assert_ok(cbm_dataset_add(&data, "one!", 3, "10", (const char *const[]){"good", ""}));
    assert_ok(cbm_dataset_add(&data, "two", 3, NULL, (const char *const[]){NULL, "loud"}));
    assert_error(cbm_dataset_add(&data, "b\xff", 2, "1", (const char *const[]){"good", "loud"}), SCBM_ERROR_FORMAT,
                 "the data set, row 3, column 'text': byte 2 (0xff) is not UTF-8");
    assert_error(cbm_dataset_add(&data, "b", 1, "", (const char *const[]){"good", "loud"}), SCBM_ERROR_FORMAT,
                 "row 4, column 'label': the label is empty");
    assert_error(cbm_dataset_add(&data, "b", 1, "1", NULL), SCBM_ERROR_ARGUMENT, "needs a text and its concepts");
    assert_ok(cbm_dataset_add(&data, "three", 5, "9", (const char *const[]){"bad", "loud"}));
    assert_ok(cbm_dataset_finish(&data));
    assert_int_equal(data.n, 3);
    assert_int_equal(data.n_read, 3);
    assert_row(&data, 0, "one", "10", "good", "unknown");
    assert_row(&data, 2, "three", "9", "bad", "loud");
    assert_int_equal(data.label[1], -1);
    assert_null(concept_of(&data, 1, 0));
    assert_string_equal(concept_of(&data, 1, 1), "loud");
    assert_classes(&data.label_classes, "9|10");
    assert_error(cbm_dataset_add(&data, "x", 1, NULL, (const char *const[]){"a", "b"}), SCBM_ERROR_ARGUMENT,
                 "finished");
    assert_error(cbm_dataset_finish(&data), SCBM_ERROR_ARGUMENT, "finished");
    assert_int_equal(data.n, 3);
    cbm_dataset_clear(&data);
    assert_ok(cbm_dataset_begin(&data, NULL, NULL));
    assert_error(cbm_dataset_finish(&data), SCBM_ERROR_ARGUMENT, "the data set has no rows");
    assert_null(data.store);
}

static void class_names_may_be_numbers(void **state) {
    static const char *const stars[] = {"1", "2.5", "-3"}, *const others[] = {"1", "inf"}, *const words[] = {"1", "x"};
    double values[3];
    (void)state;
    assert_true(cbm_class_values(stars, 3, values));
    assert_true(values[1] == 2.5 && values[2] == -3);
    assert_false(cbm_class_values(others, 2, values));
    assert_false(cbm_class_values(words, 2, values));
}

/* ------------------------------------------------------------------------------------------
 * Classes
 * ---------------------------------------------------------------------------------------- */

static void check_order(const char *values, const char *sorted) {
    const cbm_dataset_options options = {.text = "text", .label = "text"};
    char content[256];
    cbm_dataset data;
    snprintf(content, sizeof content, "text\n%s\n", values);
    read_text(&data, &options, "x.csv", content);
    assert_classes(&data.label_classes, sorted);
    for (size_t i = 0; i < data.n; i++) assert_string_equal(label_of(&data, i), data.text[i]);
    cbm_dataset_clear(&data);
}

static void classes_are_sorted(void **state) {
    (void)state;
    check_order("10\n9\n1.5\n-3\n1e1\n9\n100", "-3|1.5|9|10|1e1|100");
    check_order("10\nunknown\n9\nunknown", "9|10|unknown");
    check_order("10\n9\nx", "10|9|x"); /* not all are numbers: by bytes */
    check_order("b\nB\n\xc3\xa4\na b\na", "B|a|a b|b|\xc3\xa4");
    check_order("zoo\nunknown\nUnknown", "Unknown|zoo|unknown");
    check_order("unknown", "unknown");
}

static void the_locale_does_not_matter(void **state) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C.UTF-8"};
    const cbm_dataset_options options = {.text = "text", .label = "stars"};
    cbm_dataset data;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names && !setlocale(LC_ALL, names[i]); i++) continue;
    check_order("1.5\n1.25\n1", "1|1.25|1.5");
    read_text(&data, &options, "x.jsonl", "{\"text\": \"a\", \"stars\": 1.5}\n{\"text\": \"a\", \"stars\": 1.25}");
    setlocale(LC_ALL, "C");
    assert_classes(&data.label_classes, "1.25|1.5");
    cbm_dataset_clear(&data);
}

static void known_classes_keep_their_order(void **state) {
    static const char *labels[] = {"2", "1", "3"}, *foods[] = {"good", "unknown", "bad"}, *noises[] = {"y"};
    const cbm_classes label_classes = {labels, 3, NULL}, concept_classes[] = {{foods, 3, NULL}, {noises, 1, NULL}};
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.label_classes = &label_classes;
    options.concept_classes = concept_classes;
    read_text(&data, &options, "x.csv", "text,stars,f,n\na,1,bad,y\nb,2,no majority,y\nc,3,good,y\n");
    assert_classes(&data.label_classes, "2|1|3");
    assert_classes(&data.concept_classes[0], "good|unknown|bad");
    assert_int_equal(data.label[0], 1);
    assert_int_equal(data.label[1], 0);
    assert_int_equal(data.label[2], 2);
    assert_int_equal(data.concept_class[0], 2);
    assert_int_equal(data.concept_class[2], 1);
    assert_int_equal(data.concept_class[4], 0);
    cbm_dataset_clear(&data);
}

static void labels_are_dropped_or_ignored(void **state) {
    static const char content[] = "text,stars,f,n\na,1,x,y\nb,no majority,z,y\nc,,x,y\nd,2,x,y\n";
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.drop_labels = (const char *const[]){"no majority"};
    options.n_drop_labels = 1;
    options.ignore_labels = (const char *const[]){""};
    options.n_ignore_labels = 1;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n, 3);
    assert_int_equal(data.n_read, 4);
    assert_string_equal(data.text[1], "c");
    assert_int_equal(data.label[0], 0);
    assert_int_equal(data.label[1], -1);
    assert_int_equal(data.label[2], 1);
    assert_classes(&data.label_classes, "1|2");
    assert_classes(&data.concept_classes[0], "x"); /* a row that is left out brings no class */
    cbm_dataset_clear(&data);
    options.drop_labels = (const char *const[]){""};
    options.n_drop_labels = 1;
    options.ignore_labels = (const char *const[]){"no majority"};
    options.n_ignore_labels = 1;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n, 3);
    assert_int_equal(data.label[1], -1);
    assert_string_equal(concept_of(&data, 1, 0), "z");
    cbm_dataset_clear(&data);
}

static void unknown_has_synonyms(void **state) {
    static const char content[] = "text,stars,f,n\na,1,,unknown\nb,1,no majority,x\nc,1,n/a,Unknown\n";
    static const char *const synonyms[] = {"n/a", ""};
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    read_text(&data, &options, "x.csv", content);
    assert_classes(&data.concept_classes[0], "n/a|unknown");
    assert_classes(&data.concept_classes[1], "Unknown|x|unknown");
    assert_row(&data, 0, "a", "1", "unknown", "unknown");
    assert_row(&data, 1, "b", "1", "unknown", "x");
    assert_row(&data, 2, "c", "1", "n/a", "Unknown");
    cbm_dataset_clear(&data);
    options.unknown_is_missing = 1;
    read_text(&data, &options, "x.csv", content);
    assert_classes(&data.concept_classes[0], "n/a");
    assert_classes(&data.concept_classes[1], "Unknown|x");
    assert_null(concept_of(&data, 0, 0));
    assert_null(concept_of(&data, 0, 1));
    assert_null(concept_of(&data, 1, 0));
    assert_string_equal(concept_of(&data, 2, 0), "n/a");
    cbm_dataset_clear(&data);
    options.unknown_is_missing = 0;
    options.unknown = synonyms;
    options.n_unknown = 2;
    read_text(&data, &options, "x.csv", content);
    assert_classes(&data.concept_classes[0], "no majority|unknown");
    assert_row(&data, 0, "a", "1", "unknown", "unknown");
    assert_row(&data, 1, "b", "1", "no majority", "x");
    assert_row(&data, 2, "c", "1", "unknown", "Unknown");
    cbm_dataset_clear(&data);
}

/* ------------------------------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------------------------- */

/* Reading fails so, in one line that says `words`, and leaves nothing behind. */
static void expect_failure(const cbm_dataset_options *options, const char *name, const char *content, size_t size,
                           scbm_status wanted, const char *words) {
    static const cbm_dataset nothing;
    cbm_dataset data;
    scbm_status status = cbm_dataset_read_memory(&data, options, name, content, size, NULL);
    if (status != wanted || !strstr(scbm_last_error(), words))
        fail_msg("got %s: '%s'; wanted %s: '%s'", scbm_status_name(status), scbm_last_error(), scbm_status_name(wanted),
                 words);
    assert_null(strchr(scbm_last_error(), '\n'));
    assert_memory_equal(&data, &nothing, sizeof data);
}

typedef struct bad_content {
    const char *content, *words;
} bad_content;

static void bad_csv_is_one_clear_error(void **state) {
    static const bad_content bad[] = {
        {"", "x.csv: the file is empty"},
        {"\xef\xbb\xbf", "x.csv: the file is empty"},
        {"\n\r\n", "x.csv: the file is empty"},
        {"text,stars,f,n", "x.csv: there are no rows after the header"},
        {"text,stars,f,n\n\n\n", "x.csv: there are no rows after the header"},
        {"text,stars,f,noise, n\na,1,x,y,z\n",
         "x.csv: there is no column 'n'; there are 'text', 'stars', 'f', 'noise', ' n'"},
        {"text;stars;f;n\na;1;x;y\n", "x.csv: there is no column 'text'; there are 'text;stars;f;n'"},
        {"te\nxt,stars,f,n\n", "x.csv: there is no column 'text'; there are 'te'"},
        {"\"te\nxt\",st\xff"
         "ars,f,n\n",
         "x.csv: there is no column 'text'; there are 'te\\nxt', 'st\\xffars', 'f', 'n'"},
        {"text,stars,f,n,stars\na,1,x,y,2\n", "x.csv: there are 2 columns 'stars'"},
        {"text,stars,f,n\na,1,x,y\nb,1,x\n", "x.csv, row 2: there are 3 fields, and 4 columns in the header"},
        {"text,stars,f,n\na,1,x,y,z\n", "x.csv, row 1: there are 5 fields, and 4 columns in the header"},
        {"text,stars,f,n\na\n", "x.csv, row 1: there are 1 fields, and 4 columns"},
        {"text,stars,f,n\na,1,x,y\nb,2,\xe4,y\n", "x.csv, row 2, column 'f': byte 1 (0xe4) is not UTF-8"},
        {"text,stars,f,n\nab\xc3,1,x,y\n", "x.csv, row 1, column 'text': byte 3 (0xc3) is not UTF-8"},
        {"text,stars,f,n\n\xed\xa0\x80,1,x,y\n", "x.csv, row 1, column 'text': byte 1 (0xed) is not UTF-8"},
        {"text,stars,f,n\n\xc0\x80,1,x,y\n", "x.csv, row 1, column 'text': byte 1 (0xc0) is not UTF-8"},
        {"text,stars,f,n\na,1,x,y\n\"b,2,x,y\nc,3,x,y\n",
         "x.csv, row 2, column 'text': a field begins with a quote (\") and does not end"},
        {"text,stars,f,n\na,1,x,y\nb,2,x\"y,z\n", "x.csv, row 2, column 'f': a quote (\")"},
        {"text,stars,f,n\na,1,\"x\" ,y\n", "x.csv, row 1, column 'f': a quote (\")"},
        {"te\"xt,stars,f,n\na,1,x,y\n", "x.csv: column 1 of the header: a quote (\")"},
        {"text,\"stars,f,n\na,1,x,y\n", "x.csv: column 2 of the header: a field begins with a quote"},
        {"text,stars,f,n\na,,x,y\n", "x.csv, row 1, column 'stars': the label is empty"},
        {"text,stars,f,n\na,drop,x,y\nb,drop,x,y\n", "x.csv: no row is left: the label of all 2 is 'drop'"},
        {"\xff\xfet\0e\0", "x.csv: is not a table of texts but UTF-16"},
    };
    cbm_dataset_options options = usual;
    (void)state;
    options.drop_labels = (const char *const[]){"drop"};
    options.n_drop_labels = 1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_failure(&options, "x.csv", bad[i].content, strlen(bad[i].content), SCBM_ERROR_FORMAT, bad[i].words);
    expect_failure(&usual, "x.csv", "text,stars,f,n\na\0b,1,x,y\n", 24, SCBM_ERROR_FORMAT,
                   "x.csv, row 1, column 'text': there is a NUL byte");
    expect_failure(&usual, "x.csv", "text\0,stars,f,n\na,1,x,y\n", 24, SCBM_ERROR_FORMAT,
                   "x.csv: there is a NUL byte in the header");
}

static void bad_json_is_one_clear_error(void **state) {
    static const bad_content bad[] = {
        {"", "x.jsonl: the file is empty"},
        {"\n \n", "x.jsonl: there are only blank lines"},
        {"[1, 2]", "x.jsonl, line 1: there is a list where an object is wanted"},
        {"\n\n\"x\"\n", "x.jsonl, line 3: there is a string where an object is wanted"},
        {"3", "line 1: there is a number where"},
        {"null", "line 1: there is null where"},
        {"{\"text\": \"a\", ", "x.jsonl, line 1: this is not JSON, from byte "},
        {"{\"text\": \"a\"} x", "line 1: this is not JSON, from byte 15 of the line on"},
        {"{\"text\": \"a\"}{}", "line 1: this is not JSON, from byte 14 of the line on"},
        {"{\"text\": \"\\ud800\"}", "line 1: this is not JSON"},
        {"{", "line 1: this is not JSON"},
        {"{}", "line 1: there is no key 'text'; there is none"},
        {"{\"text\": \"a\", \"f\": 1, \"n\": 2}", "line 1: there is no key 'stars'; there are 'text', 'f', 'n'"},
        {"{\"text\": 1, \"stars\": 1, \"f\": 1, \"n\": 2}",
         "line 1, column 'text': there is a number where a string is wanted"},
        {"{\"text\": null, \"stars\": 1, \"f\": 1, \"n\": 2}",
         "line 1, column 'text': there is null where a string is wanted"},
        {"{\"text\": \"a\", \"stars\": [1], \"f\": 1, \"n\": 2}",
         "line 1, column 'stars': there is a list where a string, a number, true or false is wanted"},
        {"{\"text\": \"a\", \"stars\": 1, \"f\": {}, \"n\": 2}", "line 1, column 'f': there is an object where"},
        {"{\"text\": \"a\", \"stars\": null, \"f\": 1, \"n\": 2}", "line 1, column 'stars': the label is empty"},
        {"{\"text\": \"a\", \"stars\": 9007199254740993000, \"f\": 1, \"n\": 2}",
         "line 1, column 'stars': the number is too large"},
        {"{\"text\": \"a\", \"stars\": 1e999, \"f\": 1, \"n\": 2}", "line 1, column 'stars': the number is too large"},
        {"{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 2, \"f\": 3}", "line 1, column 'f': the key is there twice"},
        {"{\"text\": \"a\xff\", \"stars\": 1, \"f\": 1, \"n\": 2}",
         "line 1, column 'text': byte 2 (0xff) is not UTF-8"},
        {"{\"text\": \"a\\\\\\u0000\", \"stars\": 1, \"f\": 1, \"n\": 2}", "line 1: there is a NUL byte"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_failure(&usual, "x.jsonl", bad[i].content, strlen(bad[i].content), SCBM_ERROR_FORMAT, bad[i].words);
    expect_failure(&usual, "x.jsonl", "{\"text\": \"a\0\"}", 14, SCBM_ERROR_FORMAT,
                   "x.jsonl, line 1: there is a NUL byte");
    char deep[5000];
    memset(deep, '[', sizeof deep);
    expect_failure(&usual, "x.jsonl", deep, sizeof deep, SCBM_ERROR_FORMAT, "line 1: this is not JSON");
}

static void bad_arrays_are_one_clear_error(void **state) {
    static const bad_content bad[] = {
        {"[", "x.json: this is not JSON after row 0, at byte 2 of the file"},
        {"[]", "x.json: the array is empty"},
        {" [ ] x", "x.json: there is something more after row 0, at byte 6 of the file"},
        {"[1]", "x.json, row 1: there is a number where an object is wanted: the array holds one object a row"},
        {"[{\"text\": \"a\"}", "x.json, row 1: there is no key 'stars'"},
        {"[{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 2}",
         "x.json: the array does not end after row 1, at byte 43 of the file"},
        {"[{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 2} {",
         "x.json: there is neither , nor ] after row 1, at byte 44 of the file"},
        {"[{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 2},]",
         "x.json: this is not JSON after row 1, at byte 44 of the file"},
        {"[{\"text\": \"a\", \"stars\": 1, \"f\": 1, \"n\": 2}]\n{}",
         "x.json: there is something more after row 1, at byte 45 of the file"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_failure(&usual, "x.json", bad[i].content, strlen(bad[i].content), SCBM_ERROR_FORMAT, bad[i].words);
}

static void a_value_that_training_never_saw_is_named(void **state) {
    static const char *labels[] = {"1", "2"}, *foods[] = {"good", "bad"};
    const cbm_classes label_classes = {labels, 2, NULL}, concept_classes[] = {{foods, 2, NULL}, {foods, 2, NULL}};
    static const bad_content bad[] = {
        {"text,stars,f,n\na,1,good,bad\nb,3,good,bad\n",
         "x.csv, row 2, column 'stars': '3' is not one of the known classes: '1', '2'"},
        {"text,stars,f,n\na,1,good,Bad\n",
         "x.csv, row 1, column 'n': 'Bad' is not one of the known classes: 'good', 'bad'"},
        {"text,stars,f,n\na,1,no majority,bad\n",
         "column 'f': 'no majority' (unknown) is not one of the known classes"},
        {"text,stars,f,n\na,\"1\n\",good,bad\n", "column 'stars': '1\\n' is not one"},
    };
    cbm_dataset_options options = usual;
    (void)state;
    options.label_classes = &label_classes;
    options.concept_classes = concept_classes;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_failure(&options, "x.csv", bad[i].content, strlen(bad[i].content), SCBM_ERROR_FORMAT, bad[i].words);
}

/* ------------------------------------------------------------------------------------------
 * Values that are not what was meant
 * ---------------------------------------------------------------------------------------- */

/* The entry of a value; a test ends without one. */
static const cbm_odd_value *odd_of(const cbm_dataset *data, int concept, const char *value) {
    for (size_t i = 0; i < data->n_odd; i++)
        if (data->odd[i].concept == concept && strcmp(data->odd[i].value, value) == 0) return &data->odd[i];
    fail_msg("'%s' is not listed", value);
    return NULL;
}

static void assert_odd(const cbm_dataset *data, int concept, const char *value, cbm_value_fate fate,
                       const char *same_as, int64_t count) {
    const cbm_odd_value *odd = odd_of(data, concept, value);
    assert_int_equal(odd->fate, fate);
    assert_int_equal(odd->count, count);
    if (same_as) assert_string_equal(odd->same_as, same_as);
    else assert_null(odd->same_as);
}

static const char twins[] = "text,stars,f,n\n"
                            "a,4,Positive,caf\xc3\xa9\n"
                            "b,4.0,positive,CAFE\xcc\x81\n"
                            "c,4,\" Positive\",\xc2\xa0""caf\xc3\xa9\n"
                            "d,5,Positive,caf\xc3\xa9\n"
                            "e,No Majority,Unknown,x\n"
                            "f,4e0,\"  \",x\n";

/* Values that are equal as numbers, or but for blanks, capitals and composed letters, are classes of their own that are
 * listed with their rows. */
static void twins_are_listed(void **state) {
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.drop_labels = (const char *const[]){"no majority"};
    options.n_drop_labels = 1;
    read_text(&data, &options, "x.csv", twins);
    assert_classes(&data.label_classes, "4|4.0|4e0|5|No Majority");
    assert_int_equal(data.n_odd, 9);
    assert_odd(&data, -1, "4.0", CBM_VALUE_TWIN, "4", 1);
    assert_int_equal(odd_of(&data, -1, "4.0")->same_count, 2);
    assert_odd(&data, -1, "4e0", CBM_VALUE_TWIN, "4", 1);
    assert_odd(&data, -1, "No Majority", CBM_VALUE_TWIN, "no majority", 1);
    assert_odd(&data, 0, "positive", CBM_VALUE_TWIN, "Positive", 1);
    assert_odd(&data, 0, " Positive", CBM_VALUE_TWIN, "Positive", 1);
    assert_odd(&data, 0, "Unknown", CBM_VALUE_TWIN, "unknown", 1);
    assert_odd(&data, 0, "  ", CBM_VALUE_TWIN, "", 1);
    assert_odd(&data, 1, "CAFE\xcc\x81", CBM_VALUE_TWIN, "caf\xc3\xa9", 1);
    assert_odd(&data, 1, "\xc2\xa0" "caf\xc3\xa9", CBM_VALUE_TWIN, "caf\xc3\xa9", 1);
    cbm_dataset_clear(&data);
}

/* An empty label is an error, and so are blanks once they are merged; before that they are told. */
static void blanks_are_no_class(void **state) {
    static const char content[] = "text,stars,f,n\na,\"  \",x,\xe3\x80\x80\nb,1,x,y\n";
    static const char *const synonyms[] = {"n/a"};
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.unknown = synonyms;
    options.n_unknown = 1;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n_odd, 2);
    assert_odd(&data, -1, "  ", CBM_VALUE_TWIN, "", 1);
    assert_odd(&data, 1, "\xe3\x80\x80", CBM_VALUE_TWIN, "", 1);
    cbm_dataset_clear(&data);
    options.merge_classes = 1;
    expect_failure(&options, "x.csv", content, strlen(content), SCBM_ERROR_FORMAT, "row 1, column 'stars': the label is empty");
    options.drop_labels = (const char *const[]){""};
    options.n_drop_labels = 1;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n, 1);
    assert_int_equal(data.n_dropped, 1);
    cbm_dataset_clear(&data);
    options.label = NULL;
    expect_failure(&options, "x.csv", content, strlen(content), SCBM_ERROR_FORMAT, "row 1, column 'n': the concept is empty");
}

static void what_is_no_twin_is_not_listed(void **state) {
    static const char content[] = "text,stars,f,n\n"
                                  "a,9007199254740993,1.10,a b\na,9007199254740992,1.01,ab\na,0.1,+,\"\"\n"
                                  "a,0.10000000000000001,-,x\na,1e,.,x\na,nan,11,x\n";
    cbm_dataset data;
    (void)state;
    read_text(&data, &usual, "x.csv", content);
    assert_int_equal(data.n_odd, 0);
    cbm_dataset_clear(&data);
}

/* One class of the name that most rows have, in training data and in what is read by their classes. */
static void twins_can_be_merged_in_every_file(void **state) {
    static const char more[] = "text,stars,f,n\ng,\" 4.00\",POSITIVE,Caf\xc3\xa9\nh,5,positive,X\ni,NO MAJORITY,,x\n";
    cbm_dataset_options options = usual;
    cbm_dataset data, again;
    (void)state;
    options.merge_classes = 1;
    options.drop_labels = (const char *const[]){"no majority"};
    options.n_drop_labels = 1;
    read_text(&data, &options, "x.csv", twins);
    assert_int_equal(data.n, 5);
    assert_int_equal(data.n_dropped, 1);
    assert_classes(&data.label_classes, "4|5");
    assert_int_equal(data.label_classes.count[0], 4);
    assert_classes(&data.concept_classes[0], "Positive|unknown");
    assert_classes(&data.concept_classes[1], "caf\xc3\xa9|x");
    assert_row(&data, 1, "b", "4", "Positive", "caf\xc3\xa9");
    assert_row(&data, 4, "f", "4", "unknown", "x");
    assert_odd(&data, -1, "4.0", CBM_VALUE_MERGED, "4", 1);
    assert_odd(&data, -1, "No Majority", CBM_VALUE_MERGED, "no majority", 1);
    options.label_classes = &data.label_classes;
    options.concept_classes = data.concept_classes;
    read_text(&again, &options, "y.csv", more);
    assert_int_equal(again.n, 2);
    assert_int_equal(again.n_dropped, 1);
    assert_row(&again, 0, "g", "4", "Positive", "caf\xc3\xa9");
    assert_row(&again, 1, "h", "5", "Positive", "x");
    assert_odd(&again, -1, " 4.00", CBM_VALUE_MERGED, "4", 1);
    cbm_dataset_clear(&again);
    cbm_dataset_clear(&data);
}

/* Two known classes of one spelling cannot take a third one's rows. */
static void known_twins_do_not_merge(void **state) {
    static const char *labels[] = {"1", "1.0"};
    const cbm_classes classes = {labels, 2, NULL};
    const cbm_dataset_options options = {.text = "t", .label = "l", .label_classes = &classes, .merge_classes = 1};
    (void)state;
    expect_failure(&options, "x.csv", "t,l\na,1\n", 8, SCBM_ERROR_ARGUMENT,
                   "the known classes '1' and '1.0' are one class that is written in two ways");
}

/* The cells that a published paper's authors have in their test file. */
static void unseen_values_are_an_error_or_skipped_or_unknown(void **state) {
    static const char *labels[] = {"1", "2"}, *foods[] = {"Negative", "Positive", "unknown"}, *noises[] = {"x"};
    static const char content[] = "text,stars,f,n\na,1,Negative ,x\nb,2,Unkown,x\nc,1,Positive,x\nd,2,Unkown,x\ne,1,,y\n";
    const cbm_classes label_classes = {labels, 2, NULL}, concept_classes[] = {{foods, 3, NULL}, {noises, 1, NULL}};
    cbm_dataset_options options = usual;
    cbm_dataset data;
    (void)state;
    options.label_classes = &label_classes;
    options.concept_classes = concept_classes;
    options.unseen_option = "--way";
    options.merge_option = "--merge";
    expect_failure(&options, "x.csv", content, strlen(content), SCBM_ERROR_FORMAT,
                   "x.csv, row 1, column 'f': 'Negative ' is not one of the known classes: 'Negative', 'Positive', "
                   "'unknown'; it is 'Negative' written differently (--merge makes them one); 4 rows have such a value "
                   "(--way chooses what becomes of it)");
    options.unseen = CBM_UNSEEN_SKIP;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n, 1);
    assert_int_equal(data.n_unseen, 4);
    assert_int_equal(data.n_read, 5);
    assert_int_equal(data.row[0], 3);
    assert_odd(&data, 0, "Unkown", CBM_VALUE_UNSEEN, NULL, 2);
    assert_odd(&data, 0, "Negative ", CBM_VALUE_UNSEEN, "Negative", 1);
    assert_odd(&data, 1, "y", CBM_VALUE_UNSEEN, NULL, 1);
    cbm_dataset_clear(&data);
    options.unseen = CBM_UNSEEN_UNKNOWN;
    options.merge_classes = 1;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n, 5);
    assert_row(&data, 0, "a", "1", "Negative", "x");
    assert_row(&data, 1, "b", "2", "unknown", "x");
    assert_null(concept_of(&data, 4, 1)); /* "unknown" is no class of the column */
    cbm_dataset_clear(&data);
    options.unknown_is_missing = 1;
    read_text(&data, &options, "x.csv", content);
    assert_null(concept_of(&data, 1, 0));
    cbm_dataset_clear(&data);
    options.unseen = CBM_UNSEEN_ERROR;
    options.keep_going = 1; /* they are bad rows among others */
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n_bad, 3);
    cbm_dataset_clear(&data);
}

/* A part that is set aside has rows alone: what was left out or odd is told of the whole. */
static void a_part_has_none_of_what_was_left_out(void **state) {
    static const char *labels[] = {"1", "2"};
    static const char content[] = "t,l\na,1\nb,2\nc,1.0\nd,9\ne,1\n";
    const cbm_classes classes = {labels, 2, NULL};
    const cbm_dataset_options options = {
        .text = "t", .label = "l", .label_classes = &classes, .unseen = CBM_UNSEEN_SKIP, .merge_classes = 1};
    cbm_dataset data;
    cbm_split split;
    (void)state;
    read_text(&data, &options, "x.csv", content);
    assert_int_equal(data.n_unseen, 1);
    assert_int_equal(data.n_odd, 2);
    assert_ok(cbm_dataset_split(&split, &data, 0.5, 1, NULL));
    const cbm_dataset *const parts[] = {&split.train, &split.validation};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(parts[i]->n, 2);
        assert_int_equal(parts[i]->n_read, parts[i]->n + parts[i]->n_unseen);
        assert_int_equal(parts[i]->n_odd, 0);
        assert_null(parts[i]->odd);
    }
    cbm_split_clear(&split);
    cbm_dataset_clear(&data);
}

/* ------------------------------------------------------------------------------------------
 * Rows that are not kept
 * ---------------------------------------------------------------------------------------- */

typedef struct heard {
    char all[1024];
    size_t stop; /* at the row of this number */
} heard;

static scbm_status hear(void *user, const cbm_text_row *row) {
    heard *h = user;
    size_t used = strlen(h->all);
    if (row->error) snprintf(h->all + used, sizeof h->all - used, "%zu!%s|", row->row, row->error);
    else snprintf(h->all + used, sizeof h->all - used, "%zu:%s=%s|", row->row, row->id, row->text);
    return row->row == h->stop ? scbm_fail(SCBM_ERROR_NUMERIC, "stop") : SCBM_OK;
}

static void rows_are_handed_over_one_by_one(void **state) {
    static const char content[] = "{\"t\": \"a\", \"i\": 1}\n{\"t\": \"\\ud800\", \"i\": 2}\n{\"t\": NaN}\n\n{\"t\": \"b\", \"i\": 3}\n{\"i\": 4}\n";
    const char *path = file_of("rows.jsonl", content, strlen(content));
    cbm_dataset_options options = {.paths = &path, .n_paths = 1, .text = "t", .id = "i"};
    heard h = {"", 0};
    (void)state;
    assert_int_equal(cbm_dataset_each(&options, hear, &h, NULL), SCBM_ERROR_FORMAT);
    assert_string_equal(h.all, "1:1=a|");
    options.keep_going = 1;
    h = (heard){"", 0};
    assert_ok(cbm_dataset_each(&options, hear, &h, NULL));
    assert_non_null(strstr(h.all, "1:1=a|2!"));
    assert_non_null(strstr(h.all, "rows.jsonl, line 2: this is not JSON, from byte "));
    assert_non_null(strstr(h.all, "|3!"));
    assert_non_null(strstr(h.all, "|5:3=b|6!"));
    assert_non_null(strstr(h.all, "line 6: there is no key 't'"));
    h = (heard){"", 5};
    assert_int_equal(cbm_dataset_each(&options, hear, &h, NULL), SCBM_ERROR_NUMERIC);
    options.limit = 1;
    h = (heard){"", 0};
    assert_ok(cbm_dataset_each(&options, hear, &h, NULL));
    assert_string_equal(h.all, "1:1=a|");
    options.label = "i";
    assert_int_equal(cbm_dataset_each(&options, hear, &h, NULL), SCBM_ERROR_ARGUMENT);
}

static void keep_log(void *user, scbm_log_level level, const char *message) {
    (void)level;
    snprintf(user, 200, "%s", message);
}

/* Nothing is left out without a word. */
static void blank_lines_are_told(void **state) {
    char said[200] = "";
    const scbm_hooks hooks = {.user = said, .log = keep_log};
    const cbm_dataset_options options = {.text = "t"};
    static const struct {
        const char *name, *content, *said;
    } files[] = {{"x.csv", "t\na\n\nb\n\n\n", "x.csv: 2 blank lines are no rows"},
                 {"y.csv", "t,u\na,1\n\nb,2\n", "y.csv: 1 blank line is no row"},
                 {"z.jsonl", "{\"t\": \"a\"}\n\n\n{\"t\": \"b\"}\n", "z.jsonl: 2 blank lines are no rows"},
                 {"n.csv", "t\na\r\nb\r\n", ""}};
    cbm_dataset data;
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        said[0] = 0;
        assert_ok(cbm_dataset_read_memory(&data, &options, files[i].name, files[i].content, strlen(files[i].content), &hooks));
        assert_string_equal(said, files[i].said);
        cbm_dataset_clear(&data);
    }
}

static void an_empty_concept_that_is_not_unknown_is_refused(void **state) {
    static const char content[] = "text,stars,f,n\na,1,x,\n";
    static const char *const synonyms[] = {"n/a"};
    cbm_dataset_options options = usual;
    (void)state;
    options.unknown = synonyms;
    options.n_unknown = 1;
    expect_failure(&options, "x.csv", content, strlen(content), SCBM_ERROR_FORMAT,
                   "x.csv, row 1, column 'n': the concept is empty");
}

static void a_column_of_texts_holds_no_classes(void **state) {
    const cbm_dataset_options options = {.text = "text", .label = "text"};
    size_t size = 0, capacity = (CBM_MAX_CLASSES + 2) * 8;
    char *content = malloc(capacity);
    (void)state;
    assert_non_null(content);
    size += (size_t)snprintf(content, capacity, "text\n");
    for (int i = 0; i < CBM_MAX_CLASSES + 1; i++) size += (size_t)snprintf(content + size, capacity - size, "%d\n", i);
    expect_failure(&options, "x.csv", content, size, SCBM_ERROR_FORMAT,
                   "row 4097, column 'text': there are more than 4096 different values");
    free(content);
}

/* Long names and many columns: the message still says what is wrong, and is cut where it lists. */
static void long_messages_keep_their_beginning(void **state) {
    char content[9000] = "";
    (void)state;
    for (int i = 0; i < 400; i++) {
        char name[64];
        snprintf(name, sizeof name, "%scolumn number %d", i ? "," : "", i);
        strcat(content, name);
    }
    expect_failure(&usual, "x.csv", content, strlen(content), SCBM_ERROR_FORMAT,
                   "x.csv: there is no column 'text'; there are 'column number 0', 'column number 1', ");
    assert_true(strlen(scbm_last_error()) < 400);
    assert_non_null(strstr(scbm_last_error(), ", …"));
}

static void files_that_cannot_be_read_are_named(void **state) {
    cbm_dataset_options options = usual;
    const char *path = "/nowhere/reviews.csv";
    cbm_dataset data;
    (void)state;
    options.paths = &path;
    options.n_paths = 1;
    assert_int_equal(cbm_dataset_read(&data, &options, NULL), SCBM_ERROR_IO);
    assert_non_null(strstr(scbm_last_error(), path));
    path = folder;
    assert_int_equal(cbm_dataset_read(&data, &options, NULL), SCBM_ERROR_IO);
    assert_non_null(strstr(scbm_last_error(), folder));
    path = file_of("empty.csv", "", 0);
    assert_int_equal(cbm_dataset_read(&data, &options, NULL), SCBM_ERROR_FORMAT);
    assert_non_null(strstr(scbm_last_error(), "empty.csv: the file is empty"));
    options.n_paths = 0;
    assert_int_equal(cbm_dataset_read(&data, &options, NULL), SCBM_ERROR_ARGUMENT);
}

/* ------------------------------------------------------------------------------------------
 * Hooks
 * ---------------------------------------------------------------------------------------- */

static scbm_status add_rows(cbm_dataset *data, const scbm_hooks *hooks) {
    const cbm_dataset_options options = {.concepts = concepts, .n_concepts = 2};
    scbm_status status = cbm_dataset_begin(data, &options, hooks);
    for (int i = 0; i < 3 && !status; i++)
        status = cbm_dataset_add(data, "a text", 6, i ? "1" : "2", (const char *const[]){i ? "x" : "y", "z"});
    return status ? status : cbm_dataset_finish(data);
}

static void running_out_of_memory_is_an_error_anywhere(void **state) {
    static const char *const names[] = {"x.csv", "x.jsonl", "x.tsv", "x.json"};
    static const char *const contents[] = {
        "text,stars,f,n\na,1,x,y\nb,2,z,y\nb,3,z\nc,3,\",y\nc,3,,y\n",
        "{\"text\": \"a\", \"stars\": 2, \"f\": \"x\", \"n\": 1}\n{}\n{\"text\": \"b\", \"stars\": 1, \"f\": \"\", \"n\": 1}\n",
        "n\ttext\tstars\tf\ny\ta\t1\tx\n",
        "[{\"text\": \"a\", \"stars\": 2, \"f\": \"x\", \"n\": 1}]",
    };
    cbm_dataset_options options = usual;
    (void)state;
    options.keep_going = 1;
    options.id = "text";
    for (int format = 0; format < 5; format++) {
        scbm_status status = SCBM_ERROR_MEMORY;
        int n = 0;
        for (; status != SCBM_OK && n < 1000; n++) {
            counting_allocator memory = {.fails_at = n + 1, .fails_on = 1};
            const scbm_hooks hooks = allocator_hooks(&memory);
            cbm_dataset data;
            if (format == 4) status = add_rows(&data, &hooks);
            else
                status = cbm_dataset_read_memory(&data, &options, names[format], contents[format],
                                                 strlen(contents[format]), &hooks);
            if (status != SCBM_OK) assert_int_equal(status, SCBM_ERROR_MEMORY);
            cbm_dataset_clear(&data);
            assert_int_equal(memory.held, 0);
        }
        assert_int_equal(status, SCBM_OK);
        assert_true(n > 20);
    }
}

static int cancel(void *user, const char *what, int64_t done, int64_t total) {
    assert_string_equal(what, "read");
    assert_true(done <= total);
    ++*(int *)user;
    return 1;
}

static void reading_can_be_cancelled(void **state) {
    int n_calls = 0;
    const scbm_hooks hooks = {.user = &n_calls, .progress = cancel};
    cbm_dataset data;
    (void)state;
    assert_int_equal(cbm_dataset_read_memory(&data, &usual, "x.csv", "text,stars,f,n\na,1,x,y\n", 23, &hooks),
                     SCBM_ERROR_CANCELLED);
    assert_int_equal(n_calls, 1);
}

/* ------------------------------------------------------------------------------------------
 * Lines
 * ---------------------------------------------------------------------------------------- */

typedef struct lines {
    char all[256]; /* "[one][two]" */
    size_t n, longest, stop_at;
    size_t n_more; /* lines that were said to have another one behind them */
} lines;

static scbm_status take_line(void *user, const char *text, size_t length, size_t line_number, int more) {
    lines *l = user;
    assert_int_equal(line_number, ++l->n);
    assert_int_equal(text[length], 0);
    l->n_more += more != 0;
    if (length > l->longest) l->longest = length;
    if (strlen(l->all) + length + 3 < sizeof l->all) sprintf(l->all + strlen(l->all), "[%s]", text);
    return line_number == l->stop_at ? scbm_fail(SCBM_ERROR_NUMERIC, "enough") : SCBM_OK;
}

static void check_lines(const char *content, size_t size, const char *all) {
    lines l = {"", 0, 0, 0, 0};
    assert_ok(cbm_read_lines(file_of("lines.txt", content, size), take_line, NULL, &l, NULL));
    assert_string_equal(l.all, all);
    size_t whole = 0;
    for (size_t i = 0; i < size; i++) whole += content[i] == '\n';
    assert_int_equal(l.n_more, whole > 1 ? whole - 1 : 0);
}

static void lines_are_read(void **state) {
    (void)state;
    check_lines("", 0, "");
    check_lines("one", 3, "[one]");
    check_lines("one\n", 4, "[one]");
    check_lines("\n", 1, "[]");
    check_lines("one\n\n\r\ntwo\r\n three\r\r\nfo\rur", 26, "[one][][][two][ three\r][fo\rur]");
    check_lines("\xef\xbb\xbfone\n\xc3\xa4", 9, "[one][\xc3\xa4]");
}

static void long_lines_are_whole(void **state) {
    enum { LONG = 5000000 };
    char *content = malloc(2 * LONG + 2);
    lines l = {"", 0, 0, 0, 0};
    (void)state;
    assert_non_null(content);
    memset(content, 'a', 2 * LONG + 2);
    content[10] = '\n';
    content[LONG + 11] = '\n';
    assert_ok(cbm_read_lines(file_of("long.txt", content, 2 * LONG + 2), take_line, NULL, &l, NULL));
    assert_int_equal(l.n, 3);
    assert_int_equal(l.longest, LONG);
    free(content);
}

static void standard_input_is_read(void **state) {
    const char *path = file_of("stdin.txt", "a\nb", 3);
    lines l = {"", 0, 0, 0, 0};
    (void)state;
    int kept = dup(STDIN_FILENO), file = open(path, O_RDONLY);
    assert_true(kept >= 0 && file >= 0);
    dup2(file, STDIN_FILENO);
    scbm_status status = cbm_read_lines("-", take_line, NULL, &l, NULL);
    dup2(kept, STDIN_FILENO);
    close(file);
    close(kept);
    assert_ok(status);
    assert_string_equal(l.all, "[a][b]");
}

/* The writer sends a line only after the one before it was answered: a reader that waits for more would wait for ever. */
static scbm_status answer_line(void *user, const char *text, size_t length, size_t line_number, int more) {
    const int *answers = user;
    (void)text;
    (void)line_number;
    assert_false(more);
    return write(*answers, length ? "+" : "0", 1) == 1 ? SCBM_OK : SCBM_ERROR_IO;
}

static void a_line_of_a_pipe_comes_at_once(void **state) {
    char byte;
    int answers[2], status;
    const char *path = in_folder("fifo");
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(pipe(answers), 0);
    pid_t writer = fork();
    if (writer == 0) {
        int fifo = open(path, O_WRONLY);
        for (int i = 0; i < 5; i++) {
            alarm(300);
            if (write(fifo, "lin", 3) != 3 || write(fifo, "e\nnext ", 7) != 7 || read(answers[0], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    assert_true(writer > 0);
    scbm_status result = cbm_read_lines(path, answer_line, NULL, &answers[1], NULL);
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_ok(result);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(answers[0]);
    close(answers[1]);
}

static void expect_bad_line(const char *content, size_t size, size_t n, const char *words) {
    lines l = {"", 0, 0, 0, 0};
    assert_int_equal(cbm_read_lines(file_of("bad.txt", content, size), take_line, NULL, &l, NULL), SCBM_ERROR_FORMAT);
    if (!strstr(scbm_last_error(), words)) fail_msg("got '%s'; wanted '%s'", scbm_last_error(), words);
    assert_int_equal(l.n, n);
}

static scbm_status hear_bad_line(void *user, const char *reason, size_t number) {
    heard *h = user;
    size_t used = strlen(h->all);
    snprintf(h->all + used, sizeof h->all - used, "%zu!%s|", number, strstr(reason, ": ") + 2);
    return SCBM_OK;
}

static scbm_status hear_line(void *user, const char *text, size_t length, size_t number, int more) {
    heard *h = user;
    size_t used = strlen(h->all);
    (void)length;
    (void)more;
    snprintf(h->all + used, sizeof h->all - used, "%zu:%s|", number, text);
    return SCBM_OK;
}

static void bad_lines_can_be_passed(void **state) {
    heard h = {"", 0};
    (void)state;
    assert_ok(cbm_read_lines(file_of("bad.txt", "a\nb\xff\nc\0d\n\ne", 11), hear_line, hear_bad_line, &h, NULL));
    assert_string_equal(h.all, "1:a|2!byte 2 (0xff) is not UTF-8|3!there is a NUL byte|4:|5:e|");
}

static void bad_lines_are_named(void **state) {
    lines l = {"", 0, 0, 2, 0};
    (void)state;
    expect_bad_line("one\ntwo\nb\xff\nfour", 16, 2, "bad.txt, line 3: byte 2 (0xff) is not UTF-8");
    expect_bad_line("one\0\ntwo", 8, 0, "bad.txt, line 1: there is a NUL byte");
    assert_int_equal(cbm_read_lines("/nowhere/x.txt", take_line, NULL, &l, NULL), SCBM_ERROR_IO);
    assert_non_null(strstr(scbm_last_error(), "/nowhere/x.txt"));
    assert_int_equal(cbm_read_lines(folder, take_line, NULL, &l, NULL), SCBM_ERROR_IO);
    assert_non_null(strstr(scbm_last_error(), folder));
    assert_int_equal(cbm_read_lines(file_of("stop.txt", "a\nb\nc\n", 6), take_line, NULL, &l, NULL), SCBM_ERROR_NUMERIC);
    assert_string_equal(l.all, "[a][b]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(csv_is_read_by_rfc_4180),
        cmocka_unit_test(line_ends_and_byte_order_marks_do_not_matter),
        cmocka_unit_test(json_lines_are_read),
        cmocka_unit_test(files_are_put_together),
        cmocka_unit_test(long_fields_and_many_rows_are_whole),
        cmocka_unit_test(texts_alone_can_be_read),
        cmocka_unit_test(tabs_part_fields_too),
        cmocka_unit_test(arrays_of_objects_are_read),
        cmocka_unit_test(the_format_can_be_chosen),
        cmocka_unit_test(standard_input_needs_a_format),
        cmocka_unit_test(a_blank_line_is_an_empty_cell_of_one_column),
        cmocka_unit_test(rows_know_where_they_come_from),
        cmocka_unit_test(classes_are_counted),
        cmocka_unit_test(reading_can_end_early),
        cmocka_unit_test(bad_rows_can_be_left_out),
        cmocka_unit_test(what_is_wrong_with_the_file_ends_reading),
        cmocka_unit_test(bad_rows_bring_no_classes_and_are_listed_to_a_bound),
        cmocka_unit_test(many_rows_of_many_classes_take_a_second),
        cmocka_unit_test(data_sets_are_made_row_by_row),
        cmocka_unit_test(class_names_may_be_numbers),
        cmocka_unit_test(classes_are_sorted),
        cmocka_unit_test(the_locale_does_not_matter),
        cmocka_unit_test(known_classes_keep_their_order),
        cmocka_unit_test(labels_are_dropped_or_ignored),
        cmocka_unit_test(unknown_has_synonyms),
        cmocka_unit_test(bad_csv_is_one_clear_error),
        cmocka_unit_test(bad_json_is_one_clear_error),
        cmocka_unit_test(bad_arrays_are_one_clear_error),
        cmocka_unit_test(a_value_that_training_never_saw_is_named),
        cmocka_unit_test(twins_are_listed),
        cmocka_unit_test(blanks_are_no_class),
        cmocka_unit_test(what_is_no_twin_is_not_listed),
        cmocka_unit_test(twins_can_be_merged_in_every_file),
        cmocka_unit_test(known_twins_do_not_merge),
        cmocka_unit_test(unseen_values_are_an_error_or_skipped_or_unknown),
        cmocka_unit_test(a_part_has_none_of_what_was_left_out),
        cmocka_unit_test(rows_are_handed_over_one_by_one),
        cmocka_unit_test(blank_lines_are_told),
        cmocka_unit_test(an_empty_concept_that_is_not_unknown_is_refused),
        cmocka_unit_test(a_column_of_texts_holds_no_classes),
        cmocka_unit_test(long_messages_keep_their_beginning),
        cmocka_unit_test(files_that_cannot_be_read_are_named),
        cmocka_unit_test(running_out_of_memory_is_an_error_anywhere),
        cmocka_unit_test(reading_can_be_cancelled),
        cmocka_unit_test(lines_are_read),
        cmocka_unit_test(long_lines_are_whole),
        cmocka_unit_test(standard_input_is_read),
        cmocka_unit_test(a_line_of_a_pipe_comes_at_once),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(bad_lines_can_be_passed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
