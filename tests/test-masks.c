/*
 * tests/test-masks.c - subnetworks in memory and in files: bit planes against one bit at a time, and what a file with
 * masks must look like
 */
#define _XOPEN_SOURCE 700

#include "tests/small-sparse.h"

#include <pthread.h>
#include <unistd.h>

enum { HIDDEN = 20, N_TEXTS = 80 }; /* rows of 20 and 40 bits, of 64 in the file */

static int set_up(void **state) {
    const small_options options = {.hidden = HIDDEN};
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), &options));
    small_train(in_folder("sparse.gguf"), in_folder("encoder.gguf"), CBM_JOINT, "random", 0.6, 2, N_TEXTS);
    return 0;
}

static int tear_down(void **state) {
    return remove_folder(state);
}

static void assert_refused(const char *path, const char *words) {
    cbm_model *model;
    assert_error(cbm_model_load(&model, path, NULL), SCBM_ERROR_FORMAT, words);
    assert_null(model);
    assert_non_null(strstr(scbm_last_error(), path));
}

/* ------------------------------------------------------------------------------------------
 * Bit planes
 * ---------------------------------------------------------------------------------------- */

/* Masks of a matrix [out, in] with garbage everywhere. */
static scbm_tensor make_masks(int n, int64_t out, int64_t in) {
    scbm_tensor masks = small_masks(n, out, in);
    memset(masks.data, 0xa5, scbm_tensor_bytes(&masks));
    return masks;
}

static int bit_of(const scbm_tensor *masks, int stream, int64_t row, int64_t column) {
    return ((const uint8_t *)masks->data)[(stream * masks->shape[1] + row) * masks->shape[2] + column / 8] >> (column % 8) & 1;
}

/* Every bit by chance, the padding zero. */
static void fill_randomly(scbm_tensor *masks, int64_t in, uint64_t seed) {
    scbm_random random = {seed, 1, 0};
    for (int s = 0; s < (int)masks->shape[0]; s++) {
        cbm_mask_fill(masks, s, in);
        for (int64_t row = 0; row < masks->shape[1]; row++)
            for (int64_t j = 0; j < in; j++) cbm_mask_set(cbm_mask_row(masks, s, row), j, scbm_random_uniform(&random) < 0.4);
    }
}

static const int64_t widths[] = {1, 7, 8, 13, 63, 64, 65, 100};
enum { N_WIDTHS = sizeof widths / sizeof widths[0], STREAMS = 5, ROWS = 3 };

static void a_filled_mask_keeps_every_weight_and_no_padding(void **state) {
    (void)state;
    for (int w = 0; w < N_WIDTHS; w++) {
        scbm_tensor masks = make_masks(2, ROWS, widths[w]);
        memset(masks.data, 0, scbm_tensor_bytes(&masks));
        cbm_mask_fill(&masks, 1, widths[w]);
        assert_int_equal(cbm_mask_kept(&masks, 0), 0);
        assert_int_equal(cbm_mask_kept(&masks, 1), ROWS * widths[w]);
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t j = 0; j < 8 * masks.shape[2]; j++)
                assert_int_equal(bit_of(&masks, 1, row, j), j < widths[w]);
        free(masks.data);
    }
}

static void one_bit_is_set_and_cleared_alone(void **state) {
    (void)state;
    scbm_tensor masks = make_masks(2, ROWS, 70), before = make_masks(2, ROWS, 70);
    fill_randomly(&masks, 70, 3);
    memcpy(before.data, masks.data, scbm_tensor_bytes(&masks));
    uint8_t *row = cbm_mask_row(&masks, 1, 2);
    for (int64_t j = 0; j < 70; j++) {
        int was = cbm_mask_get(row, j);
        assert_int_equal(was, bit_of(&masks, 1, 2, j));
        cbm_mask_set(row, j, !was);
        assert_int_equal(bit_of(&masks, 1, 2, j), !was);
        cbm_mask_set(row, j, !was);
        cbm_mask_set(row, j, was);
        assert_memory_equal(masks.data, before.data, scbm_tensor_bytes(&masks));
    }
    free(masks.data);
    free(before.data);
}

static void counts_are_those_of_bits_one_by_one(void **state) {
    (void)state;
    for (int w = 0; w < N_WIDTHS; w++) {
        scbm_tensor masks = make_masks(STREAMS, ROWS, widths[w]);
        int64_t shared[STREAMS + 1] = {0}, own[STREAMS] = {0}, wanted_shared[STREAMS + 1] = {0}, wanted_own[STREAMS] = {0};
        fill_randomly(&masks, widths[w], (uint64_t)w);
        for (int64_t row = 0; row < ROWS; row++) {
            for (int64_t j = 0; j < widths[w]; j++) {
                int n = 0;
                for (int s = 0; s < STREAMS; s++) n += bit_of(&masks, s, row, j);
                wanted_shared[n]++;
                for (int s = 0; s < STREAMS && n == 1; s++) wanted_own[s] += bit_of(&masks, s, row, j);
            }
        }
        cbm_mask_sharing(&masks, shared, own);
        for (int n = 1; n <= STREAMS; n++) assert_int_equal(shared[n], wanted_shared[n]);
        for (int s = 0; s < STREAMS; s++) {
            assert_int_equal(own[s], wanted_own[s]);
            assert_int_equal(cbm_mask_kept(&masks, s), small_count_kept(&masks, s, widths[w]));
        }
        for (int a = 0; a < STREAMS; a++) {
            for (int b = 0; b < STREAMS; b++) {
                int64_t both, either, wanted_both = 0, wanted_either = 0;
                for (int64_t row = 0; row < ROWS; row++) {
                    for (int64_t j = 0; j < widths[w]; j++) {
                        wanted_both += bit_of(&masks, a, row, j) && bit_of(&masks, b, row, j);
                        wanted_either += bit_of(&masks, a, row, j) || bit_of(&masks, b, row, j);
                    }
                }
                cbm_mask_overlap(&masks, a, b, &both, &either);
                assert_int_equal(cbm_mask_difference(&masks, a, &masks, b), wanted_either - wanted_both);
                assert_int_equal(both, wanted_both);
                assert_int_equal(either, wanted_either);
            }
        }
        free(masks.data);
    }
    assert_true(cbm_mask_iou(3, 4) == 0.75);
    assert_true(cbm_mask_iou(0, 0) == 1.0); /* two empty subnetworks are the same */
}

static void masks_are_named_after_their_weights(void **state) {
    (void)state;
    char name[SCBM_MAX_NAME], longest[SCBM_MAX_NAME];
    scbm_tensor weight;
    const int64_t shape[2] = {2, 2};
    assert_ok(scbm_tensor_init(&weight, "blk.11.ffn_down.weight", SCBM_F32, 2, shape));
    cbm_masks_name(name, &weight);
    assert_string_equal(name, "blk.11.ffn_down.masks");
    assert_ok(scbm_tensor_init(&weight, "odd", SCBM_F32, 2, shape));
    cbm_masks_name(name, &weight);
    assert_string_equal(name, "odd.masks");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_ok(scbm_tensor_init(&weight, longest, SCBM_F32, 2, shape));
    cbm_masks_name(name, &weight);
    assert_int_equal(strlen(name), SCBM_MAX_NAME - 1);
    assert_true(cbm_is_masks_name(name));
    assert_true(cbm_is_masks_name("blk.0.attn_q.masks"));
    assert_false(cbm_is_masks_name("blk.0.attn_q.weight"));
    assert_false(cbm_is_masks_name("masks"));
}

/* ------------------------------------------------------------------------------------------
 * Backbones
 * ---------------------------------------------------------------------------------------- */

static void every_matrix_of_the_blocks_gets_masks_of_ones(void **state) {
    (void)state;
    cbm_model *encoder = load(in_folder("encoder.gguf"));
    cbm_backbone copy;
    assert_int_equal(cbm_masks_streams(&encoder->network.backbone), 0);
    assert_error(cbm_masks_create(&encoder->network.backbone, 2, NULL), SCBM_ERROR_ARGUMENT, "2 masks");
    assert_ok(cbm_backbone_copy(&copy, &encoder->network.backbone, NULL));
    assert_error(cbm_masks_create(&copy, 0, NULL), SCBM_ERROR_ARGUMENT, "0 masks");
    assert_ok(cbm_masks_create(&copy, 3, NULL));
    assert_int_equal(cbm_masks_streams(&copy), 3);
    int n = 0;
    for (int i = 0; i < copy.n_parameters; i++) {
        const cbm_parameter *p = &copy.parameters[i];
        int is_matrix = p->block >= 0 && p->tensor->n_dims == 2;
        assert_int_equal(cbm_is_prunable(p), is_matrix);
        assert_int_equal(p->masks != NULL, is_matrix);
        if (!is_matrix) continue;
        n++;
        for (int s = 0; s < 3; s++) assert_int_equal(cbm_mask_kept(p->masks, s), scbm_tensor_elements(p->tensor));
    }
    assert_int_equal(n, 6 * SMALL_LAYERS);
    assert_int_equal(cbm_masks_weights(&copy, 0), 8 * HIDDEN * HIDDEN);
    assert_int_equal(cbm_masks_weights(&copy, -1), SMALL_LAYERS * 8 * HIDDEN * HIDDEN);
    assert_true(cbm_masks_density(&copy, 2, -1) == 1.0 && cbm_masks_overlap(&copy, 0, 2, 1) == 1.0);
    cbm_backbone_clear(&copy, NULL);
    cbm_model_free(encoder);
}

static void density_and_overlap_count_the_blocks_asked_for(void **state) {
    (void)state;
    cbm_model *encoder = load(in_folder("encoder.gguf"));
    cbm_backbone copy;
    assert_ok(cbm_backbone_copy(&copy, &encoder->network.backbone, NULL));
    assert_ok(cbm_masks_create(&copy, 2, NULL));
    /* In block 1 stream 0 loses its query matrix and stream 1 its value matrix: 7/8 each, 6/8 in common. */
    memset(cbm_mask_row(cbm_backbone_find(&copy, CBM_QUERY, 1)->masks, 0, 0), 0, HIDDEN * 8);
    memset(cbm_mask_row(cbm_backbone_find(&copy, CBM_VALUE, 1)->masks, 1, 0), 0, HIDDEN * 8);
    for (int s = 0; s < 2; s++) {
        assert_true(cbm_masks_density(&copy, s, 0) == 1.0);
        assert_true(cbm_masks_density(&copy, s, 1) == 7.0 / 8);
        assert_true(cbm_masks_density(&copy, s, -1) == 15.0 / 16);
    }
    assert_true(cbm_masks_overlap(&copy, 0, 1, 0) == 1.0);
    assert_true(cbm_masks_overlap(&copy, 0, 1, 1) == 6.0 / 8);
    assert_true(cbm_masks_overlap(&copy, 1, 0, -1) == 14.0 / 16);
    cbm_backbone_clear(&copy, NULL);
    cbm_model_free(encoder);
}

static void packed_masks_of_a_copy_are_freed_with_it(void **state) {
    (void)state;
    counting_allocator allocator = {0};
    const scbm_hooks hooks = allocator_hooks(&allocator);
    cbm_model *encoder = load(in_folder("encoder.gguf"));
    cbm_backbone copy;
    assert_ok(cbm_backbone_copy(&copy, &encoder->network.backbone, &hooks));
    assert_ok(cbm_masks_create(&copy, 2, &hooks));
    const long before = allocator.held;
    for (int few = 0; few < 2; few++) assert_ok(cbm_masks_pack(&copy, few, &hooks));
    assert_true(allocator.held > before);
    cbm_backbone_clear(&copy, &hooks);
    assert_int_equal(allocator.held, 0);
    cbm_model_free(encoder);
}

static void no_memory_for_masks_is_an_error(void **state) {
    (void)state;
    cbm_model *encoder = load(in_folder("encoder.gguf"));
    int failures = 0;
    for (long at = 1;; at++) {
        counting_allocator allocator = {0};
        const scbm_hooks hooks = allocator_hooks(&allocator);
        cbm_backbone copy;
        assert_ok(cbm_backbone_copy(&copy, &encoder->network.backbone, &hooks));
        allocator.fails_at = allocator.n + at;
        scbm_status status = cbm_masks_create(&copy, 2, &hooks);
        cbm_backbone_clear(&copy, &hooks);
        assert_int_equal(allocator.held, 0);
        if (!status) break;
        assert_int_equal(status, SCBM_ERROR_MEMORY);
        failures++;
    }
    assert_int_equal(failures, 2 * 6 * SMALL_LAYERS);
    cbm_model_free(encoder);
}

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

static void a_sparse_file_has_the_masks_that_were_made(void **state) {
    (void)state;
    cbm_model *model = load(in_folder("sparse.gguf"));
    const cbm_backbone *backbone = &model->network.backbone;
    assert_true(cbm_model_is_sparse(model));
    assert_int_equal(cbm_model_n_blocks(model), SMALL_LAYERS);
    for (int i = 0; i < backbone->n_parameters; i++) {
        const cbm_parameter *p = &backbone->parameters[i];
        if (!cbm_is_prunable(p)) continue;
        int64_t n = scbm_tensor_elements(p->tensor);
        for (int k = 0; k < SMALL_CONCEPTS; k++)
            assert_int_equal(small_count_kept(p->masks, k, p->tensor->shape[1]), n - (int64_t)floor(0.6 * (double)n + 0.5));
    }
    for (int block = -1; block < SMALL_LAYERS; block++) {
        assert_true(cbm_model_density(model, 0, block) == 0.4);
        double iou = cbm_model_overlap(model, 0, 1, block);
        assert_true(iou > 0.15 && iou < 0.35); /* by chance 0.16 of 0.64 */
        assert_true(iou == cbm_model_overlap(model, 1, 0, block));
        assert_true(cbm_model_overlap(model, 1, 1, block) == 1.0);
    }
    assert_true(cbm_model_density(model, SMALL_CONCEPTS, -1) == 0.0);
    assert_true(cbm_model_overlap(model, 0, -1, -1) == 0.0);
    cbm_model_free(model);
}

static int drop_masks(void *user, scbm_tensor *tensor) {
    (void)user;
    return !cbm_is_masks_name(tensor->name);
}

/* What a concept's subnetwork is: every prunable weight that its mask has not is 0. */
typedef struct folding {
    const cbm_model *model;
    int concept;
} folding;

static int fold_mask(void *user, scbm_tensor *tensor) {
    const folding *f = user;
    const cbm_parameter *parameter = cbm_backbone_named(&f->model->network.backbone, tensor->name);
    if (cbm_is_masks_name(tensor->name)) return 0;
    if (!parameter || !parameter->masks) return 1;
    float *w = tensor->data;
    for (int64_t row = 0; row < tensor->shape[0]; row++)
        for (int64_t j = 0; j < tensor->shape[1]; j++)
            if (!bit_of(parameter->masks, f->concept, row, j)) w[row * tensor->shape[1] + j] = 0.0f;
    return 1;
}

static void predict_texts(const cbm_model *model, cbm_context **ctx, cbm_prediction p[N_TEXTS]) {
    cbm_dataset data;
    assert_ok(small_data(&data, 0, N_TEXTS));
    assert_ok(cbm_context_create(ctx, model, NULL));
    assert_ok(predict_values(*ctx, (const char *const *)data.text, data.text_length, data.n, p));
    cbm_dataset_clear(&data);
}

static void each_concept_reads_through_its_own_subnetwork(void **state) {
    (void)state;
    cbm_model *sparse = load(in_folder("sparse.gguf"));
    cbm_context *ctx, *other;
    cbm_prediction p[N_TEXTS], q[N_TEXTS];
    predict_texts(sparse, &ctx, p);
    for (int k = 0; k < SMALL_CONCEPTS; k++) {
        folding f = {sparse, k};
        double largest = 0.0, others = 0.0;
        assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("folded.gguf"), fold_mask, &f));
        cbm_model *folded = load(in_folder("folded.gguf"));
        assert_false(cbm_model_is_sparse(folded));
        assert_true(cbm_model_density(folded, k, 0) == 1.0 && cbm_model_overlap(folded, 0, 1, -1) == 1.0);
        predict_texts(folded, &other, q);
        for (int i = 0; i < N_TEXTS; i++) {
            for (int c = 0; c < p[i].concepts[k].n_classes; c++)
                largest = fmax(largest, fabs((double)p[i].concepts[k].logits[c] - (double)q[i].concepts[k].logits[c]));
            others = fmax(others, fabs((double)p[i].concepts[1 - k].logits[0] - (double)q[i].concepts[1 - k].logits[0]));
        }
        assert_true(largest < 1e-5);
        assert_true(others > 1e-2); /* the other concept has another subnetwork */
        cbm_context_free(other);
        cbm_model_free(folded);
    }
    cbm_context_free(ctx);
    cbm_model_free(sparse);
}

static int n_packed(const cbm_model *model, int few) {
    int n = 0;
    for (int i = 0; i < model->network.backbone.n_parameters; i++) {
        const scbm_tensor *masks = model->network.backbone.parameters[i].masks;
        n += masks && masks->packed[few];
    }
    return n;
}

static void *predict_twice(void *model) {
    cbm_context *ctx;
    cbm_prediction p[N_TEXTS];
    for (int round = 0; round < 2; round++) {
        predict_texts(model, &ctx, p);
        if (round == 0) cbm_context_free(ctx);
    }
    return ctx;
}

/* A text alone is read from lists, and with the same bits. */
static void threads_pack_the_masks_of_a_model_that_they_share(void **state) {
    enum { N_THREADS = 4, N_MATRICES = 6 * SMALL_LAYERS };
    cbm_context *ctx;
    cbm_dataset data;
    cbm_prediction p;
    pthread_t thread[N_THREADS];
    void *done[N_THREADS];
    size_t width = SMALL_CLASSES;
    (void)state;
    cbm_model *model = load(in_folder("sparse.gguf"));
    float *alone = scbm_alloc(NULL, N_TEXTS * width * sizeof *alone);
    assert_ok(small_data(&data, 0, N_TEXTS));
    assert_ok(cbm_context_create(&ctx, model, NULL));
    for (size_t i = 0; i < N_TEXTS; i++) {
        assert_ok(predict_value(ctx, data.text[i], &p));
        memcpy(alone + i * width, ctx->logits, width * sizeof *alone);
    }
    const int has_lists = n_packed(model, 1) > 0; /* for texts alone, on machines that have them */
    assert_int_equal(n_packed(model, 1), has_lists ? N_MATRICES : 0);
    assert_int_equal(n_packed(model, 0), 0);
    for (int t = 0; t < N_THREADS; t++) assert_int_equal(pthread_create(&thread[t], NULL, predict_twice, model), 0);
    for (int t = 0; t < N_THREADS; t++) assert_int_equal(pthread_join(thread[t], &done[t]), 0);
    assert_int_equal(n_packed(model, 0), N_MATRICES);
    for (int t = 0; t < N_THREADS; t++) {
        assert_memory_equal(((cbm_context *)done[t])->logits, alone, N_TEXTS * width * sizeof *alone);
        cbm_context_free(done[t]);
    }
    cbm_context_free(ctx);
    cbm_dataset_clear(&data);
    scbm_release(NULL, alone);
    cbm_model_free(model);
}

static void packed_masks_are_freed_with_the_model_or_not_made(void **state) {
    counting_allocator allocator = {0};
    const scbm_hooks hooks = allocator_hooks(&allocator);
    cbm_context *ctx;
    cbm_prediction p[N_TEXTS];
    (void)state;
    cbm_model *model = load_with(in_folder("sparse.gguf"), &hooks);
    predict_texts(model, &ctx, p);
    assert_true(n_packed(model, 0) > 0);
    cbm_context_free(ctx);
    cbm_model_free(model);
    assert_int_equal(allocator.held, 0);
    const cbm_load_options options = {.unpacked = 1};
    assert_ok(cbm_model_load(&model, in_folder("sparse.gguf"), &options));
    predict_texts(model, &ctx, p);
    assert_int_equal(n_packed(model, 0), 0);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* An allocation that fails is an error, or, where masks are packed, none: the predictions are the same then. */
static void masks_that_cannot_be_packed_are_read_as_they_are(void **state) {
    enum { N_MATRICES = 6 * SMALL_LAYERS };
    cbm_context *reference, *ctx;
    cbm_prediction wanted[N_TEXTS], p[N_TEXTS];
    cbm_dataset data;
    int n_unpacked = 0, fails = 1;
    (void)state;
    cbm_model *whole = load(in_folder("sparse.gguf"));
    predict_texts(whole, &reference, wanted);
    assert_ok(small_data(&data, 0, N_TEXTS));
    for (long at = 1; fails; at++) {
        counting_allocator allocator = {0};
        const scbm_hooks hooks = allocator_hooks(&allocator);
        cbm_model *model = load_with(in_folder("sparse.gguf"), &hooks);
        assert_ok(cbm_context_create(&ctx, model, NULL));
        allocator.fails_at = allocator.n + at;
        scbm_status status = predict_values(ctx, (const char *const *)data.text, data.text_length, data.n, p);
        fails = allocator.n >= allocator.fails_at;
        if (status == SCBM_OK) {
            assert_memory_equal(ctx->logits, reference->logits, N_TEXTS * SMALL_CLASSES * sizeof(float));
            n_unpacked += n_packed(model, 0) < N_MATRICES;
        } else assert_int_equal(status, SCBM_ERROR_MEMORY);
        cbm_context_free(ctx);
        cbm_model_free(model);
        assert_int_equal(allocator.held, 0);
    }
    assert_int_equal(n_unpacked, N_MATRICES);
    cbm_context_free(reference);
    cbm_dataset_clear(&data);
    cbm_model_free(whole);
}

static void embeddings_are_those_of_the_shared_encoder(void **state) {
    (void)state;
    static const char *const texts[] = {"the soup was tasty", "rude"};
    float vectors[2][2 * HIDDEN];
    assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("dense.gguf"), drop_masks, NULL));
    for (int i = 0; i < 2; i++) {
        cbm_model *model = load(in_folder(i ? "dense.gguf" : "sparse.gguf"));
        assert_int_equal(cbm_model_is_sparse(model), i == 0);
        cbm_context *ctx = context_for(model);
        assert_ok(cbm_embed_batch(ctx, texts, NULL, 2, CBM_POOL_MEAN, 0, vectors[i], NULL));
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
    assert_memory_equal(vectors[0], vectors[1], sizeof vectors[0]);
}

static int same_class(const cbm_prediction *p, const cbm_prediction *q) {
    int same = 0;
    for (int k = 0; k < SMALL_CONCEPTS; k++) same += p->concepts[k].class_index == q->concepts[k].class_index;
    return same;
}

static void quantized_weights_keep_their_masks(void **state) {
    (void)state;
    static const scbm_type types[] = {SCBM_F16, SCBM_BF16, SCBM_Q8_0};
    static const double bounds[] = {5e-3, 5e-2, 5e-2};
    const small_options options = {.hidden = 32}; /* whole blocks of 32 */
    assert_ok(small_encoder(in_folder("encoder32.gguf"), &options));
    small_train(in_folder("sparse32.gguf"), in_folder("encoder32.gguf"), CBM_JOINT, "magnitude", 0.5, 4,
                N_TEXTS);
    cbm_model *model = load(in_folder("sparse32.gguf"));
    cbm_context *ctx, *other;
    cbm_prediction p[N_TEXTS], q[N_TEXTS];
    predict_texts(model, &ctx, p);
    for (int t = 0; t < 3; t++) {
        int kept_f16 = -1, same = 0;
        double largest = 0.0;
        assert_ok(cbm_quantize(in_folder("sparse32.gguf"), in_folder("quantized.gguf"), types[t], NULL, &kept_f16));
        assert_int_equal(kept_f16, 0);
        cbm_model *quantized = load(in_folder("quantized.gguf"));
        for (int i = 0; i < model->network.backbone.n_parameters; i++) {
            const cbm_parameter *a = &model->network.backbone.parameters[i], *b = &quantized->network.backbone.parameters[i];
            assert_int_equal(a->masks != NULL, b->masks != NULL);
            if (!a->masks) continue;
            assert_int_equal(b->tensor->type, types[t]);
            assert_int_equal(b->masks->type, SCBM_I8);
            assert_memory_equal(a->masks->data, b->masks->data, scbm_tensor_bytes(a->masks));
        }
        predict_texts(quantized, &other, q);
        for (int i = 0; i < N_TEXTS; i++) {
            same += same_class(&p[i], &q[i]);
            for (int k = 0; k < SMALL_CONCEPTS; k++)
                largest = fmax(largest, fabs((double)p[i].concepts[k].logits[0] - (double)q[i].concepts[k].logits[0]));
        }
        if (largest > bounds[t]) fail_msg("%s: a logit is off by %g", scbm_type_of(types[t])->name, largest);
        assert_true(largest > 0.0 && same >= SMALL_CONCEPTS * N_TEXTS - 2);
        cbm_context_free(other);
        cbm_model_free(quantized);
    }
    cbm_context_free(ctx);
    cbm_model_free(model);
}

static void a_sparse_model_is_an_encoder_to_train_on(void **state) {
    (void)state;
    small_train(in_folder("again.gguf"), in_folder("sparse.gguf"), CBM_JOINT, NULL, 0.5, 1, N_TEXTS);
    cbm_model *model = load(in_folder("again.gguf"));
    assert_false(cbm_model_is_sparse(model));
    for (int64_t i = 0; i < scbm_file_n_tensors(model->file); i++)
        assert_false(cbm_is_masks_name(scbm_file_tensor(model->file, i)->name));
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * Files that are wrong
 * ---------------------------------------------------------------------------------------- */

#define VICTIM "blk.1.ffn_up.masks" /* [2, 40, 8]: rows of 20 bits */

enum { MISSING, FEWER_ROWS, FEWER_STREAMS, MORE_BYTES, FLAT, ANOTHER_TYPE, PADDING, LAST_PADDING, LAST_BIT };

static int damage(void *user, scbm_tensor *t) {
    int how = *(const int *)user;
    uint8_t *bits = t->data;
    if (strcmp(t->name, VICTIM) != 0) return 1;
    switch (how) {
    case MISSING: return 0;
    case FEWER_ROWS: t->shape[1]--; break;
    case FEWER_STREAMS: t->shape[0]--; break;
    case MORE_BYTES: t->shape[1] /= 2, t->shape[2] *= 2; break;
    case FLAT: t->n_dims = 2, t->shape[1] *= t->shape[2]; break;
    case ANOTHER_TYPE: t->type = SCBM_I32, t->shape[2] /= 4; break;
    case PADDING: bits[2] |= 1 << 4; break; /* bit 20 of the first row */
    case LAST_PADDING: bits[scbm_tensor_bytes(t) - 1] |= 0x80; break;
    default: bits[2] |= 1 << 3; break; /* bit 19: a weight */
    }
    return 1;
}

static void masks_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const char *const words[] = {"and blk.1.ffn_up.weight has none", "i8 [2, 39, 8], and must be i8 [2, 40, 8]",
                                        "[1, 40, 8]",                       "[2, 20, 16]",
                                        "[2, 320]",                         "is i32 [2, 40, 2], and must be i8 [2, 40, 8]",
                                        "past the end of row 0 of mask 0",  "past the end of row 39 of mask 1"};
    for (int how = MISSING; how <= LAST_PADDING; how++) {
        assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("damaged.gguf"), damage, &how));
        assert_refused(in_folder("damaged.gguf"), words[how]);
    }
    int how = LAST_BIT; /* the rows' last weights are no padding */
    assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("damaged.gguf"), damage, &how));
    cbm_model_free(load(in_folder("damaged.gguf")));
}

static int keep_encoder(void *user, scbm_tensor *t) {
    (void)user;
    return strncmp(t->name, "sparsecbm.", 10) != 0;
}

static void masks_without_concepts_are_refused(void **state) {
    (void)state;
    assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("damaged.gguf"), keep_encoder, NULL));
    assert_refused(in_folder("damaged.gguf"), "no concepts that they are for");
    /* A vanilla model, with masks from another file. */
    cbm_model *sparse = load(in_folder("sparse.gguf"));
    scbm_file *file;
    scbm_writer *writer;
    small_train(in_folder("vanilla.gguf"), in_folder("encoder.gguf"), CBM_VANILLA, NULL, 0.5, 1, N_TEXTS);
    assert_ok(scbm_file_open(&file, in_folder("vanilla.gguf"), NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++)
        scbm_writer_add_tensor(writer, scbm_file_tensor(file, i), scbm_file_tensor(file, i)->type);
    for (int i = 0; i < sparse->network.backbone.n_parameters; i++) {
        const scbm_tensor *masks = sparse->network.backbone.parameters[i].masks;
        if (masks) scbm_writer_add_tensor(writer, masks, masks->type);
    }
    assert_ok(scbm_writer_write(writer, in_folder("damaged.gguf")));
    scbm_writer_free(writer);
    scbm_file_close(file);
    cbm_model_free(sparse);
    assert_refused(in_folder("damaged.gguf"), "no concepts that they are for");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_filled_mask_keeps_every_weight_and_no_padding),
        cmocka_unit_test(one_bit_is_set_and_cleared_alone),
        cmocka_unit_test(counts_are_those_of_bits_one_by_one),
        cmocka_unit_test(masks_are_named_after_their_weights),
        cmocka_unit_test(every_matrix_of_the_blocks_gets_masks_of_ones),
        cmocka_unit_test(density_and_overlap_count_the_blocks_asked_for),
        cmocka_unit_test(packed_masks_of_a_copy_are_freed_with_it),
        cmocka_unit_test(no_memory_for_masks_is_an_error),
        cmocka_unit_test(a_sparse_file_has_the_masks_that_were_made),
        cmocka_unit_test(each_concept_reads_through_its_own_subnetwork),
        cmocka_unit_test(threads_pack_the_masks_of_a_model_that_they_share),
        cmocka_unit_test(packed_masks_are_freed_with_the_model_or_not_made),
        cmocka_unit_test(masks_that_cannot_be_packed_are_read_as_they_are),
        cmocka_unit_test(embeddings_are_those_of_the_shared_encoder),
        cmocka_unit_test(quantized_weights_keep_their_masks),
        cmocka_unit_test(a_sparse_model_is_an_encoder_to_train_on),
        cmocka_unit_test(masks_that_do_not_fit_are_refused),
        cmocka_unit_test(masks_without_concepts_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
