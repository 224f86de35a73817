/*
 * sparsecbm.h - a single-file tensor runtime for sparse concept bottleneck models
 *
 * This header is the manual of the runtime: status codes, hooks, tensors, graphs, automatic
 * differentiation, optimizers, backends and model files. It knows nothing of texts or concepts;
 * those live in models/cbm.h, which is built on it. To use the runtime alone, take
 * sparsecbm.h and sparsecbm.c; they need the C standard library, libm, and POSIX for files.
 *
 * Conventions
 *   - Shapes are written outermost first, as in NumPy: [2, 3] is two rows of three. Data is
 *     row-major and contiguous. A tensor has one to four dimensions.
 *   - A function that can fail returns scbm_status; scbm_last_error() then has one sentence that
 *     says what was wrong and where. No function aborts, exits or prints.
 *   - Objects made by X_create/X_open are freed by X_free/X_close, which accept NULL.
 *   - Everything is deterministic: same inputs, seed, build and CPU tier give the same bits,
 *     whatever the number of threads.
 *
 * MIT licence; see LICENSE.
 */
#ifndef SPARSECBM_H
#define SPARSECBM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SCBM_VERSION_MAJOR 0
#define SCBM_VERSION_MINOR 2
#define SCBM_VERSION_PATCH 0
#define SCBM_VERSION_TEXT "0.2.0"
#define SCBM_VERSION (SCBM_VERSION_MAJOR * 10000 + SCBM_VERSION_MINOR * 100 + SCBM_VERSION_PATCH)

#if defined(__GNUC__) || defined(__clang__)
#define SCBM_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define SCBM_PRINTF(format_index, first)
#endif

/* The version of the library that is linked: SCBM_VERSION of its header. */
int scbm_version(void);

/* ------------------------------------------------------------------------------------------
 * Status and errors
 * ---------------------------------------------------------------------------------------- */

typedef enum scbm_status {
    SCBM_OK = 0,
    SCBM_ERROR_ARGUMENT,    /* a value that the caller passed makes no sense */
    SCBM_ERROR_SHAPE,       /* tensors do not fit each other, or a graph's capacity */
    SCBM_ERROR_MEMORY,      /* the allocator returned NULL */
    SCBM_ERROR_IO,          /* a file could not be opened, read, written or renamed */
    SCBM_ERROR_FORMAT,      /* a file's content is damaged or not what its header says */
    SCBM_ERROR_UNSUPPORTED, /* well-formed, but something this library or backend cannot do */
    SCBM_ERROR_CANCELLED,   /* the progress or the cancel hook asked to stop */
    SCBM_ERROR_NUMERIC      /* a loss or gradient is not finite */
} scbm_status;

/* The status's name, as "out of memory". Never NULL. */
const char *scbm_status_name(scbm_status status);

/* One sentence about the last failure on this thread; "" when there was none. It is valid until
 * the next failing call on this thread. */
const char *scbm_last_error(void);

/* Records a failure for scbm_last_error() and returns `status`: for code built on the runtime.
 *     return scbm_fail(SCBM_ERROR_FORMAT, "%s: row %d has no label", path, row);                */
scbm_status scbm_fail(scbm_status status, const char *format, ...) SCBM_PRINTF(2, 3);

/* Seconds of a clock that only goes forward, where the system has one. */
double scbm_seconds(void);

/* ------------------------------------------------------------------------------------------
 * Hooks: memory, logging, progress, threads
 * ---------------------------------------------------------------------------------------- */

typedef enum scbm_log_level { SCBM_LOG_INFO, SCBM_LOG_WARNING } scbm_log_level;

/* Runs task(arg, i, worker) for every i in [0, n). `worker` is in [0, n_workers) and no two tasks of one loop
 * run at the same time with the same worker. Returns when all are done. A loop that is begun inside a task, on the task's
 * context, is run there and then by the task's own worker, one after another; a parallel_for of the program's is called
 * for it again. */
typedef void (*scbm_task)(void *arg, int64_t index, int worker);
typedef void (*scbm_parallel_for)(void *user, int64_t n, scbm_task task, void *arg);

/* What the host program may take over. Zero-initialize, set what is wanted; a NULL member keeps
 * the default. The struct is copied; what `user` points to must outlive the objects. The default
 * allocator is malloc, the default log and progress do nothing, and the default parallel loop is
 * OpenMP's where the library was built with it and a plain loop where not. */
typedef struct scbm_hooks {
    void *user;
    void *(*alloc)(void *user, size_t bytes);       /* NULL when out of memory; any alignment of 16. Set with `free` */
    void (*free)(void *user, void *pointer);
    void (*log)(void *user, scbm_log_level level, const char *message);
    /* Called now and then in long work with how far it is (done of total, in `what`; "graph" counts the nodes of
     * one run); a return other than 0 cancels: the call in progress returns SCBM_ERROR_CANCELLED. */
    int (*progress)(void *user, const char *what, int64_t done, int64_t total);
    /* Asked more often than progress is told: between the nodes of a run, and inside one that takes more than 0.1 s, by
     * whichever thread is worker 0. It should be quick. A return other than 0 cancels likewise. */
    int (*cancel)(void *user);
    /* The bytes that are held through these hooks are added here; NULL: not counted. Without atomics: one counter for
     * what one thread uses at a time (a context). Memory is released with hooks of the same counter. */
    size_t *in_use;
    scbm_parallel_for parallel_for;                 /* with n_workers, or NULL */
    int n_workers;                                  /* threads; 0: scbm_default_threads() */
} scbm_hooks;

/* The default parallel loop is OpenMP's, one team of threads for each thread that runs contexts. Before a team is made its
 * threads are tried: where the system makes fewer, half of those are used, and the log hook is told; OpenMP itself would end
 * the process. A process that is forked from one with contexts runs the default loop on one thread, because OpenMP's threads
 * are not in it. (A context, graph or optimizer that another thread was in when the process forked is of no use in the child.)
 *
 * For programs with many threads, or that fork: one pool of threads for the whole process, which all contexts share.
 *     const scbm_hooks hooks = {.parallel_for = scbm_pool};
 * Every loop is begun by the thread that calls it, as worker 0, and helped by threads of the pool that have nothing else to do;
 * several at once are helped in turn. n_workers 0 is scbm_pool_workers(); a smaller number keeps the context to so many. The
 * threads are made by the first loop, sleep when there is none, leave signals to the program's own, and are made anew by the
 * first loop of a forked child. Loops may be begun inside of tasks. `user` is not used. Where a hook of the program's own calls
 * it n_workers must be scbm_pool_workers(). */
void scbm_pool(void *user, int64_t n, scbm_task task, void *arg);
/* The workers of a loop, its own thread included: what scbm_pool_start was told, or scbm_default_threads(). */
int scbm_pool_workers(void);
/* Sets the number (0: scbm_default_threads()) and makes the threads now. An error where not all can be made; loops run all the
 * same then. Not to be called while loops run, and contexts keep the number that they were created with. */
scbm_status scbm_pool_start(int n_workers);
/* Ends the pool's threads, before the library is unloaded, say; not from a task. A loop makes them again. */
void scbm_pool_stop(void);

/* Memory by the hooks (NULL: the default ones). The result is aligned to 64 bytes and zeroed;
 * NULL when out of memory, which scbm_last_error() then says. scbm_release accepts NULL.
 * scbm_alloc_array checks count * size for overflow. */
void *scbm_alloc(const scbm_hooks *hooks, size_t bytes);
void *scbm_alloc_array(const scbm_hooks *hooks, size_t count, size_t size);
void scbm_release(const scbm_hooks *hooks, void *pointer);
/* A copy of a string by the same allocator. */
char *scbm_strdup(const scbm_hooks *hooks, const char *text);
/* Enlarges an array of `size`-byte elements so that it holds at least `needed`; *pointer and
 * *capacity are updated, new space is zeroed, growth is geometric. */
scbm_status scbm_grow(const scbm_hooks *hooks, void **pointer, size_t *capacity, size_t needed, size_t size);
/* Tells the progress hook how far `what` is, and asks both hooks whether to go on: SCBM_ERROR_CANCELLED when one of
 * them stops it. scbm_cancelled asks without telling. */
scbm_status scbm_progress(const scbm_hooks *hooks, const char *what, int64_t done, int64_t total);
scbm_status scbm_cancelled(const scbm_hooks *hooks);
/* Formats a message for the log hook. */
void scbm_log(const scbm_hooks *hooks, scbm_log_level level, const char *format, ...) SCBM_PRINTF(3, 4);

/* ------------------------------------------------------------------------------------------
 * The machine: what it leaves this process
 *
 * By the system's word, and by that of each control group (version 1 or 2) that the process lies in, up to the topmost. `root`
 * is the folder that the system's files are looked for in; NULL: "/".
 * ---------------------------------------------------------------------------------------- */

/* Bytes that are free for the taking; what a group has cached of files counts as free. SIZE_MAX: the system does not say. */
size_t scbm_available_memory(const char *root);
/* The processors' worth of time that the groups' CPU quotas allow: 1.5, say. Infinite where there is no quota. */
double scbm_processor_quota(const char *root);
/* The threads that n_workers = 0 means: as many as the process may run on at once, by its affinity and its quota (to the
 * nearest whole number, at least 1; read once); or as OMP_NUM_THREADS says, where the library was built with OpenMP. */
int scbm_default_threads(void);

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

#define SCBM_MAX_DIMS 4
#define SCBM_MAX_NAME 96

typedef struct scbm_context scbm_context; /* see below */

typedef enum scbm_type {
    SCBM_F32,
    SCBM_F16,
    SCBM_BF16,
    SCBM_I32,
    SCBM_I8,
    SCBM_Q8_0, /* blocks of 32 weights of a row: a half-precision scale and 32 int8 */
    SCBM_Q4_0, /* blocks of 32 weights of a row: a half-precision scale and 32 nibbles */
    SCBM_F64,  /* of sums that need it; no weights */
    SCBM_TYPE_COUNT
} scbm_type;

typedef struct scbm_type_info {
    const char *name;      /* "f32", … */
    int block;             /* elements in a block: 1, or 32 */
    int block_bytes;
    int is_float; /* holds weights: real numbers, as a whole or in quantized blocks */
} scbm_type_info;

const scbm_type_info *scbm_type_of(scbm_type type);        /* NULL for an unknown type */
scbm_status scbm_type_parse(const char *name, scbm_type *type);

/* What matrix products compute with; a backend has some of them, f32 always. A tensor's type is another matter: weights of
 * any type are read in any precision. */
typedef enum scbm_precision {
    SCBM_PRECISION_F32 = 0,
    SCBM_PRECISION_TF32, /* operands rounded to 10 bits of fraction, sums in f32 */
    SCBM_PRECISION_BF16, /* operands rounded to bf16, sums in f32 */
    SCBM_PRECISION_INT8, /* operands in blocks of int8 with a scale, sums of a block in i32 */
    SCBM_PRECISION_COUNT
} scbm_precision;

const char *scbm_precision_name(scbm_precision precision); /* "f32", "tf32", "bf16", "int8"; NULL: none of them */
scbm_status scbm_precision_parse(const char *name, scbm_precision *precision);

/* How large a dimension is when a graph runs. A graph is planned for a capacity and runs for any
 * batch that fits: a dimension marked TOKENS or TEXTS has the batch's size then. */
typedef enum scbm_extent { SCBM_FIXED = 0, SCBM_TOKENS = 1, SCBM_TEXTS = 2 } scbm_extent;

/* A tensor. Those of a graph belong to it; others (weights) belong to whoever made them. */
typedef struct scbm_tensor {
    scbm_type type;
    int n_dims;
    int64_t shape[SCBM_MAX_DIMS];        /* outermost first; of a graph's tensor: the capacity */
    uint8_t extent[SCBM_MAX_DIMS];       /* scbm_extent of each dimension */
    void *data;                          /* in host memory; NULL until a graph is planned */
    uint64_t generation;                 /* of data; see scbm_tensor_changed */
    uint64_t id;                         /* no other tensor's that was initialized in this process */
    struct scbm_graph *graph;            /* whose it is; NULL for the caller's own (weights) */
    int node;                            /* of a graph's tensor: the node that computes it, else -1 */
    struct scbm_packed *packed[2];       /* of masks: what scbm_masks_pack made for many tokens, and for few */
    char name[SCBM_MAX_NAME];
} scbm_tensor;

/* Sets type, dimensions and name; data stays NULL and belongs to the caller. Checks for
 * overflow and that a quantized row is a whole number of blocks. */
scbm_status scbm_tensor_init(scbm_tensor *tensor, const char *name, scbm_type type, int n_dims, const int64_t *shape);
int64_t scbm_tensor_elements(const scbm_tensor *tensor);
size_t scbm_tensor_bytes(const scbm_tensor *tensor);
/* What the caller's own tensors (weights, masks) are on a device that has memory of its own: a copy there belongs to the
 * backend, serves all graphs and contexts, and is made when a graph first runs. On a host's backend the tensor's own data are
 * used, and the three calls are cheap.
 *   changed  the host has written `data`, or given it another place: copies are made anew when a graph next reads them, and
 *            what was derived from the data (packed masks) is made anew. Never while another thread runs a graph that reads it.
 *   fetch    before the host reads what graphs of `context` may have updated (see scbm_op_info's `updates`): waits, and brings
 *            `data` up to date. Until then graphs of other contexts that read the tensor are refused.
 *   forget   before the tensor or its memory goes: drops its copies; NULL is accepted. A tensor is not moved to another
 *            address while it has any. */
void scbm_tensor_changed(scbm_tensor *tensor);
scbm_status scbm_tensor_fetch(scbm_tensor *tensor, scbm_context *context);
void scbm_tensor_forget(scbm_tensor *tensor);
/* "[2, 3]" in `text`, which it returns. */
const char *scbm_shape_text(const scbm_tensor *tensor, char *text, size_t size);

/* Conversion between types, `n` elements; for quantized types n is a multiple of 32. Rounding is
 * to nearest even (f16, bf16) and as the GGUF reference has it for Q8_0 and Q4_0. */
scbm_status scbm_convert(scbm_type to, void *destination, scbm_type from, const void *source, int64_t n);

/* ------------------------------------------------------------------------------------------
 * Contexts: one per thread
 * ---------------------------------------------------------------------------------------- */

typedef struct scbm_backend scbm_backend;

/* `hooks` may be NULL. `backend` (see scbm_backend_open) is shared, and outlives the context; NULL: a "cpu" of the context's
 * own. A context is used by one thread at a time. */
scbm_status scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend);
void scbm_context_free(scbm_context *context);
const scbm_hooks *scbm_context_hooks(const scbm_context *context);
/* The number of threads that the parallel loop uses. */
int scbm_context_workers(const scbm_context *context);
/* The context's parallel loop, for code that is built on the runtime. */
void scbm_parallel(scbm_context *context, int64_t n, scbm_task task, void *arg);
/* "cpu (avx512)", say. */
const char *scbm_context_device(const scbm_context *context);
/* 1 where graphs work on the host's own memory. */
int scbm_context_is_host(const scbm_context *context);
/* SCBM_ERROR_UNSUPPORTED where the context's backend does not compute in this precision; the message has those that it has. */
scbm_status scbm_context_check_precision(const scbm_context *context, scbm_precision precision);
/* The same for layers with masks. A graph may hold them in any precision that the backend has, but the CPU computes them in f32
 * under INT8, and without bf16 products of its own (below AVX512-BF16) more slowly and less exactly under BF16 than in f32:
 * both are SCBM_ERROR_UNSUPPORTED here. */
scbm_status scbm_context_check_masked_precision(const scbm_context *context, scbm_precision precision);

/* ------------------------------------------------------------------------------------------
 * Numbers that do not depend on the machine's libm
 * ---------------------------------------------------------------------------------------- */

/* e^x and the natural logarithm, within one unit in the last place of a normal result, with the same bits on every machine. */
double scbm_exponential(double x);
double scbm_logarithm(double x);

/* ------------------------------------------------------------------------------------------
 * Random numbers: counter-based (Philox 4x32-10, Salmon et al., SC 2011)
 * ---------------------------------------------------------------------------------------- */

/* The four 32-bit words at `counter` of the stream (seed, stream): the same on every machine. */
void scbm_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
/* A generator that walks one stream; initialize {seed, stream, 0}. The state is the whole state. */
typedef struct scbm_random { uint64_t seed, stream, counter; } scbm_random;
double scbm_random_uniform(scbm_random *random);            /* in (0, 1) */
double scbm_random_normal(scbm_random *random);             /* mean 0, variance 1 */
uint64_t scbm_random_below(scbm_random *random, uint64_t n); /* in [0, n), unbiased */
double scbm_random_beta(scbm_random *random, double a, double b);
void scbm_random_shuffle(scbm_random *random, int32_t *items, int64_t n);

/* ------------------------------------------------------------------------------------------
 * Graphs
 *
 * Build: call scbm_graph_create, inputs, ops, optionally scbm_graph_backward, mark outputs.
 * Plan:  scbm_graph_plan places every intermediate in one workspace, reusing what is dead.
 * Run:   scbm_graph_run as often as wanted, filling the inputs' data in between.
 *
 * An op that cannot be built (shapes, types, memory) returns NULL, keeps the reason in the graph
 * and every op given a NULL tensor returns NULL: check once, in scbm_graph_plan's status.
 * A graph belongs to its context's thread, and is freed before its context. Weights are plain tensors of the caller,
 * read through their `data` when the graph runs; several graphs and threads may share them.
 *
 * Each call has its time, and is an error at any other: a bad argument. Those of building are kept like an op's, and
 * measure, plan and run return the first one from then on.
 *     set_precision, set_capacity       before the first input or op
 *     scbm_input, ops, output, fetch    before the plan
 *     decompose, set_weight_gradients   before backward
 *     backward                          once, before the plan, and before nodes that update what an earlier node reads
 *     watch                             before the plan; of gradients: after backward
 *     plan                              once, unless it failed for lack of memory
 *     run                               after the plan, not from within a run of the same graph (hooks, watches)
 *     measure, set_random, shape, gradient, op_seconds, nodes      at any time
 * ---------------------------------------------------------------------------------------- */

typedef struct scbm_graph scbm_graph;

scbm_status scbm_graph_create(scbm_graph **graph, scbm_context *context);
void scbm_graph_free(scbm_graph *graph);

/* What scbm_linear computes with. Default SCBM_PRECISION_F32. A precision that the backend has not is an error (see
 * scbm_context_check_precision); the CPU has F32, BF16 and INT8. Under TF32 and BF16 the products of its gradients round what
 * they read, too; results and sums are f32, those of bias gradients, of heads (scbm_group_linear), attention and an LSTM's
 * recurrence whatever the precision. Under INT8 gradients are f32's, and layers with weights of Q8_0 or Q4_0 and
 * without masks are computed in integers, all others in f32: each token of x is quantized in blocks of 32 along the depth (its
 * scale is the block's greatest magnitude / 127), a block's 32 products are summed exactly, and these sums, times both scales, in
 * f32 from the first block to the last. A token's result depends on no other token. The tier "amx" computes f32 without masks from bf16
 * parts, with f32's accuracy; but values below 2^-103 and products below 2^-107 lose digits there, and an infinite operand
 * gives NaN. */
void scbm_graph_set_precision(scbm_graph *graph, scbm_precision precision);
/* The batch's largest size, below 2^31 - 1; needed for inputs and ops with such a dimension. */
void scbm_graph_set_capacity(scbm_graph *graph, int64_t tokens, int64_t texts);
/* No text of a batch has more tokens: one that has is an error of the run. What is lowered to attention's parts has a column of
 * scores for each; 0, the default: as many as the batch. Before backward and the plan. */
void scbm_graph_set_longest(scbm_graph *graph, int64_t tokens);

/* An input. `extent` may be NULL (all fixed); a dimension with an extent ignores its shape entry and
 * takes the capacity. After planning, write into input->data (row-major at the batch's size). */
scbm_tensor *scbm_input(scbm_graph *graph, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                        const scbm_extent *extent);
/* Keeps a tensor's data after a run, where the backend has it. Returns it. */
scbm_tensor *scbm_output(scbm_graph *graph, scbm_tensor *tensor);
/* The same, and each run brings it to the host: tensor->data. What the host is to read is fetched; a tensor that is an output
 * alone has data on a host's backend, and NULL on others. Gradients are outputs, and to be fetched where they are read. */
scbm_tensor *scbm_graph_fetch(scbm_graph *graph, scbm_tensor *tensor);

/* How linear_back_w treats streams and masks. */
typedef enum scbm_dw_mode {
    SCBM_DW_SUMMED,       /* [out, in]: Σ_s M_s ⊙ (dy_sᵀ x_s): training */
    SCBM_DW_MASKED,       /* [S, out, in]: M_s ⊙ (dy_sᵀ x_s): second-order scores */
    SCBM_DW_DENSE         /* [S, out, in]: dy_sᵀ x_s: popup scores, interventions */
} scbm_dw_mode;

/* Once for a graph: adds the nodes that compute the gradients of `loss` (one element) for the `n` tensors `wrt`:
 * weights, inputs or intermediates (of type F32). Gradients are outputs, by scbm_graph_gradient.
 * A tensor that does not influence the loss has a gradient of zeros. */
scbm_status scbm_graph_backward(scbm_graph *graph, scbm_tensor *loss, scbm_tensor *const *wrt, int n);
scbm_tensor *scbm_graph_gradient(scbm_graph *graph, const scbm_tensor *tensor); /* NULL: none was asked for */
/* What scbm_graph_backward gives as the gradient of a weight of scbm_linear: SCBM_DW_SUMMED (the default) is the
 * weight's gradient, [out, in]; the two others are the gradients of W ⊙ M_s, stream by stream, [S, out, in], of linears
 * whose x is [S, T, in], and the weight may then be of any float type. */
void scbm_graph_set_weight_gradients(scbm_graph *graph, scbm_dw_mode mode);
/* What is an output (a gradient) is none any more: nodes alone read it. */
void scbm_graph_discard(scbm_graph *graph, scbm_tensor *tensor);
/* Hands `tensor` over as soon as a run has computed it: `function` is called with its data, whose memory is used again
 * afterwards, so that many large results need the memory of one. For results of nodes; what is an output otherwise (a
 * gradient) is none any more. A status other than SCBM_OK ends the run and comes back from it. */
typedef scbm_status (*scbm_watch_function)(void *user, const scbm_tensor *tensor);
scbm_status scbm_graph_watch(scbm_graph *graph, scbm_tensor *tensor, scbm_watch_function function, void *user);

/* Dry plan: the bytes that a run will need beyond the weights (inputs, workspace, scratch). */
scbm_status scbm_graph_measure(scbm_graph *graph, size_t *bytes);
/* Places everything and takes the memory. */
scbm_status scbm_graph_plan(scbm_graph *graph);
/* The seed and step that dropout draws by. */
void scbm_graph_set_random(scbm_graph *graph, uint64_t seed, uint64_t step);
/* Runs every node for a batch of `tokens` tokens and `texts` texts within the capacity (0, 0 for
 * a graph without such dimensions). */
scbm_status scbm_graph_run(scbm_graph *graph, int64_t tokens, int64_t texts);
/* The shape that a tensor had in the last run. */
void scbm_graph_shape(const scbm_graph *graph, const scbm_tensor *tensor, int64_t shape[SCBM_MAX_DIMS]);
/* Replaces every node whose op has a decomposition by it. For tests, and for backends that lack the fused op. The first
 * result stays; other results of such a node are computed no more, and a graph that reads one has no plan. */
scbm_status scbm_graph_decompose(scbm_graph *graph);

/* Seconds spent in each op since the graph was planned; for profiles. Indexed by scbm_op. */
const double *scbm_graph_op_seconds(const scbm_graph *graph);

/* ------------------------------------------------------------------------------------------
 * Ops. S streams, T tokens, N texts. `offsets` is I32 [capacity of texts + 1], of which the first
 * N + 1 entries count: text n's tokens are offsets[n] … offsets[n+1]-1 of the T.
 * ---------------------------------------------------------------------------------------- */

typedef enum scbm_activation {
    SCBM_NONE,
    SCBM_GELU_ERF,  /* x Φ(x) */
    SCBM_GELU_TANH, /* 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) */
    SCBM_RELU,
    SCBM_TANH,
    SCBM_SIGMOID
} scbm_activation;

/* Rows of table [V, d] (any float type) by ids I32 [T]: [1, T, d]. An id outside the table is an error of the run. */
scbm_tensor *scbm_get_rows(scbm_graph *g, scbm_tensor *table, scbm_tensor *ids);
/* Elementwise, b's shape broadcast to a's (aligned at the last dimension, missing or 1 fits any). */
scbm_tensor *scbm_add(scbm_graph *g, scbm_tensor *a, scbm_tensor *b);
scbm_tensor *scbm_mul(scbm_graph *g, scbm_tensor *a, scbm_tensor *b);
scbm_tensor *scbm_scale(scbm_graph *g, scbm_tensor *a, float factor);
/* a's sum over the dimensions in which `like` is 1 or missing: the transpose of broadcasting. */
scbm_tensor *scbm_sum_to(scbm_graph *g, scbm_tensor *a, scbm_tensor *like);
scbm_tensor *scbm_sum(scbm_graph *g, scbm_tensor *a);  /* of all elements: [1] */
scbm_tensor *scbm_mean(scbm_graph *g, scbm_tensor *a); /* of all elements: [1] */
/* The same data under another shape with the same extents' product; no copy. */
scbm_tensor *scbm_reshape(scbm_graph *g, scbm_tensor *a, int n_dims, const int64_t *shape, const scbm_extent *extent);
scbm_tensor *scbm_copy(scbm_graph *g, scbm_tensor *a);
scbm_tensor *scbm_cast(scbm_graph *g, scbm_tensor *a, scbm_type type); /* F32, F16, BF16 */
/* Along the last dimension. */
scbm_tensor *scbm_concat(scbm_graph *g, scbm_tensor *a, scbm_tensor *b);
scbm_tensor *scbm_slice(scbm_graph *g, scbm_tensor *a, int64_t first, int64_t count);

/* The masked linear: y[s] = act(x[s] (W ⊙ M_s)ᵀ + b). x [S or 1, T, in] (or [S, N, in]), w [out, in] of any float
 * type, b [out] or NULL, masks NULL (dense: then y has x's S) or I8 [S, out, scbm_mask_row_bytes(in)]
 * bit planes: bit j of byte b is weight 8b + j of the row. y [S, T, out]. */
scbm_tensor *scbm_linear(scbm_graph *g, scbm_tensor *x, scbm_tensor *w, scbm_tensor *b, scbm_tensor *masks,
                         scbm_activation act);
int64_t scbm_mask_row_bytes(int64_t in); /* in bits, rounded up to 8 bytes */
/* Puts the weights that every stream keeps side by side, as f32, where linear layers of `w` and `masks` on the CPU find
 * them: the same bits, sooner. One form is for batches of up to SCBM_FEW_TOKENS (`few`; nothing is done where the machine has no
 * AVX2), another for larger ones. It is used as long as neither tensor's data or generation is another. Both
 * tensors stay the caller's, and may be in use by other threads meanwhile; but where `masks` holds a form of other data,
 * another generation or other weights, that one is released, and no other thread may use it then. The last ones are released
 * by scbm_masks_unpack, with the same hooks. */
#define SCBM_FEW_TOKENS 64
typedef struct scbm_packed scbm_packed;
scbm_status scbm_masks_pack(scbm_tensor *masks, const scbm_tensor *w, int few, const scbm_hooks *hooks);
void scbm_masks_unpack(scbm_tensor *masks, const scbm_hooks *hooks);
/* What it takes: 4 bytes for every kept weight and 1/8 + 1/128 byte for every weight and stream; for few tokens 5 bytes for
 * every kept weight, and a tenth (70 % zeros) to a fourth (90 %) more because lists of four rows have one length. */
scbm_status scbm_masks_packed_bytes(const scbm_tensor *w, const scbm_tensor *masks, int few, size_t *bytes);
/* Several small heads side by side: z [S or 1, N, d], w [C, d], b [C] or NULL, groups I32 [K + 1] with
 * groups[0] = 0, groups[K] = C. y [N, C]; rows groups[k] … of w read stream k of z (stream 0 if S is 1). */
scbm_tensor *scbm_group_linear(scbm_graph *g, scbm_tensor *z, scbm_tensor *w, scbm_tensor *b, scbm_tensor *groups);

/* (x − mean) / √(var + epsilon) · gamma + beta over the last dimension (Ba et al., 2016). */
scbm_tensor *scbm_layer_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *gamma, scbm_tensor *beta, float epsilon);
/* layer_norm(x + residual): fused. residual may be [1, T, d] under x [S, T, d]. */
scbm_tensor *scbm_add_layer_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *residual, scbm_tensor *gamma,
                                 scbm_tensor *beta, float epsilon);
/* x / √(mean of x² + epsilon) · gamma over the last dimension (Zhang and Sennrich, 2019). */
scbm_tensor *scbm_rms_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *gamma, float epsilon);
scbm_tensor *scbm_activate(scbm_graph *g, scbm_tensor *x, scbm_activation act);
scbm_tensor *scbm_softmax(scbm_graph *g, scbm_tensor *x); /* over the last dimension; −∞ gives 0 */
/* Elements are zeroed with the probability p, the others divided by 1 − p; by Philox at
 * (the graph's seed, this op's place, the graph's step, element). p = 0 returns x itself. In the table `integer` has the place,
 * and whether x is [S, heads, T, C] of attention's parts, whose elements draw what scbm_attention would. Element i is kept where
 * the word w of scbm_philox(seed, stream, counter) is at least p · 2³²:
 *   else        counter i / 64 · 16 + i % 16, stream step << 32 | place << 16, w = i / 16 % 4
 *   attention   of stream s, head h, packed query t and the text's key j: counter t / 4 << 32 | j, stream
 *               step << 32 | (place << 16) + s · heads + h, w = t % 4 */
scbm_tensor *scbm_dropout(scbm_graph *g, scbm_tensor *x, float p);

/* Multi-head attention inside each text: softmax(scale · q kᵀ) v. q, k, v [S, T, heads · head size].
 * Fused; `p` is the dropout of the probabilities. */
scbm_tensor *scbm_attention(scbm_graph *g, scbm_tensor *q, scbm_tensor *k, scbm_tensor *v, scbm_tensor *offsets,
                            int n_heads, float scale, int causal, float p);
/* The same of scale · q kᵀ + a bias by distance (Raffel et al., 2020): bias F32 [1, 2 C - 1, heads], of which key j and query
 * i of a text read row C - 1 + j - i, as scbm_get_rows makes it of a table of buckets. C: tokens of the longest text;
 * a longer one is an error of the run. Nothing is T × T. */
scbm_tensor *scbm_attention_biased(scbm_graph *g, scbm_tensor *q, scbm_tensor *k, scbm_tensor *v, scbm_tensor *bias,
                                   scbm_tensor *offsets, int n_heads, float scale, int causal, float p);
/* Its parts, for decompositions. C is the longest text that fits, `context`:
 *   scores [S, heads, T, C]: a_t · b_j for the j-th token of t's text, `fill` past its end (and after t if causal);
 *   mix    [S, T, heads · size]: Σ_j p[t, j] b_j;    mix_transposed: Σ_t p[t, j] a_t at token j;
 *   bias   [1, heads, T, C]: what is added to the score of the j-th token of t's text, 0 past its end. */
scbm_tensor *scbm_attention_scores(scbm_graph *g, scbm_tensor *a, scbm_tensor *b, scbm_tensor *offsets, int n_heads,
                                   int64_t context, int causal, float fill);
scbm_tensor *scbm_attention_mix(scbm_graph *g, scbm_tensor *p, scbm_tensor *b, scbm_tensor *offsets, int n_heads);
scbm_tensor *scbm_attention_mix_transposed(scbm_graph *g, scbm_tensor *p, scbm_tensor *a, scbm_tensor *offsets,
                                           int n_heads);

scbm_tensor *scbm_attention_bias(scbm_graph *g, scbm_tensor *bias, scbm_tensor *offsets, int64_t context);

/* The parts of the linear ops, for decompositions: on a device that has these, no other linear row is needed.
 *
 * Products of matrices, stream by stream, y[s] = a[s] · b[s]ᵀ and the two that its gradients are made of:
 *   SCBM_PRODUCT_NT   a [S, T, in],  b [S, out, in]: y [S, T, out], t's number o is Σ_i a[t, i] b[o, i]
 *   SCBM_PRODUCT_NN   a [S, T, out], b [S, out, in]: y [S, T, in], Σ_o a[t, o] b[o, i]
 *   SCBM_PRODUCT_TN   a [S, T, out], b [S, T, in]:   y [S, out, in], Σ_t a[t, o] b[t, i]
 * Either may have one stream for all of the other's, as [1, ., .] or as a matrix [., .]; y is a matrix where both are. a is F32;
 * b too, or, as a matrix whose shape is fixed, of any float type. T may be a batch's size. With `in_precision` it computes in the
 * graph's precision, as scbm_linear and its gradients do (but never in integers), and else in f32; sums are f32. */
typedef enum scbm_product_form { SCBM_PRODUCT_NT, SCBM_PRODUCT_NN, SCBM_PRODUCT_TN } scbm_product_form;
scbm_tensor *scbm_product(scbm_graph *g, scbm_tensor *a, scbm_tensor *b, scbm_product_form form, int in_precision);
/* M_s ⊙ w as F32 [S, out, in], exactly 0 where a bit is off. w is [out, in] of any float type, or F32 [S, out, in]; masks as
 * scbm_linear's. */
scbm_tensor *scbm_apply_masks(scbm_graph *g, scbm_tensor *w, scbm_tensor *masks);
/* Σ_s M_s ⊙ dw_s, from the first stream on: F32 [S, out, in] to [out, in]. */
scbm_tensor *scbm_sum_masked(scbm_graph *g, scbm_tensor *dw, scbm_tensor *masks);

/* One direction of an LSTM (Hochreiter and Schmidhuber, 1997; the gates as PyTorch has them) over each text, from its last
 * token to its first if `reverse`; a text begins with zeros. x [S or 1, T, 4H] is what the gates (input, forget, cell, output)
 * get of the tokens and the biases, a linear layer's result; w [4H, H], of any float type, what they get of the state before,
 * with masks I8 [S, 4H, scbm_mask_row_bytes(H)] or NULL. The states, [S, T, H]. (The node's other results are the gates
 * [S, T, 4H] and cells [S, T, H]; lstm_back, of dy, y, gates, cells, w, offsets and masks, gives the gradient of x, stream by
 * stream, and the state before each token, of which linear_back_w makes that of w in any of its modes.) */
scbm_tensor *scbm_lstm(scbm_graph *g, scbm_tensor *x, scbm_tensor *w, scbm_tensor *masks, scbm_tensor *offsets,
                       int reverse);

/* x [S, T, d] to [S, N, d]: each text's mean, its first or its last token. An empty text gives zeros. */
scbm_tensor *scbm_segment_mean(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets);
scbm_tensor *scbm_segment_first(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets);
scbm_tensor *scbm_segment_last(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets);
/* β x_n + (1 − β) x_π(n): x [S, N, d], permutation I32 [N], beta F32 [1] (C3M's concept-level MixUp). */
scbm_tensor *scbm_mix_texts(scbm_graph *g, scbm_tensor *x, scbm_tensor *permutation, scbm_tensor *beta);

/* The weighted mean cross-entropy, [1]. logits [N, C]; groups I32 [K + 1] cuts C into K softmaxes. targets:
 * I32 [N, K] classes within the group, negative = ignored; or F32 [N, C] probabilities, a group that sums to
 * 0 = ignored. class_weights F32 [C] or NULL: Σ w ℓ / Σ w as PyTorch has it. No counted target gives 0. */
scbm_tensor *scbm_cross_entropy(scbm_graph *g, scbm_tensor *logits, scbm_tensor *targets, scbm_tensor *groups,
                                scbm_tensor *class_weights);

/* Ops that update: they write a source, marked *, which is a tensor of the caller's and no other source of the op, and may
 * have no result. Nodes run as if in the order in which they were added: what is added before such a node reads the values
 * before, what is added after it those after. (The plan may run one sooner, where nobody sees a difference, so that what it
 * reads need not be kept.) From the first of several such nodes in a row to the last no hook is asked whether to
 * stop: they are done whole or not at all. The tensor's generation is raised.
 *
 * sum* += a; or, where `keep` (F32 [1]) is 0, sum* = a. F32 of one shape. */
typedef struct scbm_node scbm_node; /* see the op table */
scbm_node *scbm_accumulate(scbm_graph *g, scbm_tensor *sum, scbm_tensor *a, scbm_tensor *keep);
/* What gradients are clipped and weights stepped by; scbm_graph_adamw adds them. norms F32 [n, 2] is a pair of f32 for each
 * gradient, whose sum is Σ g² (the second is what the first lacks), so that no device needs doubles:
 *   square_sum  g, norms*: pair `integer[0]` of the norms
 *   clip        norms, stopped* F32 [1]: F32 [3], which is the norm √Σ of all pairs in order, the factor (scalar[0] over the
 *               norm where that is larger; else, or where scalar[0] is 0, 1), and whether `stopped` is set: it is when a norm
 *               is not finite (as it is from 1.8e19 on), and stays so until the host has cleared it
 *   adamw       w*, m*, v*, g, numbers F32 [6 + 2 n], clip's result: one step of parameter `integer[0]`, none where stopped.
 *               The numbers are rate, 1 − β₁ᵗ, 1 − β₂ᵗ, β₁, β₂, ε, then each parameter's learning rate and weight decay */

/* What pruning and explanations make of the gradients dw [S, out, in] of W ⊙ M_s (see scbm_graph_set_weight_gradients). The
 * plan runs the first two as soon as there is a gradient, so that many large ones need the memory of one.
 *
 * sums* F64 [S, blocks, B (B + 1) / 2] += g gᵀ for each block of `block` = B weights of a stream in row-major order, its lower
 * triangle row by row; the last block may be shorter. */
scbm_node *scbm_fisher_add(scbm_graph *g, scbm_tensor *sums, scbm_tensor *dw, int64_t block);
/* Σ_j |w_ij dw_sij|: F32 [S, out]. w [out, in] of any float type. */
scbm_tensor *scbm_row_saliency(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w);
/* Gradients of learned scores F32 [S, out, in] that decide which weights the masks keep, straight through, by the dense dw:
 * result 0, F32 [S, out, in], is dw ⊙ W · sign(score), where 0 counts as positive; result 1, F32 [out, in], is the weights'
 * own, Σ_s M_s ⊙ dw_s. */
scbm_node *scbm_popup_back(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w, scbm_tensor *score, scbm_tensor *masks);
/* w² / (2 [F⁻¹]_jj), F64 [S, out, in], with F = δI + sums / m in blocks of `block` weights. numbers F64 [3] are m, the damping
 * as a share of a stream's mean Σ g² / m of kept weights, and δ itself, which counts where it is above 0. w is F32. */
scbm_tensor *scbm_fisher_scores(scbm_graph *g, scbm_tensor *sums, scbm_tensor *w, scbm_tensor *masks,
                                scbm_tensor *numbers, int64_t block);
/* Sets the masks* [S, out, row bytes] so that `zeros` (I32 [1]) of each stream's weights are off: those of the smallest
 * scores, and where scores are equal those that come first. Scores are F64 [S, out, in], a NaN being the smallest; or F32
 * [S, out, in] or [out, in] (for every stream), which stand for their absolute values. */
typedef enum scbm_choice {
    SCBM_KEEP_NESTED = 1, /* a weight that is off stays off (it goes first); without it the choice is among all */
    SCBM_KEEP_ROWS = 2    /* whole rows go, by the norms of their F32 scores; zeros counts rows */
} scbm_choice;
scbm_node *scbm_keep_largest(scbm_graph *g, scbm_tensor *score, scbm_tensor *masks, scbm_tensor *zeros, int choice);
/* Of the weights that masks `after` keep, how many the nested choice by these scores from masks `before` would keep too: I32
 * [S]. */
scbm_tensor *scbm_agree(scbm_graph *g, scbm_tensor *score, scbm_tensor *before, scbm_tensor *after, scbm_tensor *zeros);
/* The moves of a step on one mask [1, out, row bytes], by the dense gradient dw [1, out, in]: q kept weights go and q zeros
 * come, those of the smallest scores, then places. With G = dw w: by the signed rule a weight that goes has the score −G, one
 * that comes G, and only negative scores move; else |G|, and −|G|. wanted I32 [n, 2] has (q, whether signed) for each of n
 * matrices, of which `which` is meant. moves* I32 [2, capacity] gets the places of bits, of those that go and those that come,
 * in order of score, and counts* I32 [n] how many there are, q or fewer. w is of any float type. */
scbm_node *scbm_mask_moves(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w, scbm_tensor *masks, scbm_tensor *wanted,
                           scbm_tensor *moves, scbm_tensor *counts, int64_t which);
/* Makes the first moves in masks*, or takes them back: wanted I32 [n, 2] has (how many, whether back). */
scbm_node *scbm_flip_bits(scbm_graph *g, scbm_tensor *masks, scbm_tensor *moves, scbm_tensor *counts,
                          scbm_tensor *wanted, int64_t which);

/* ------------------------------------------------------------------------------------------
 * The op table. An op is one row; backends, the conformance test and the gradient test walk it.
 * ---------------------------------------------------------------------------------------- */

typedef enum scbm_op {
    SCBM_OP_GET_ROWS,
    SCBM_OP_GET_ROWS_BACK,
    SCBM_OP_ADD,
    SCBM_OP_MUL,
    SCBM_OP_SCALE,
    SCBM_OP_SUM_TO,
    SCBM_OP_BROADCAST,
    SCBM_OP_RESHAPE,
    SCBM_OP_COPY,
    SCBM_OP_CAST,
    SCBM_OP_CONCAT,
    SCBM_OP_SLICE,
    SCBM_OP_SLICE_BACK,
    SCBM_OP_LINEAR,
    SCBM_OP_LINEAR_BACK_X,
    SCBM_OP_LINEAR_BACK_W,
    SCBM_OP_GROUP_LINEAR,
    SCBM_OP_GROUP_LINEAR_BACK_Z,
    SCBM_OP_GROUP_LINEAR_BACK_W,
    SCBM_OP_LAYER_NORM,
    SCBM_OP_ADD_LAYER_NORM,
    SCBM_OP_LAYER_NORM_BACK,
    SCBM_OP_RMS_NORM,
    SCBM_OP_RMS_NORM_BACK,
    SCBM_OP_ACTIVATE,
    SCBM_OP_ACTIVATE_BACK,
    SCBM_OP_SOFTMAX,
    SCBM_OP_SOFTMAX_BACK,
    SCBM_OP_DROPOUT,
    SCBM_OP_ATTENTION,
    SCBM_OP_ATTENTION_BACK,
    SCBM_OP_ATTENTION_SCORES,
    SCBM_OP_ATTENTION_MIX,
    SCBM_OP_ATTENTION_MIX_TRANSPOSED,
    SCBM_OP_ATTENTION_BIAS,
    SCBM_OP_ATTENTION_BIAS_BACK,
    SCBM_OP_SEGMENT_MEAN,
    SCBM_OP_SEGMENT_MEAN_BACK,
    SCBM_OP_SEGMENT_FIRST,
    SCBM_OP_SEGMENT_FIRST_BACK,
    SCBM_OP_SEGMENT_LAST,
    SCBM_OP_SEGMENT_LAST_BACK,
    SCBM_OP_MIX_TEXTS,
    SCBM_OP_MIX_TEXTS_BACK,
    SCBM_OP_CROSS_ENTROPY,
    SCBM_OP_CROSS_ENTROPY_BACK,
    SCBM_OP_ACCUMULATE,
    SCBM_OP_SQUARE_SUM,
    SCBM_OP_CLIP,
    SCBM_OP_ADAMW,
    SCBM_OP_FISHER_ADD,
    SCBM_OP_ROW_SALIENCY,
    SCBM_OP_POPUP_BACK,
    SCBM_OP_FISHER_SCORES,
    SCBM_OP_KEEP_LARGEST,
    SCBM_OP_AGREE,
    SCBM_OP_MASK_MOVES,
    SCBM_OP_FLIP_BITS,
    SCBM_OP_LSTM,
    SCBM_OP_LSTM_BACK,
    SCBM_OP_PRODUCT,
    SCBM_OP_APPLY_MASKS,
    SCBM_OP_SUM_MASKED,
    SCBM_OP_COUNT
} scbm_op;

#define SCBM_MAX_SOURCES 8
#define SCBM_MAX_RESULTS 4

/* A node of a graph: one op applied. Absent optional sources are NULL. */
struct scbm_node {
    scbm_op op;
    int n_sources, n_results;
    scbm_tensor *source[SCBM_MAX_SOURCES];
    scbm_tensor *result[SCBM_MAX_RESULTS];
    /* What the op needs beside tensors; which of them counts is in the op's row. */
    float scalar[2];    /* factor, epsilon, scale, fill, dropout's p, clipping norm */
    int64_t integer[4]; /* activation, heads, causal, first column, context, mode, dropout's place, which parameter, reverse */
};

typedef struct scbm_op_info {
    const char *name;              /* "layer_norm_back" */
    int min_sources, n_sources;    /* the first min_sources are required */
    int n_results;
    int has_backward;              /* a rule that scbm_graph_backward can follow */
    int has_decomposition;
    unsigned in_place;             /* bit i: the first result may take source i's memory */
    unsigned updates;              /* bit i: source i, a tensor of the caller's, is written */
} scbm_op_info;

const scbm_op_info *scbm_op_of(scbm_op op);

/* The general way to add a node; the functions above are made of it. Sources are checked against
 * the op's row and shape rule; the results are made. Returns the node, or NULL (the reason is kept). */
scbm_node *scbm_graph_add(scbm_graph *graph, scbm_op op, int n_sources, scbm_tensor *const *sources,
                          const float scalar[2], const int64_t integer[4]);
int scbm_graph_nodes(const scbm_graph *graph);
const scbm_node *scbm_graph_node(const scbm_graph *graph, int index);

/* ------------------------------------------------------------------------------------------
 * Backends: what a device implements. See "Porting to a new device" in the README.
 * ---------------------------------------------------------------------------------------- */

/* One node with the shapes of this run, as a kernel gets it. */
typedef struct scbm_view {
    scbm_type type;
    int n_dims;
    int64_t shape[SCBM_MAX_DIMS];  /* of this batch */
    void *data;                    /* in the backend's memory */
    const scbm_tensor *tensor;
} scbm_view;

typedef struct scbm_kernel_call {
    const scbm_node *node;
    scbm_view source[SCBM_MAX_SOURCES];  /* data NULL where absent */
    scbm_view result[SCBM_MAX_RESULTS];
    void *scratch;                       /* as many bytes as the kernel's scratch() asked for */
    scbm_precision precision;
    uint64_t seed, step;
    int64_t tokens, texts;
} scbm_kernel_call;

/* Work for a device, done in the order in which it is given, at the latest when somebody waits. Each context has one. What a
 * backend keeps of its own with it lies behind this, so a kernel takes only queues that its own backend's queue_create made. */
typedef struct scbm_queue {
    scbm_backend *backend;
    scbm_context *context; /* whose it is; a kernel that runs on the host has its loops there: scbm_parallel */
} scbm_queue;

/* A backend's row for an op. */
typedef struct scbm_kernel {
    /* Computes the node or queues it; `call` is no more when it returns. What the sources hold as an index (ids, offsets,
     * groups, targets) has been checked against their shapes. NULL: the backend lacks the op. */
    scbm_status (*run)(scbm_queue *queue, const scbm_kernel_call *call);
    /* The bytes of scratch for a call of the capacity's shapes, whose data are NULL; smaller batches need no more. NULL: none */
    size_t (*scratch)(scbm_queue *queue, const scbm_kernel_call *call);
    /* 1 if this node can be run: types and attributes are the node's. NULL: every one that the op's shape rule allows. */
    int (*supports)(scbm_backend *backend, const scbm_node *node, scbm_precision precision);
} scbm_kernel;

/* Raised when a backend that was written for another one would not work. */
#define SCBM_BACKEND_VERSION 3

typedef struct scbm_backend_functions {
    uint32_t version;           /* SCBM_BACKEND_VERSION */
    const char *name;
    int is_host;                /* the kernels work on the host's own memory: nothing is copied, and what is only for a
                                 * device's memory may be NULL */
    int n_kernels;              /* SCBM_OP_COUNT of the header that it was compiled with: ops that came later are lacking */
    const scbm_kernel *kernels; /* by scbm_op. SCBM_OP_RESHAPE is never run */
    size_t alignment, padding;  /* of a graph's tensors in their memory, a power of two (0: 64), and what is left free behind
                                 * each of them (0: nothing) */
    void (*free)(scbm_backend *backend);
    const char *(*device)(scbm_backend *backend);
    scbm_status (*queue_create)(scbm_backend *backend, scbm_context *context, scbm_queue **queue);
    void (*queue_free)(scbm_queue *queue); /* nothing is left in it */
    /* Device memory of any content, aligned for the kernels and to at least 64 bytes, by any thread; NULL: out of memory. */
    void *(*allocate)(scbm_backend *backend, size_t bytes);
    void (*deallocate)(scbm_backend *backend, void *memory);
    /* Copies in the queue's order. The host's side stays as it is, or is not looked at, until wait. */
    scbm_status (*upload)(scbm_queue *queue, void *device, const void *host, size_t bytes);
    scbm_status (*download)(scbm_queue *queue, void *host, const void *device, size_t bytes);
    /* Until all that is in the queue was done. The first failure of it since the last time; the queue can be used again. */
    scbm_status (*wait)(scbm_queue *queue);
    /* The rest is optional. */
    int (*has_precision)(scbm_backend *backend, scbm_precision precision); /* NULL: F32 alone */
    /* Host memory that copies are fast from and to; NULL: plain memory does. */
    void *(*stage)(scbm_backend *backend, size_t bytes);
    void (*unstage)(scbm_backend *backend, void *memory);
} scbm_backend_functions;

/* What a backend's own begins with, zeroed but for `functions`. One may be made by hand and given to scbm_context_create; to be
 * opened by name it is registered. Either is closed by scbm_backend_close. */
struct scbm_backend {
    const scbm_backend_functions *functions;
    void *state;                    /* the backend's */
    struct scbm_residency *copies;  /* the runtime's: the caller's tensors on the device */
    int cpu_fallback;               /* of the options; set by scbm_backend_open */
};

/* Zeros, or NULL for all of them, are the defaults. */
typedef struct scbm_backend_options {
    const scbm_hooks *hooks;   /* for the backend's own memory and its log; copied; NULL: the default ones */
    /* Not 0: what the backend has no kernel for, and what has no decomposition, runs on the CPU, and what it reads and makes is
     * copied to the host and back each time. 0: only rows of pruning and explanations do, which no training step has (fisher_add and
     * those behind it); a graph with another such node has no plan. The log is told once of each row and backend. */
    int cpu_fallback;
    uint64_t reserved[8];      /* 0 */
} scbm_backend_options;

/* Opens a backend by its name:
 *     "cpu"          the CPU, with the best tier of kernels that the machine has, or the environment's SCBM_CPU
 *     "cpu:avx2"     one tier: "portable", "avx2", "avx512", "amx"; one that the machine lacks is an error
 *     "NAME", "NAME:…"   what was registered under NAME, or else the plug-in of that name; for devices of which there are
 *                    several their number follows
 *     "auto"         the first of those registered and of the plug-ins (see scbm_backend_find_plugins) that has a device and
 *                    opens, else the CPU; the log has why not
 * NULL is "cpu". A name that is not to be found, or a backend without a device here, is SCBM_ERROR_UNSUPPORTED, and the message
 * says which there are. A backend is used by any number of contexts on any threads, and is closed after all of them were freed.
 *
 * Of the CPU: "amx", where it is best or asked for, asks Linux for matrix tiles for this process: from then on its signal
 * stacks (sigaltstack) must have room for their 8 KiB too. If they are refused "cpu" takes "avx512". */
scbm_status scbm_backend_open(scbm_backend **backend, const char *name, const scbm_backend_options *options);
void scbm_backend_close(scbm_backend *backend);
/* The bytes of device memory that copies of the caller's tensors take; 0 on a host. */
size_t scbm_backend_copied(const scbm_backend *backend);

/* The devices of this machine that can be opened, the CPU first. */
typedef struct scbm_backend_info {
    char name[SCBM_MAX_NAME];         /* for scbm_backend_open: "cpu", "cuda:1" */
    char description[SCBM_MAX_NAME];  /* "cpu (avx2)" */
} scbm_backend_info;

/* scbm_backend_count looks for plug-ins first, describe knows those that were found then. */
int scbm_backend_count(void);
scbm_status scbm_backend_describe(int index, scbm_backend_info *info);

/* How a kind of backend is known by its name. */
typedef struct scbm_backend_entry {
    uint32_t version;          /* SCBM_BACKEND_VERSION: of the header that it was compiled with */
    const char *name;          /* "cuda": small letters, digits and '-'; not "auto", nor "train" */
    int (*count)(void);        /* its devices on this machine; 0 also where the driver is missing: then it is not opened */
    /* Device number `device`, in a few words. -1, where there is none: why ("no NVIDIA driver"). */
    void (*describe)(int device, char *text, size_t size);
    /* `device` is what follows the colon in the name that is opened ("1" of "cuda:1"); NULL: there was none. `options` are
     * never NULL. */
    scbm_status (*open)(scbm_backend **backend, const char *device, const scbm_backend_options *options);
} scbm_backend_entry;

/* Makes scbm_backend_open know a backend that the program links or has loaded. `entry` must stay. Refused are another version
 * of the interface and a name that is taken. Any thread may register, find, list and open backends at any time. */
scbm_status scbm_backend_register(const scbm_backend_entry *entry);

/* ------------------------------------------------------------------------------------------
 * Plug-ins: backends in shared objects of their own, which link nothing of this library
 *
 * The plug-in NAME is a file "libsparsecbm-NAME.so", looked for in
 *     the folders of the environment's SCBM_BACKEND_PATH, with colons between them; only those with an absolute path count,
 *     and none in a process with more rights than its user;
 *     the folder of the library, or of the program that it was linked into;
 *     the loader's own path (the program's run path, LD_LIBRARY_PATH, the system's folders);
 * and never in the current folder. The first one found is it: where that is of no use, no other is tried. It stays loaded. It has
 * one symbol, scbm_backend_main, which is given the table of what it may call and the library's SCBM_BACKEND_VERSION, and returns
 * its entry, whose name is NAME; one of another version is refused, by file and version. A library that was built without dlopen
 * (-DSCBM_NO_PLUGINS, or a system that has none) finds no plug-ins: the program registers what it links.
 *
 * A backend's source is the same for both. Compiled with -DSCBM_PLUGIN the functions of this table are called through it, under
 * their own names, and one file of the plug-in has
 *     SCBM_PLUGIN_MAIN(&entry)
 * outside of any function; nothing else of the library is to be called then.
 *     cc -shared -fPIC -DSCBM_PLUGIN -o libsparsecbm-NAME.so NAME.c
 * ---------------------------------------------------------------------------------------- */

/* Loads the plug-ins of SCBM_BACKEND_PATH's folders and of the library's, and "cuda" of the loader's path, and registers them.
 * The log is told, by name and reason, which cannot be used, and which registered backends have no device.
 * "auto" and scbm_backend_count do this, too. It may be called as often as wanted: what is loaded is not loaded again. */
void scbm_backend_find_plugins(const scbm_hooks *hooks);

/* What a plug-in may call. New members come at the end. */
typedef struct scbm_host {
    uint32_t version;          /* SCBM_BACKEND_VERSION of the library */
    uint32_t size;             /* sizeof(scbm_host) of the library: what lies beyond it is not there */
    scbm_status (*fail)(scbm_status status, const char *format, ...) SCBM_PRINTF(2, 3);
    const char *(*last_error)(void);
    void (*log)(const scbm_hooks *hooks, scbm_log_level level, const char *format, ...) SCBM_PRINTF(3, 4);
    void *(*alloc)(const scbm_hooks *hooks, size_t bytes);
    void (*release)(const scbm_hooks *hooks, void *pointer);
    scbm_status (*cancelled)(const scbm_hooks *hooks);
    double (*seconds)(void);
    const scbm_op_info *(*op_of)(scbm_op op);
    const scbm_type_info *(*type_of)(scbm_type type);
    const char *(*precision_name)(scbm_precision precision);
    int64_t (*tensor_elements)(const scbm_tensor *tensor);
    size_t (*tensor_bytes)(const scbm_tensor *tensor);
    int64_t (*mask_row_bytes)(int64_t in);
    scbm_status (*convert)(scbm_type to, void *destination, scbm_type from, const void *source, int64_t n);
    void (*philox)(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
    const scbm_hooks *(*context_hooks)(const scbm_context *context);
    int (*context_workers)(const scbm_context *context);
    void (*parallel)(scbm_context *context, int64_t n, scbm_task task, void *arg);
    scbm_status (*backend_open)(scbm_backend **backend, const char *name, const scbm_backend_options *options);
    void (*backend_close)(scbm_backend *backend);
} scbm_host;

/* The symbol of a plug-in. The library's version may be another than the plug-in's: then the entry alone is looked at, for its
 * version, or it is NULL. */
typedef const scbm_backend_entry *(*scbm_backend_main_function)(const scbm_host *host, uint32_t version);

#ifdef SCBM_PLUGIN
#if defined(__GNUC__) || defined(__clang__)
#define SCBM_PLUGIN_HIDDEN __attribute__((visibility("hidden")))
#define SCBM_PLUGIN_EXPORTED __attribute__((visibility("default")))
#else
#define SCBM_PLUGIN_HIDDEN
#define SCBM_PLUGIN_EXPORTED
#endif

extern SCBM_PLUGIN_HIDDEN const scbm_host *scbm_plugin_host;
SCBM_PLUGIN_EXPORTED const scbm_backend_entry *scbm_backend_main(const scbm_host *host, uint32_t version);

#define SCBM_PLUGIN_MAIN(entry)                                                                                        \
    const scbm_host *scbm_plugin_host;                                                                                 \
    const scbm_backend_entry *scbm_backend_main(const scbm_host *host, uint32_t version) {                             \
        if (version == SCBM_BACKEND_VERSION && host->size < sizeof(scbm_host)) return NULL;                            \
        scbm_plugin_host = host;                                                                                       \
        return (entry);                                                                                                \
    }

#define scbm_fail scbm_plugin_host->fail
#define scbm_last_error scbm_plugin_host->last_error
#define scbm_log scbm_plugin_host->log
#define scbm_alloc scbm_plugin_host->alloc
#define scbm_release scbm_plugin_host->release
#define scbm_cancelled scbm_plugin_host->cancelled
#define scbm_seconds scbm_plugin_host->seconds
#define scbm_op_of scbm_plugin_host->op_of
#define scbm_type_of scbm_plugin_host->type_of
#define scbm_precision_name scbm_plugin_host->precision_name
#define scbm_tensor_elements scbm_plugin_host->tensor_elements
#define scbm_tensor_bytes scbm_plugin_host->tensor_bytes
#define scbm_mask_row_bytes scbm_plugin_host->mask_row_bytes
#define scbm_convert scbm_plugin_host->convert
#define scbm_philox scbm_plugin_host->philox
#define scbm_context_hooks scbm_plugin_host->context_hooks
#define scbm_context_workers scbm_plugin_host->context_workers
#define scbm_parallel scbm_plugin_host->parallel
#define scbm_backend_open scbm_plugin_host->backend_open
#define scbm_backend_close scbm_plugin_host->backend_close
#endif /* SCBM_PLUGIN */

/* ------------------------------------------------------------------------------------------
 * AdamW with decoupled weight decay (Loshchilov and Hutter, ICLR 2019) and clipping
 * ---------------------------------------------------------------------------------------- */

typedef struct scbm_adamw scbm_adamw;

/* Zeros, or NULL for all of them, are the defaults. */
typedef struct scbm_adamw_options {
    float beta1, beta2;            /* below 1; 0: 0.9 and 0.999; negative: 0 */
    float epsilon;                 /* 0: 1e-8; negative: 0 */
    float clip_norm;               /* the gradients' global norm is scaled down to this; 0: never */
    uint64_t reserved[8];          /* 0 */
} scbm_adamw_options;

/* `params`: F32 tensors of the caller, updated in place. learning_rate and weight_decay: one per tensor, copied. An
 * optimizer is used by its context's thread and freed before its context; the parameters outlive it. */
scbm_status scbm_adamw_create(scbm_adamw **optimizer, scbm_context *context, scbm_tensor *const *params, int n,
                              const float *learning_rate, const float *weight_decay, const scbm_adamw_options *options);
void scbm_adamw_free(scbm_adamw *optimizer);
/* Adds one step as nodes of a graph, after its backward and before its plan: `gradients` (same order as the parameters, of
 * one shape with them; NULL leaves a parameter as it is, and counts in no norm) are the graph's tensors or the caller's; NULL
 * takes those that the graph has. They are outputs no more. An optimizer is of one graph at a time, the last one; it outlives
 * it. Around each run of the graph:
 *     scbm_adamw_begin(optimizer, rate)    all learning rates times `rate`
 *     scbm_graph_run(…)
 *     scbm_adamw_end(optimizer, &norm)     the gradients' norm before clipping (`norm` may be NULL). Not finite:
 *                                          SCBM_ERROR_NUMERIC, nothing was changed, and the step does not count */
scbm_status scbm_graph_adamw(scbm_graph *graph, scbm_adamw *optimizer, scbm_tensor *const *gradients);
scbm_status scbm_adamw_begin(scbm_adamw *optimizer, float rate);
scbm_status scbm_adamw_end(scbm_adamw *optimizer, float *norm);
/* Without a graph: one step with the gradients (same order; NULL leaves a parameter as it is, and counts in no norm) and all
 * learning rates times `rate`. The gradients' norm before clipping comes back in *norm (may be NULL). Not finite:
 * SCBM_ERROR_NUMERIC, and nothing was changed. */
scbm_status scbm_adamw_step(scbm_adamw *optimizer, scbm_tensor *const *gradients, float rate, float *norm);
/* The learning rate of parameter i from the next step on; 0 leaves it as it is. */
void scbm_adamw_set_rate(scbm_adamw *optimizer, int i, float learning_rate);
/* The state, for checkpoints: first and second moment of parameter i (writable), and the step count. */
scbm_tensor *scbm_adamw_moment(scbm_adamw *optimizer, int i, int second);
int64_t scbm_adamw_steps(const scbm_adamw *optimizer);
void scbm_adamw_set_steps(scbm_adamw *optimizer, int64_t steps);
/* 0 → 1 over the first `warmup` steps, then linearly to 0 at `total` (step counts from 1). */
float scbm_linear_schedule(int64_t step, int64_t warmup, int64_t total);

/* ------------------------------------------------------------------------------------------
 * Model files: GGUF version 3, little-endian
 *
 * A file is memory-mapped and checked whole when opened: every size against the file's length, every
 * type, every name. Its tensors' data point into the mapping (read-only) until scbm_file_close.
 * A mapped file must stay as it is: to read what was cut off of it ends the process (SIGBUS), and what is written into it is
 * read as weights. Replace it by renaming another file over it, as scbm_writer_write does: the mapping keeps the old one.
 * GGUF lists dimensions innermost first; here they are outermost first as everywhere.
 * ---------------------------------------------------------------------------------------- */

typedef struct scbm_file scbm_file;

typedef enum scbm_value_type {   /* GGUF's numbers */
    SCBM_VALUE_U8, SCBM_VALUE_I8, SCBM_VALUE_U16, SCBM_VALUE_I16, SCBM_VALUE_U32, SCBM_VALUE_I32,
    SCBM_VALUE_F32, SCBM_VALUE_BOOL, SCBM_VALUE_STRING, SCBM_VALUE_ARRAY, SCBM_VALUE_U64, SCBM_VALUE_I64,
    SCBM_VALUE_F64
} scbm_value_type;

scbm_status scbm_file_open(scbm_file **file, const char *path, const scbm_hooks *hooks);
/* From memory, which must outlive the file and be aligned to 8 bytes (a misaligned start is copied).
 * `name` stands for the path in messages. */
scbm_status scbm_file_open_memory(scbm_file **file, const void *data, size_t size, const char *name,
                                  const scbm_hooks *hooks);
void scbm_file_close(scbm_file *file);
/* SCBM_ERROR_IO where a mapped file has another size or time of change than when it was opened: for a look before the tensors
 * are read, which finds the usual case of a file that was overwritten in place. One call of the system. */
scbm_status scbm_file_check(const scbm_file *file);
const char *scbm_file_path(const scbm_file *file);
size_t scbm_file_size(const scbm_file *file);

int64_t scbm_file_n_keys(const scbm_file *file);
const char *scbm_file_key(const scbm_file *file, int64_t index);
int64_t scbm_file_find_key(const scbm_file *file, const char *key); /* -1: not there */
scbm_value_type scbm_file_key_type(const scbm_file *file, int64_t index); /* ARRAY for arrays */
scbm_value_type scbm_file_array_type(const scbm_file *file, int64_t index);
int64_t scbm_file_array_length(const scbm_file *file, int64_t index); /* 1 for a plain value */

/* Values by key. A missing key or another type is an error that names file and key; the _or forms return `otherwise`
 * when the key is missing or of another kind. Integers of any width are accepted where they fit. Strings are
 * NUL-terminated, valid until the file is closed; a string with a NUL inside is refused when opening. */
scbm_status scbm_file_get_int(const scbm_file *file, const char *key, int64_t *value);
scbm_status scbm_file_get_float(const scbm_file *file, const char *key, double *value);
scbm_status scbm_file_get_string(const scbm_file *file, const char *key, const char **value);
int64_t scbm_file_int_or(const scbm_file *file, const char *key, int64_t otherwise); /* booleans are 0 and 1 */
double scbm_file_float_or(const scbm_file *file, const char *key, double otherwise);
const char *scbm_file_string_or(const scbm_file *file, const char *key, const char *otherwise);
/* Elements of arrays, by the key's index; element 0 of a plain value. */
scbm_status scbm_file_int_at(const scbm_file *file, int64_t key_index, int64_t i, int64_t *value);
scbm_status scbm_file_float_at(const scbm_file *file, int64_t key_index, int64_t i, double *value);
scbm_status scbm_file_string_at(const scbm_file *file, int64_t key_index, int64_t i, const char **value);

int64_t scbm_file_n_tensors(const scbm_file *file);
scbm_tensor *scbm_file_tensor(scbm_file *file, int64_t index);
scbm_tensor *scbm_file_find_tensor(scbm_file *file, const char *name); /* NULL: not there */
/* Every tensor whose name ends in `end` ("attn_qkv.weight") is from now on n tensors of equal numbers of its rows, one after the
 * other, whose names end in parts[i] instead. Pointers to tensors of this file that were handed out before are void then; with
 * no such tensor nothing happens. */
scbm_status scbm_file_split_tensors(scbm_file *file, const char *end, const char *const *parts, int n);

/* Writing: collect, then write in one go to a temporary name beside `path`, flush, and rename. The writer
 * copies keys and values; tensors' data is read when writing and must stay until then. */
typedef struct scbm_writer scbm_writer;

scbm_status scbm_writer_create(scbm_writer **writer, const scbm_hooks *hooks);
void scbm_writer_free(scbm_writer *writer);
/* Setting a key again replaces it. Errors are kept and come back from scbm_writer_write. */
void scbm_writer_set_int(scbm_writer *writer, const char *key, scbm_value_type type, int64_t value);
void scbm_writer_set_float(scbm_writer *writer, const char *key, scbm_value_type type, double value);
void scbm_writer_set_bool(scbm_writer *writer, const char *key, int value);
void scbm_writer_set_string(scbm_writer *writer, const char *key, const char *value);
/* GGUF's keys that say of what type most of the file's tensors are. */
void scbm_writer_set_file_type(scbm_writer *writer, scbm_type type);
void scbm_writer_set_strings(scbm_writer *writer, const char *key, const char *const *values, int64_t n);
void scbm_writer_set_ints(scbm_writer *writer, const char *key, scbm_value_type type, const int64_t *values, int64_t n);
void scbm_writer_set_floats(scbm_writer *writer, const char *key, scbm_value_type type, const double *values, int64_t n);
/* All keys and values of a file that was read (to rewrite a model with changes). */
void scbm_writer_copy_keys(scbm_writer *writer, const scbm_file *file);
void scbm_writer_remove_key(scbm_writer *writer, const char *key);
/* `tensor` (kept by pointer) is written under its name, as `type`: converted while writing. A row
 * that is no multiple of 32 stays F16 where a quantized type was asked for. */
void scbm_writer_add_tensor(scbm_writer *writer, const scbm_tensor *tensor, scbm_type type);
/* The same for a tensor without data: when its turn comes, `produce` fills `data`, scbm_tensor_bytes(tensor) of zeroed
 * memory that is released as soon as it is written, so that large results need the memory of one. A status other than
 * SCBM_OK ends the writing and comes back from it; say why with scbm_fail. */
typedef scbm_status (*scbm_produce_function)(void *user, const scbm_tensor *tensor, void *data);
void scbm_writer_add_tensor_from(scbm_writer *writer, const scbm_tensor *tensor, scbm_type type,
                                 scbm_produce_function produce, void *user);
/* The cancel hook is asked before each tensor. */
scbm_status scbm_writer_write(scbm_writer *writer, const char *path);

/* Any file, replaced atomically: bytes go to a temporary name beside `path`, "<path>.<n>.tmp"; commit flushes and renames,
 * abandon (accepts NULL) removes it. Both free it. Write errors are kept until commit. What a process that was killed has left
 * of such names is removed by the next one that writes `path`. */
typedef struct scbm_output_file scbm_output_file;
scbm_status scbm_output_open(scbm_output_file **output, const char *path, const scbm_hooks *hooks);
void scbm_output_write(scbm_output_file *output, const void *bytes, size_t size);
void scbm_output_print(scbm_output_file *output, const char *format, ...) SCBM_PRINTF(2, 3);
scbm_status scbm_output_commit(scbm_output_file *output);
void scbm_output_abandon(scbm_output_file *output);
/* Removes the temporary files that this process is writing: for the handler of a signal that ends it at once (it is
 * async-signal-safe). What goes on writing gets an error at its commit. */
void scbm_output_remove_temporary(void);

/* A whole file in memory (mapped where possible), NUL not added; for parsers. */
typedef struct scbm_bytes { const unsigned char *data; size_t size; void *handle; } scbm_bytes;
scbm_status scbm_bytes_open(scbm_bytes *bytes, const char *path, const scbm_hooks *hooks);
void scbm_bytes_close(scbm_bytes *bytes, const scbm_hooks *hooks);
/* What a file of these bytes is, for a reader that wanted something else, and what to do with it: "a Git LFS pointer, not
 * the file itself; `git lfs pull` fetches it". The first 512 bytes tell. NULL: nothing that is known. With any_text what
 * is text is not looked at, but for pointers: a web page may be what a reader of texts wants. */
const char *scbm_bytes_recognize(const void *data, size_t size, int any_text);
/* Memory that holds data[0 … n), which lie in `bytes`, goes back to the system where the file is mapped. They stay what
 * they are: who looks at them again has them read again. */
void scbm_bytes_give_back(const scbm_bytes *bytes, const void *data, size_t n);

/* Numbers in text, whatever the locale. parse: the whole of text[0…length) must be a number. print: the
 * shortest text that reads back as the same double (as float: the same float); returns `text`, of 32 bytes. */
scbm_status scbm_parse_double(const char *text, size_t length, double *value);
const char *scbm_print_double(double value, char text[32]);
const char *scbm_print_float(float value, char text[32]);

#ifdef __cplusplus
}
#endif

#endif /* SPARSECBM_H */
