/*
 * tests/long-convert.c - a checkpoint of 2 GB in shards converts in the memory of its largest tensor and little more: as
 * safetensors, and as files of torch.save in which half of the matrices lie turned
 */
#define _DEFAULT_SOURCE

#include "convert/safetensors.h"
#include "models/backbones/architecture.h"
#include "tests/torch-files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    HIDDEN = 2048,
    FEED_FORWARD = 8192,
    BLOCKS = 8,
    VOCABULARY = 40000,
    POSITIONS = 64,
    SHARDS = 6,
    CHUNK = 1 << 16
};

static char folder[] = "/tmp/scbm-long-XXXXXX";
static float numbers[CHUNK];

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_text(const char *name, const char *text) {
    FILE *file = fopen(in_folder(name), "w");
    if (!file || fputs(text, file) < 0 || fclose(file)) abort();
}

/* A parameter, as the folder has it. */
typedef struct part {
    char name[96];
    int n_dims;
    int64_t shape[2];
} part;

static int list_parts(part *parts) {
    cbm_backbone settings;
    cbm_settings_default(&settings, cbm_architecture_at(0));
    settings.hidden = HIDDEN, settings.feed_forward = FEED_FORWARD, settings.n_blocks = BLOCKS, settings.n_heads = 16;
    settings.vocabulary = VOCABULARY, settings.context = POSITIONS, settings.types = 2;
    if (cbm_settings_settle(&settings, "settings")) abort();
    int n = cbm_n_places(&settings);
    for (int i = 0; i < n; i++) {
        int block;
        const cbm_row *row = cbm_row_at(&settings, i, &block);
        parts[i].n_dims = cbm_row_shape(&settings, row, parts[i].shape);
        if (block < 0) snprintf(parts[i].name, sizeof parts[i].name, "%s", row->hf);
        else snprintf(parts[i].name, sizeof parts[i].name, "encoder.layer.%d.%s", block, row->hf);
    }
    return n;
}

static int64_t count(const part *p) {
    return p->shape[0] * (p->n_dims > 1 ? p->shape[1] : 1);
}

static const char *shard_name(int shard, const char *suffix) {
    static char name[64];
    snprintf(name, sizeof name, "shard-%d.%s", shard, suffix);
    return name;
}

static void write_index(const part *parts, int n, const char *name, const char *suffix) {
    FILE *file = fopen(in_folder(name), "w");
    if (!file) abort();
    fprintf(file, "{\"weight_map\": {");
    for (int i = 0; i < n; i++)
        fprintf(file, "%s\"%s\": \"%s\"", i ? ", " : "", parts[i].name, shard_name(i % SHARDS, suffix));
    fprintf(file, "}}\n");
    if (fclose(file)) abort();
}

static scbm_status give(void *user, int i, float *data) {
    const safetensors_entry *entry = (const safetensors_entry *)user + i;
    int64_t n = entry->shape[0] * (entry->n_dims > 1 ? entry->shape[1] : 1);
    for (int64_t at = 0; at < n; at++) data[at] = numbers[at % CHUNK];
    return SCBM_OK;
}

static void write_safetensors(const part *parts, int n) {
    static safetensors_entry entries[256];
    for (int shard = 0; shard < SHARDS; shard++) {
        int used = 0;
        for (int i = shard; i < n; i += SHARDS, used++) {
            snprintf(entries[used].name, sizeof entries[used].name, "%s", parts[i].name);
            entries[used].n_dims = parts[i].n_dims;
            memcpy(entries[used].shape, parts[i].shape, sizeof parts[i].shape);
        }
        if (cbm_safetensors_write(in_folder(shard_name(shard, "safetensors")), entries, used, give, entries, NULL))
            abort();
    }
    write_index(parts, n, "model.safetensors.index.json", "safetensors");
}

static void write_entry(FILE *file, made_file *list, const char *name, const void *data, int64_t bytes) {
    made_file header = {.n = 0};
    uint64_t begin = (uint64_t)ftell(file);
    put_header(&header, name, (uint64_t)bytes, 0, NULL);
    put_header(list, name, (uint64_t)bytes, 0, &begin);
    if (fwrite(header.bytes, 1, header.n, file) != header.n) abort();
    for (int64_t left = bytes; left > 0; left -= (int64_t)sizeof numbers) {
        size_t n = left < (int64_t)sizeof numbers ? (size_t)left : sizeof numbers;
        if (fwrite(data ? data : numbers, 1, n, file) != n) abort();
    }
}

static void write_torch_shard(const part *parts, int n, int shard) {
    static made_file pickle, list;
    made_tensor tensors[64];
    char keys[64][8], name[32];
    int used = 0;
    FILE *file = fopen(in_folder(shard_name(shard, "bin")), "wb");
    if (!file) abort();
    pickle.n = list.n = 0;
    for (int i = shard; i < n; i += SHARDS, used++) {
        const part *p = &parts[i];
        int is_turned = i % 2;
        sprintf(keys[used], "%d", used);
        tensors[used] = (made_tensor){p->name,
                                      "FloatStorage",
                                      keys[used],
                                      count(p),
                                      0,
                                      {p->shape[0], p->shape[1]},
                                      {is_turned ? 1 : p->shape[1], is_turned ? p->shape[0] : 1}};
        if (p->n_dims == 1) tensors[used].stride[0] = 1, tensors[used].shape[1] = 0;
    }
    put_tensors(&pickle, tensors, used);
    write_entry(file, &list, "x/data.pkl", pickle.bytes, (int64_t)pickle.n);
    for (int i = 0; i < used; i++) {
        sprintf(name, "x/data/%d", i);
        write_entry(file, &list, name, NULL, 4 * tensors[i].numbers);
    }
    put_end(&list, used + 1, list.n, (uint64_t)ftell(file));
    if (fwrite(list.bytes, 1, list.n, file) != list.n || fclose(file)) abort();
}

static void write_torch(const part *parts, int n) {
    for (int shard = 0; shard < SHARDS; shard++) write_torch_shard(parts, n, shard);
    write_index(parts, n, "pytorch_model.bin.index.json", "bin");
}

/* In a process of its own: the memory that a child begins with counts as its own. */
static void make_folder(void (*write_weights)(const part *parts, int n)) {
    static part parts[512];
    char text[512];
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < CHUNK; i++) numbers[i] = (float)(i % 61 - 30) / 16;
        snprintf(text, sizeof text,
                 "{\"model_type\": \"bert\", \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d,"
                 " \"num_attention_heads\": 16, \"vocab_size\": %d, \"max_position_embeddings\": %d,"
                 " \"type_vocab_size\": 2, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-12}\n",
                 HIDDEN, FEED_FORWARD, BLOCKS, VOCABULARY, POSITIONS);
        write_text("config.json", text);
        write_text("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n");
        write_weights(parts, list_parts(parts));
        _exit(0);
    }
    int status;
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void convert_in_little_memory(void (*write_weights)(const part *parts, int n)) {
    const double largest = 4.0 * VOCABULARY * HIDDEN, most = 1.3 * largest + 100e6;
    const char *program = getenv("CONVERT");
    struct rusage used;
    int status;
    assert_non_null(program);
    make_folder(write_weights);
    pid_t child = fork();
    if (!child) {
        char output[256];
        snprintf(output, sizeof output, "%s", in_folder("model.gguf"));
        execl(program, program, folder, "-o", output, "--type", "f16", "--quiet", (char *)NULL);
        _exit(127);
    }
    assert_true(child > 0 && wait4(child, &status, 0, &used) == child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    struct stat facts;
    assert_int_equal(stat(in_folder("model.gguf"), &facts), 0);
    print_message("# peak %.0f MB of at most %.0f MB; the file has %.0f MB\n", (double)used.ru_maxrss * 1024 / 1e6,
                  most / 1e6, (double)facts.st_size / 1e6);
    assert_true(facts.st_size > 900000000);
    assert_true((double)used.ru_maxrss * 1024 <= most);
}

static void safetensors_shards(void **state) {
    (void)state;
    convert_in_little_memory(write_safetensors);
}

static void torch_shards(void **state) {
    (void)state;
    convert_in_little_memory(write_torch);
}

static int start(void **state) {
    (void)state;
    return system(NULL) && mkdir(folder, 0700) ? -1 : 0;
}

static int finish(void **state) {
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(safetensors_shards, start, finish),
        cmocka_unit_test_setup_teardown(torch_shards, start, finish),
    };
    if (!mkdtemp(folder) || rmdir(folder)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
