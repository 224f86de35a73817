/*
 * tests/test-threads.c - several contexts on one model at the same time, each with threads of its own through the
 * parallel_for hook, or all on scbm_pool: what `make test-tsan` watches; and forks
 */
#define _XOPEN_SOURCE 700

#include "tests/small-sparse.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N_CONTEXTS = 2, POOL = 2, N_TEXTS = 6, TAPE = 4000 };

static const char *texts[N_TEXTS];
static char text_memory[N_TEXTS][200];

static int set_up(void **state) {
    const small_options options = {.hidden = 64};
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

/* Whether this machine's processor computes masked layers in bf16. */
static int has_masked_bf16(void) {
    scbm_context *context;
    assert_ok(scbm_context_create(&context, NULL, NULL));
    const int has = scbm_context_check_masked_precision(context, SCBM_PRECISION_BF16) == SCBM_OK;
    scbm_context_free(context);
    return has;
}

/* The contexts begin together on a model that nothing has been derived from yet: its masks are packed by whoever is first. */
static void contexts_on_one_model_compute_the_bits_of_one(void **state) {
    (void)state;
    static job alone, together[N_CONTEXTS];
    static const scbm_precision precisions[] = {SCBM_PRECISION_F32, SCBM_PRECISION_BF16};
    for (int round = 0; round < 2; round++) {
        if (precisions[round] == SCBM_PRECISION_BF16 && !has_masked_bf16()) {
            print_message("not in bf16: %s\n", scbm_last_error());
            continue;
        }
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

/* ------------------------------------------------------------------------------------------
 * scbm_pool
 * ---------------------------------------------------------------------------------------- */

enum { N_REQUESTS = 16, POOL_WORKERS = 3, N_TASKS = 500, N_INNER = 7 };

/* The threads of this process; 0: the system does not say. */
static int count_threads(void) {
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) n += entry->d_name[0] != '.';
    if (tasks) closedir(tasks);
    return n;
}

typedef struct counted {
    atomic_int calls[N_TASKS], inner, at_once[POOL_WORKERS], wrong;
} counted;

static void count_inner(void *arg, int64_t index, int worker) {
    counted *c = arg;
    if (index < 0 || index >= N_INNER || worker < 0 || worker >= POOL_WORKERS) atomic_fetch_add(&c->wrong, 1);
    atomic_fetch_add(&c->inner, 1);
}

static void count_task(void *arg, int64_t index, int worker) {
    counted *c = arg;
    if (worker < 0 || worker >= POOL_WORKERS || atomic_fetch_add(&c->at_once[worker], 1)) {
        atomic_fetch_add(&c->wrong, 1);
        return;
    }
    atomic_fetch_add(&c->calls[index], 1);
    if (index % 10 == 0) scbm_pool(NULL, N_INNER, count_inner, c);
    if (index % 50 == 1) sched_yield();
    atomic_fetch_sub(&c->at_once[worker], 1);
}

static void *loop_and_loop(void *arg) {
    counted *c = arg;
    for (int i = 0; i < 20; i++) scbm_pool(NULL, N_TASKS, count_task, c);
    return NULL;
}

/* Loops of many threads at once, and loops within their tasks. */
static void every_task_of_the_pool_runs_once(void **state) {
    (void)state;
    static counted counts[N_REQUESTS];
    pthread_t thread[N_REQUESTS];
    memset(counts, 0, sizeof counts);
    assert_ok(scbm_pool_start(POOL_WORKERS));
    assert_int_equal(scbm_pool_workers(), POOL_WORKERS);
    for (int i = 0; i < N_REQUESTS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, loop_and_loop, &counts[i]), 0);
    for (int i = 0; i < N_REQUESTS; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < N_REQUESTS; i++) {
        assert_int_equal(atomic_load(&counts[i].wrong), 0);
        for (int t = 0; t < N_TASKS; t++) assert_int_equal(atomic_load(&counts[i].calls[t]), 20);
        assert_int_equal(atomic_load(&counts[i].inner), 20 * N_TASKS / 10 * N_INNER);
    }
    scbm_pool_stop();
    scbm_pool(NULL, 10, count_task, &counts[0]); /* its threads are made again */
    assert_int_equal(atomic_load(&counts[0].calls[9]), 21);
    scbm_pool_stop();
    scbm_pool_stop();
    assert_error(scbm_pool_start(-1), SCBM_ERROR_ARGUMENT, "a pool of -1 threads");
}

static void *stop_pool(void *unused) {
    scbm_pool_stop();
    return unused;
}

static void two_threads_may_end_the_pool_at_once(void **state) {
    (void)state;
    pthread_t thread;
    for (int i = 0; i < 50; i++) {
        assert_ok(scbm_pool_start(POOL_WORKERS));
        assert_int_equal(pthread_create(&thread, NULL, stop_pool, NULL), 0);
        scbm_pool_stop();
        pthread_join(thread, NULL);
    }
}

/* Sixteen requests, each with a context, have three helpers together, and the bits of one thread alone. */
static void many_contexts_share_the_pool(void **state) {
    (void)state;
    static job alone, together[N_REQUESTS];
    pthread_t thread[N_REQUESTS];
    pthread_barrier_t start;
    do_alone(&alone, SCBM_PRECISION_F32);
    scbm_pool_stop();
    int before = count_threads(), most = 0;
    assert_ok(scbm_pool_start(POOL_WORKERS));
    cbm_model *model = load(in_folder("sparse.gguf"));
    pthread_barrier_init(&start, NULL, N_REQUESTS + 1);
    for (int i = 0; i < N_REQUESTS; i++) {
        memset(&together[i], 0, sizeof together[i]);
        together[i].model = model;
        together[i].hooks = (scbm_hooks){.parallel_for = scbm_pool, .n_workers = i % 4};
        together[i].start = &start;
        assert_int_equal(pthread_create(&thread[i], NULL, do_job, &together[i]), 0);
    }
    pthread_barrier_wait(&start);
    for (int i = 0; i < 100; i++) {
        int n = count_threads();
        if (n > most) most = n;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    for (int i = 0; i < N_REQUESTS; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&start);
    cbm_model_free(model);
    if (before) assert_in_range(most, before, before + N_REQUESTS + POOL_WORKERS - 1);
    for (int i = 0; i < N_REQUESTS; i++) {
        if (together[i].status) fail_msg("context %d: %s", i, together[i].error);
        assert_int_equal(together[i].n, alone.n);
        assert_memory_equal(together[i].tape, alone.tape, (size_t)alone.n * sizeof alone.tape[0]);
    }
    scbm_pool_stop();
}

/* ------------------------------------------------------------------------------------------
 * Waiting
 * ---------------------------------------------------------------------------------------- */

static double processor_seconds(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

static scbm_status wait_a_while(void *user, const scbm_tensor *tensor) {
    double *used = user;
    (void)tensor;
    nanosleep(&(struct timespec){0, 50000000}, NULL); /* the others have gone to sleep */
    double before = processor_seconds();
    nanosleep(&(struct timespec){0, 400000000}, NULL);
    *used = processor_seconds() - before;
    return SCBM_OK;
}

/* A run's other threads use no processor while the program looks at a result. */
static void idle_threads_sleep(void **state) {
    (void)state;
    const scbm_hooks loops[] = {{.n_workers = 4}, {.parallel_for = scbm_pool, .n_workers = 4}};
    const int64_t shape[2] = {256, 512};
    assert_ok(scbm_pool_start(4));
    for (int i = 0; i < COUNT_OF(loops); i++) {
        scbm_context *context;
        scbm_graph *g;
        double used = 1;
        assert_ok(scbm_context_create(&context, &loops[i], NULL));
        assert_ok(scbm_graph_create(&g, context));
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, 2, shape, NULL);
        scbm_tensor *y = scbm_activate(g, x, SCBM_GELU_ERF), *z = scbm_activate(g, y, SCBM_TANH);
        assert_ok(scbm_graph_watch(g, y, wait_a_while, &used));
        scbm_output(g, z);
        assert_ok(scbm_graph_plan(g));
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_ok(scbm_graph_run(g, 0, 0)); /* the first one learns how many loops there are */
        if (used > 0.1) fail_msg("%.2f s of processor time in 0.4 s of waiting", used);
        scbm_graph_free(g);
        scbm_context_free(context);
    }
    scbm_pool_stop();
}

/* ------------------------------------------------------------------------------------------
 * Forks
 * ---------------------------------------------------------------------------------------- */

static scbm_status predict_with(const cbm_model *model, const scbm_hooks *hooks, float *logit) {
    cbm_context *ctx = NULL;
    const cbm_context_options options = {.hooks = hooks};
    const cbm_prediction *prediction;
    scbm_status status = cbm_context_create(&ctx, model, &options);
    if (!status) status = cbm_predict(ctx, texts[0], &prediction);
    if (!status) *logit = prediction->logits[0];
    cbm_context_free(ctx);
    return status;
}

/* Predicts, forks, and predicts in the child, whose end comes within a minute; then in a child of the child. */
static void fork_after(const cbm_model *model, const scbm_hooks *hooks) {
    float logit = 0, again = 0;
    assert_ok(predict_with(model, hooks, &logit));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(600);
        int failed = predict_with(model, hooks, &again) != SCBM_OK || again != logit, status = 0;
        pid_t grandchild = fork();
        if (grandchild == 0) _exit(predict_with(model, hooks, &again) != SCBM_OK || again != logit);
        failed |= waitpid(grandchild, &status, 0) != grandchild || status != 0;
        _exit(failed);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(predict_with(model, hooks, &again)); /* and the parent goes on */
    assert_true(again == logit);
}

static void a_forked_child_predicts(void **state) {
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* it ends a process that makes threads after a fork */
#endif
    cbm_model *model = load(in_folder("sparse.gguf"));
    const scbm_hooks loops[] = {
        {.n_workers = 3}, {.parallel_for = scbm_pool, .n_workers = 3}, {0}, {.parallel_for = scbm_pool}};
    for (int i = 0; i < COUNT_OF(loops); i++) fork_after(model, &loops[i]);
    cbm_model_free(model);
    scbm_pool_stop();
}

/* The pool's threads in a child are its own, and the default loop has none. */
static void a_forked_child_has_its_own_threads(void **state) {
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip();
#endif
    static counted counts;
    if (!count_threads()) skip();
    cbm_model *model = load(in_folder("sparse.gguf"));
    const scbm_hooks default_loop = {.n_workers = 3};
    float logit;
    assert_ok(scbm_pool_start(POOL_WORKERS));
    assert_ok(predict_with(model, &default_loop, &logit));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(600);
        if (predict_with(model, &default_loop, &logit) || count_threads() != 1) _exit(1);
        for (int i = 0; i < 100; i++) scbm_pool(NULL, N_TASKS, count_task, &counts);
        if (count_threads() != POOL_WORKERS) _exit(2);
        scbm_pool_stop();
        _exit(atomic_load(&counts.calls[N_TASKS - 1]) == 100 && count_threads() == 1 ? 0 : 3);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    cbm_model_free(model);
    scbm_pool_stop();
}

/* ------------------------------------------------------------------------------------------
 * Backends by name
 * ---------------------------------------------------------------------------------------- */

enum { N_NAMERS = 4 };

static int no_devices(void) {
    return 0;
}

static void describe_nothing(int device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "nothing is here");
}

static scbm_status open_nothing(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    (void)device, (void)options;
    *backend = NULL;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "nothing is here");
}

static const scbm_backend_entry nothings[N_NAMERS] = {
    {SCBM_BACKEND_VERSION, "nothing-0", no_devices, describe_nothing, open_nothing},
    {SCBM_BACKEND_VERSION, "nothing-1", no_devices, describe_nothing, open_nothing},
    {SCBM_BACKEND_VERSION, "nothing-2", no_devices, describe_nothing, open_nothing},
    {SCBM_BACKEND_VERSION, "nothing-3", no_devices, describe_nothing, open_nothing},
};

/* Returns NULL where all is as it should be. */
static void *register_and_list(void *arg) {
    const scbm_backend_entry *own = arg;
    scbm_backend *backend;
    scbm_backend_info info;
    if (scbm_backend_register(own)) return "register";
    for (int i = 0; i < 5; i++) {
        if (scbm_backend_open(&backend, i % 2 ? "auto" : "cpu", NULL)) return "open";
        scbm_backend_close(backend);
        if (scbm_backend_count() < 1 || scbm_backend_describe(0, &info) || strcmp(info.name, "cpu")) return "list";
        if (scbm_backend_open(&backend, own->name, NULL) != SCBM_ERROR_UNSUPPORTED) return "open its own";
        if (!strstr(scbm_last_error(), "has no device here: nothing is here")) return "say why";
        if (scbm_backend_open(&backend, "not-there", NULL) != SCBM_ERROR_UNSUPPORTED) return "miss one";
    }
    return NULL;
}

static void threads_register_list_and_open_backends(void **state) {
    (void)state;
    pthread_t thread[N_NAMERS];
    for (int i = 0; i < N_NAMERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, register_and_list, (void *)(uintptr_t)&nothings[i]), 0);
    for (int i = 0; i < N_NAMERS; i++) {
        void *failed;
        assert_int_equal(pthread_join(thread[i], &failed), 0);
        if (failed) fail_msg("a thread could not %s", (const char *)failed);
    }
    assert_error(scbm_backend_register(&nothings[2]), SCBM_ERROR_ARGUMENT, "already");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_on_one_model_compute_the_bits_of_one),
        cmocka_unit_test(one_of_two_requests_can_be_cancelled),
        cmocka_unit_test(every_task_of_the_pool_runs_once),
        cmocka_unit_test(two_threads_may_end_the_pool_at_once),
        cmocka_unit_test(many_contexts_share_the_pool),
        cmocka_unit_test(idle_threads_sleep),
        cmocka_unit_test(a_forked_child_predicts),
        cmocka_unit_test(a_forked_child_has_its_own_threads),
        cmocka_unit_test(threads_register_list_and_open_backends),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
