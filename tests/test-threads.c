/*
 * tests/test-threads.c - several contexts on one model at the same time, each with threads of its own through the
 * parallel_for hook: what `make test-tsan` watches
 */
#define _XOPEN_SOURCE 700

#include "tests/small-sparse.h"

#include <pthread.h>
#include <stdatomic.h>

enum { N_CONTEXTS = 2, POOL = 2, N_TEXTS = 6, TAPE = 4000 };

static const char *texts[N_TEXTS];
static char text_memory[N_TEXTS][200];

static int set_up(void **state) {
    const small_options options = {.hidden = 32};
    int32_t classes[SMALL_CONCEPTS], label;
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), &options));
    small_train(in_folder("sparse.gguf"), in_folder("encoder.gguf"), CBM_JOINT, "random", 0.6, 2, 48);
    for (int i = 0; i < N_TEXTS; i++) {
        small_text(text_memory[i], sizeof text_memory[i], 2000 + (uint64_t)i, classes, &label);
        texts[i] = text_memory[i];
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * A pool of threads
 * ---------------------------------------------------------------------------------------- */

typedef struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread[POOL];
    scbm_task task;
    void *arg;
    int64_t n;
    uint64_t round; /* counts the loops */
    int running, ends;
    atomic_int_fast64_t next;
    int64_t calls; /* loops that were shared out */
    atomic_int is_cancelled;
} pool;

typedef struct pool_thread {
    pool *pool;
    int worker;
} pool_thread;

static _Thread_local int own_worker = -1; /* inside a task: a loop that it begins is its own worker's */

static void run_tasks(pool *p, int worker) {
    own_worker = worker;
    for (int64_t i; (i = atomic_fetch_add(&p->next, 1)) < p->n;) p->task(p->arg, i, worker);
    own_worker = -1;
}

static void *wait_for_work(void *arg) {
    const pool_thread *t = arg;
    pool *p = t->pool;
    for (uint64_t round = 0;;) {
        pthread_mutex_lock(&p->lock);
        while (p->round == round && !p->ends) pthread_cond_wait(&p->work, &p->lock);
        round = p->round;
        int ends = p->ends;
        pthread_mutex_unlock(&p->lock);
        if (ends) return NULL;
        run_tasks(p, t->worker);
        pthread_mutex_lock(&p->lock);
        if (--p->running == 0) pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void share_out(void *user, int64_t n, scbm_task task, void *arg) {
    pool *p = user;
    if (own_worker >= 0) {
        for (int64_t i = 0; i < n; i++) task(arg, i, own_worker);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->arg = arg;
    p->n = n;
    atomic_store(&p->next, 0);
    p->running = POOL - 1;
    p->round++;
    p->calls++;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    run_tasks(p, 0);
    pthread_mutex_lock(&p->lock);
    while (p->running) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static int is_cancelled(void *user) {
    pool *p = user;
    return atomic_load(&p->is_cancelled);
}

static void start_pool(pool *p, pool_thread *threads) {
    memset(p, 0, sizeof *p);
    assert_int_equal(pthread_mutex_init(&p->lock, NULL), 0);
    assert_int_equal(pthread_cond_init(&p->work, NULL), 0);
    assert_int_equal(pthread_cond_init(&p->done, NULL), 0);
    for (int i = 1; i < POOL; i++) { /* worker 0 is the thread that calls */
        threads[i] = (pool_thread){p, i};
        assert_int_equal(pthread_create(&p->thread[i], NULL, wait_for_work, &threads[i]), 0);
    }
}

static void end_pool(pool *p) {
    pthread_mutex_lock(&p->lock);
    p->ends = 1;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < POOL; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
}

/* ------------------------------------------------------------------------------------------
 * What one thread does, and the numbers that come out of it
 * ---------------------------------------------------------------------------------------- */

typedef struct job {
    const cbm_model *model;
    scbm_hooks hooks;
    scbm_precision precision;
    pthread_barrier_t *start; /* NULL: alone */
    double tape[TAPE];
    int n;
    scbm_status status;
    char error[600];
} job;

static void note(job *j, double number) {
    if (j->n < TAPE) j->tape[j->n++] = number;
}

static void note_prediction(job *j, const cbm_prediction *p) {
    for (int y = 0; y < p->n_labels; y++) note(j, (double)p->logits[y]);
    for (int k = 0; k < p->n_concepts; k++)
        for (int c = 0; c < p->concepts[k].n_classes; c++) note(j, (double)p->concepts[k].logits[c]);
}

static void note_explanation(job *j, const cbm_explanation *x) {
    for (int k = 0; k < x->n_concepts; k++) {
        const cbm_explained_logit *logit = &x->concepts[k].logit;
        note(j, (double)logit->value);
        note(j, (double)logit->baseline);
        for (int m = 0; m < x->n_methods; m++)
            for (int t = 0; t < x->n_tokens && logit->tokens[m]; t++) note(j, (double)logit->tokens[m][t]);
        for (int i = 0; i < x->concepts[k].n_neurons; i++) note(j, (double)x->concepts[k].neurons[i].saliency);
    }
    for (int m = 0; m < x->subnetworks->n_matrices; m++) note(j, x->subnetworks->matrices[m].rows);
}

static scbm_status use_text(job *j, cbm_context *ctx, const char *text) {
    static const char *const staff[] = {"kind", "rude"};
    const cbm_explain_options explain = {.steps = 4, .max_steps = -1};
    const cbm_prediction *prediction;
    const cbm_explanation *explanation;
    scbm_status status = cbm_explain(ctx, text, &explain, &explanation);
    if (status) return status;
    note_explanation(j, explanation);
    status = cbm_predict(ctx, text, &prediction);
    if (status) return status;
    note_prediction(j, prediction);
    const char *other = staff[prediction->concepts[1].class_index == 0];
    const cbm_intervention *result;
    status = cbm_intervene_report(ctx, "staff", other, NULL, &result);
    if (status) return status;
    note(j, (double)result->moved_bits);
    note_prediction(j, result->after);
    cbm_intervene_reset(ctx);
    return SCBM_OK;
}

static scbm_status use_model(job *j, cbm_context *ctx) {
    const cbm_prediction *const *predictions;
    const cbm_intervention *refused;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < N_TEXTS && !status; i++) status = use_text(j, ctx, texts[i]);
    if (!status) status = cbm_predict_batch(ctx, texts, NULL, N_TEXTS, &predictions);
    for (int i = 0; i < N_TEXTS && !status; i++) note_prediction(j, predictions[i]);
    for (int k = 0; k < SMALL_CONCEPTS && !status; k++) note(j, cbm_model_density(j->model, k, -1));
    if (!status && cbm_intervene_report(ctx, "nobody", "kind", NULL, &refused) != SCBM_ERROR_ARGUMENT)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "an unknown concept was taken");
    if (!status && !strstr(cbm_context_error(ctx), "nobody"))
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "another context's error: %.300s", cbm_context_error(ctx));
    return status;
}

static void *do_job(void *arg) {
    job *j = arg;
    cbm_context *ctx = NULL;
    const cbm_context_options options = {.hooks = &j->hooks, .precision = j->precision};
    if (j->start) pthread_barrier_wait(j->start);
    j->status = cbm_context_create(&ctx, j->model, &options);
    if (!j->status) j->status = use_model(j, ctx);
    if (j->status) snprintf(j->error, sizeof j->error, "%s", cbm_last_error());
    cbm_context_free(ctx);
    return NULL;
}

/* The same, by one thread, on a model of its own. */
static void do_alone(job *j, scbm_precision precision) {
    cbm_model *model = load(in_folder("sparse.gguf"));
    memset(j, 0, sizeof *j);
    j->model = model;
    j->hooks = one_thread;
    j->precision = precision;
    do_job(j);
    cbm_model_free(model);
    if (j->status) fail_msg("alone: %s", j->error);
    assert_true(j->n > 200 && j->n < TAPE);
}

/* ------------------------------------------------------------------------------------------
 * Tests
 * ---------------------------------------------------------------------------------------- */

/* The contexts begin together on a model that nothing has been derived from yet: its masks are packed by whoever is first. */
static void contexts_on_one_model_compute_the_bits_of_one(void **state) {
    (void)state;
    static job alone, together[N_CONTEXTS];
    static const scbm_precision precisions[] = {SCBM_PRECISION_F32, SCBM_PRECISION_BF16};
    for (int round = 0; round < 2; round++) {
        pool pools[N_CONTEXTS];
        pool_thread threads[N_CONTEXTS][POOL];
        pthread_t thread[N_CONTEXTS];
        pthread_barrier_t start;
        do_alone(&alone, precisions[round]);
        cbm_model *model = load(in_folder("sparse.gguf"));
        pthread_barrier_init(&start, NULL, N_CONTEXTS);
        for (int i = 0; i < N_CONTEXTS; i++) {
            start_pool(&pools[i], threads[i]);
            memset(&together[i], 0, sizeof together[i]);
            together[i].model = model;
            together[i].precision = precisions[round];
            together[i].hooks = (scbm_hooks){.user = &pools[i], .parallel_for = share_out, .n_workers = POOL};
            together[i].start = &start;
            assert_int_equal(pthread_create(&thread[i], NULL, do_job, &together[i]), 0);
        }
        for (int i = 0; i < N_CONTEXTS; i++) pthread_join(thread[i], NULL);
        pthread_barrier_destroy(&start);
        cbm_model_free(model);
        for (int i = 0; i < N_CONTEXTS; i++) {
            end_pool(&pools[i]);
            if (together[i].status) fail_msg("context %d: %s", i, together[i].error);
            assert_int_equal(together[i].n, alone.n);
            assert_memory_equal(together[i].tape, alone.tape, (size_t)alone.n * sizeof alone.tape[0]);
            assert_true(pools[i].calls > 0);
        }
    }
}

typedef struct request {
    const cbm_model *model;
    pool *pool;
    atomic_int n; /* predictions that are done */
    scbm_status status;
} request;

/* Predicts again and again, until it is cancelled. */
static void *predict_on(void *arg) {
    request *r = arg;
    cbm_context *ctx = NULL;
    const scbm_hooks hooks = {.user = r->pool, .cancel = is_cancelled, .parallel_for = share_out, .n_workers = POOL};
    const cbm_context_options options = {.hooks = &hooks};
    const cbm_prediction *prediction;
    r->status = cbm_context_create(&ctx, r->model, &options);
    for (int i = 0; !r->status; i++) {
        r->status = cbm_predict(ctx, texts[i % N_TEXTS], &prediction);
        atomic_fetch_add(&r->n, 1);
    }
    cbm_context_free(ctx);
    return NULL;
}

static void one_of_two_requests_can_be_cancelled(void **state) {
    (void)state;
    static request requests[N_CONTEXTS];
    pool pools[N_CONTEXTS];
    pool_thread threads[N_CONTEXTS][POOL];
    pthread_t thread[N_CONTEXTS];
    cbm_model *model = load(in_folder("sparse.gguf"));
    for (int i = 0; i < N_CONTEXTS; i++) {
        start_pool(&pools[i], threads[i]);
        requests[i].model = model;
        requests[i].pool = &pools[i];
        assert_int_equal(pthread_create(&thread[i], NULL, predict_on, &requests[i]), 0);
    }
    while (atomic_load(&requests[0].n) < 3 || atomic_load(&requests[1].n) < 3) sched_yield();
    atomic_store(&pools[0].is_cancelled, 1);
    pthread_join(thread[0], NULL);
    assert_int_equal(requests[0].status, SCBM_ERROR_CANCELLED);
    int n = atomic_load(&requests[1].n);
    while (atomic_load(&requests[1].n) < n + 3) sched_yield(); /* the other one goes on */
    atomic_store(&pools[1].is_cancelled, 1);
    pthread_join(thread[1], NULL);
    assert_int_equal(requests[1].status, SCBM_ERROR_CANCELLED);
    for (int i = 0; i < N_CONTEXTS; i++) end_pool(&pools[i]);
    cbm_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_on_one_model_compute_the_bits_of_one),
        cmocka_unit_test(one_of_two_requests_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
