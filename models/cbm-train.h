/*
 * models/cbm-train.h - concept bottleneck models: data sets, training, evaluation
 *
 * What a program needs that makes models and measures them, as cbm.h is for using them.
 */
#ifndef CBM_TRAIN_H
#define CBM_TRAIN_H

#include "models/cbm-data.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_concept_loss { CBM_LOSS_PLAIN, CBM_LOSS_SIGMOID } cbm_concept_loss;

typedef struct cbm_epoch_report {
    int epoch, epochs;
    double seconds;                /* of training, without validation; 0 of epochs before a run went on */
    double train_loss, valid_loss;
    double label_accuracy, concept_accuracy, label_f1, concept_f1;   /* on the validation data */
    double sparsity;               /* of each matrix of each concept, after this epoch */
    double magnitude_overlap;      /* of what pruning kept after this epoch, the share that magnitude would keep; -1: no pruning */
    double score;                  /* what the best epoch is chosen by */
    int is_best;                   /* so far */
} cbm_epoch_report;

/* All that a run has logged, also before it went on. */
typedef struct cbm_train_history {
    int n_epochs, best_epoch;         /* best_epoch: from 1; 0: none has competed */
    const cbm_epoch_report *epoch;    /* [n_epochs] */
    int64_t n_steps;
    const float *step_loss, *step_norm; /* [n_steps] */
} cbm_train_history;

/* The prune methods, by index from 0: "obert" (second order: w² / (2 [F⁻¹]_jj); Kurtic et al., EMNLP 2022), "magnitude" (|w|),
 * "popup" (learned scores; Ramanujan et al., CVPR 2020), "popup-structured" (the same, whole output rows), "random" (for
 * comparison). NULL past the last. */
const char *cbm_prune_method_name(int index);
const char *cbm_prune_method_help(int index);      /* a line about it */

/* How the concepts' subnetworks are found. At the end of each epoch in [start, end] every matrix of every concept is pruned
 * to a sparsity that climbs linearly from initial_sparsity to sparsity; training goes on with the masks in between. Only
 * epochs from `end` on compete for the best. */
typedef struct cbm_prune_options {
    const char *method;            /* a name of the above; NULL or "none": a dense model, one encoder for all concepts */
    double sparsity;               /* the share of zeros in the end: exactly floor(s n + 1/2) of a matrix's n weights; 0: 0.7 */
    double initial_sparsity;       /* 0: 0.2, or `sparsity` where that is less; negative: 0 */
    int start, end;                /* epochs count from 1; 0: 2 and 15 */
    int fisher_block;              /* B: consecutive weights that are scored together; 0: 20 */
    int fisher_gradients;          /* m; 0: 4 B */
    int fisher_texts;              /* texts of one gradient; 0: the training's batch size */
    double damping;                /* δ, as a share of the matrix's mean squared gradient; 0: 0.1 */
    double damping_absolute;       /* … or as it is, where it is not 0 */
    size_t fisher_memory;          /* bytes for Fisher matrices: layers are scored in groups that fit; 0: up to 4 GiB */
    int freeze_weights;            /* popup: from `start` on only scores and heads learn, the encoder stays as it is */
    double score_learning_rate;    /* popup: AdamW's learning rate of the scores; 0: 0.01; negative: 0 */
    uint64_t reserved[8];          /* 0 */
} cbm_prune_options;

/* What a run or a conversion needs of memory at its height, by parts that are there at that time. */
#define CBM_MEMORY_PARTS 16
typedef struct cbm_memory_part {
    const char *what;              /* "gradients"; it lasts for ever */
    size_t bytes;
} cbm_memory_part;
typedef struct cbm_memory_plan {
    size_t bytes;                  /* resident memory of the process: the sum of the parts */
    size_t limit;                  /* what it may be; SIZE_MAX: unknown */
    const char *when;              /* "training", "pruning"; it lasts for ever */
    int n_parts;
    cbm_memory_part part[CBM_MEMORY_PARTS];
    char advice[256];              /* where it is more than the limit: the settings that make it fit, in words; or "" */
    uint64_t reserved[8];
} cbm_memory_plan;

/* All zeros are the defaults. Where 0 is a value that people set, a negative number stands for it. Each field but the last
 * ones is a row of the table of settings below. */
typedef struct cbm_train_options {
    cbm_mode mode;                 /* 0: joint */
    int max_length;                /* tokens of a text; the trained model reads as many; 0: as many as the encoder */
    cbm_pooling pooling;           /* what the heads read of a text's tokens; CBM_POOL_FILE: as the encoder's file says */
    const char *init;              /* a model with the same heads to start from; NULL: the encoder with new heads */
    int epochs;                    /* 0: 10, or 5 after the last pruning; negative: none, which only initializes */
    int batch_size;                /* texts in a step; 0: 16 */
    int accumulate;                /* batches of a step, see cbm_train; 0: 1 */
    scbm_precision precision;      /* of the steps' matrix products, see cbm_train; f32, tf32 or bf16; 0: f32 */
    const char *freeze;            /* "embeddings", or "2": they and the lowest 2 blocks do not learn; NULL: all learns */
    double learning_rate;          /* of the encoder; 0: 1e-4; negative: 0 */
    double head_learning_rate;     /* of the concept and label heads; 0: 1e-3; negative: 0 */
    double weight_decay;           /* on matrices; 0: 0.01; negative: 0 */
    double warmup;                 /* share of all steps; 0: 0.06; negative: 0 */
    double max_grad_norm;          /* 0: 1; negative: any */
    double dropout;                /* 0: as the encoder's file says; negative: none */
    int patience;                  /* stop after so many epochs without a better one; 0: never */
    double concept_weight;         /* λ; 0: 5; negative: 0 */
    cbm_concept_loss concept_loss;
    int class_weights;             /* weigh classes by inverse frequency */
    double mixup;                  /* Beta(a, a) of C3M's concept-level MixUp; 0: off */
    int refit_label;               /* joint mode: the label head is fitted anew to each epoch's frozen concept logits */
    cbm_prune_options prune;
    const char *teacher;           /* a trained model whose probabilities are targets too (distillation); NULL: none */
    double teacher_weight;         /* of that loss beside the gold classes'; 0: 1; negative: 0 */
    double temperature;            /* τ, of the teacher's probabilities and the logits that are compared with them; 0: 2 */
    double validation_split;       /* the share of the rows to validate on where there are no validation data; 0: 0.1 */
    const char *step_log;          /* CSV file: step,loss,norm; NULL: none */
    const char *order_log;         /* text file: the rows of each step; NULL: none */
    const char *epoch_log;         /* CSV file: a line an epoch; NULL: none */
    const cbm_dataset_options *columns; /* where the data came from, to be noted in the model file (see below); NULL: nothing */
    int64_t seed;                  /* of everything random; 0: 42; negative: 0 */
    int resume;                    /* go on from the checkpoint beside the output, if there is one */
    int resume_anyway;             /* also one of another device or version, or CBM_SETTING_CHANGES: to other bits, which is logged */
    /* Each may be NULL. What is trained and validated on, and what the run will need of memory, before the first step; an epoch that is over; a run that is. The
     * data sets may be parts that the run has set aside: they, the report and the history, with all that they point to,
     * are there until the function returns. */
    void (*on_data)(void *user, const cbm_dataset *train, const cbm_dataset *validation);
    void (*on_memory)(void *user, const cbm_memory_plan *plan);
    void (*on_epoch)(void *user, const cbm_epoch_report *report);
    void (*on_end)(void *user, const cbm_train_history *history);
    void *user;
    const scbm_hooks *hooks;       /* NULL: the encoder's */
    scbm_backend *backend;         /* NULL: the CPU */
    size_t memory;                 /* bytes that the process may take; 0: what the machine and its control groups leave */
    uint64_t reserved[8];          /* 0 */
} cbm_train_options;

/* Trains on `train`, chooses by `validation`, writes `output` (atomically, after every epoch that is the best so far) and
 * a checkpoint, output + ".checkpoint", after every epoch. `encoder` is read, not changed; it may be a trained model, whose
 * heads are left out; where the options have hooks, its own are called to read the texts alone. `validation` NULL: a part
 * of `train` is set aside (see cbm_dataset_split).
 * `concept_names` has a name for each concept of the data sets (NULL in vanilla mode). `options` NULL: the defaults.
 *
 * An epoch's score is the mean of label accuracy and concept accuracy on the validation data (the one alone where the
 * other has no gold class); the first of the epochs with the largest score is the best. In independent and sequential
 * mode the steps train the concepts, and the label head is fitted beside them, to the least loss: in independent mode
 * on the gold concepts (a missing one counts as its classes' frequencies), in sequential mode on the concept logits of
 * every epoch's network. MixUp and the teacher concern the steps alone (and not the gradients of pruning).
 * With a teacher the loss gets teacher_weight · τ² (CE of the label + λ CE of the concepts), each of the logits over τ
 * with the teacher's probabilities at temperature τ (Hinton et al., 2015); the teacher may be any model with the same
 * concepts and classes.  Class weights are n / (classes · the class's count).
 *
 * With `accumulate` N a step takes N batches, whose gradients are added up so that they are those of one batch N times the
 * size, up to rounding (each loss is the mean over all texts of the step); MixUp mixes within each batch, and dropout draws
 * for each. What `freeze` names is not in the optimizer, the gradient's norm and the checkpoint; learned scores of frozen
 * blocks stay as they begin.
 *
 * With `precision` bf16 the products of linear layers and those of their gradients, in the steps and in the passes that
 * pruning learns from, round what they read to bf16 and sum in f32. Everything else stays f32: the weights that the optimizer
 * moves and the file has, their gradients, norms, attention, losses, statistics, validation and the teacher. A device without
 * such products of its own multiplies the rounded operands in f32, in f32's time; the log says so.
 *
 * The progress hook gets "train" with the steps; when it cancels, model and checkpoint of the last whole epoch stay. A
 * loss or gradient that is not finite is SCBM_ERROR_NUMERIC. A run that goes on must have the same settings, data,
 * encoder and device (but see resume_anyway); its model and logs are those of a run that was never stopped. */
scbm_status cbm_train(const cbm_model *encoder, const cbm_dataset *train, const cbm_dataset *validation,
                      const char *const *concept_names, const char *output, const cbm_train_options *options);

/* What cbm_train would need with the same arguments, which does this first, and refuses to train where that is more
 * than the limit, with the advice. Texts are read and weights copied, and nothing is trained or written. `output` NULL: no
 * checkpoint is looked for. What lies in a file that is mapped counts; so does what the process had before. */
scbm_status cbm_train_plan(const cbm_model *encoder, const cbm_dataset *train, const cbm_dataset *validation,
                           const char *const *concept_names, const char *output, const cbm_train_options *options,
                           cbm_memory_plan *plan);

/* What options->columns leave in the model file, so that more data of the kind can be read by it: texts, a list of texts (the
 * columns in the order of the model's concepts), and a flag. */
#define CBM_KEY_TEXT_COLUMN "sparsecbm.columns.text"
#define CBM_KEY_LABEL_COLUMN "sparsecbm.columns.label"
#define CBM_KEY_CONCEPT_COLUMNS "sparsecbm.columns.concepts"
#define CBM_KEY_DROP_LABEL "sparsecbm.columns.drop_label"      /* a list where there are several; not there: none */
#define CBM_KEY_IGNORE_LABEL "sparsecbm.columns.ignore_label"
#define CBM_KEY_UNKNOWN "sparsecbm.columns.unknown"            /* not there: the default ones */
#define CBM_KEY_UNKNOWN_IS_MISSING "sparsecbm.columns.unknown_is_missing"
#define CBM_KEY_MERGE_CLASSES "sparsecbm.columns.merge_classes"

/* ------------------------------------------------------------------------------------------
 * The table of the settings, one row a field of cbm_train_options: what a program's options, its help, configuration files
 * and a model file's facts are made of.
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_setting_kind {
    CBM_SETTING_FLAG,    /* int: 0 or 1 */
    CBM_SETTING_INT,     /* int */
    CBM_SETTING_LONG,    /* int64_t */
    CBM_SETTING_REAL,    /* double */
    CBM_SETTING_MEMORY,  /* size_t, bytes; its number here counts MiB (2^20 bytes) */
    CBM_SETTING_CHOICE,  /* an enum, or a name (CBM_SETTING_NAME): names for numbers from `least` on */
    CBM_SETTING_TEXT,    /* const char * */
    CBM_SETTING_READS,   /* const char *: a file that is read */
    CBM_SETTING_WRITES   /* const char *: a file that is written */
} cbm_setting_kind;

enum {
    CBM_SETTING_HAS_ZERO = 1, /* 0 is a value that people set, by a negative number in the options */
    CBM_SETTING_FIXED = 2,    /* stands in the model file, and must be the same when a run goes on */
    CBM_SETTING_CHANGES = 8,  /* may be another all the same with resume_anyway: what a checkpoint holds does not depend on it */
    CBM_SETTING_NAME = 4      /* a choice whose option is its name, const char *; NULL: the first one's */
};

typedef struct cbm_train_setting {
    const char *key;         /* in model files, checkpoints and messages: "learning_rate" */
    const char *option;      /* what people write in command lines and configuration files: "lr" */
    const char *argument;    /* what stands for the value there: "X"; NULL: of flags and choices */
    const char *group;       /* "Optimization" */
    const char *help;
    /* Without what it has no effect, NULL: it always has. "teacher": that this setting is not off; "mode=joint", "prune=popup|
     * popup-structured": one of these choices; "!damping_absolute": that it is off; several, with commas between. */
    const char *needs;
    cbm_setting_kind kind;
    size_t offset;           /* in cbm_train_options */
    double standard;         /* what a 0 in the options stands for; negative: `help` says what */
    double least, most;      /* of numbers, when they are set */
    unsigned flags;
    const char *(*choice)(int number); /* of choices: NULL past the last one */
    const char *(*choice_help)(int number); /* a few words about one, or NULL; NULL: there are none about any */
} cbm_train_setting;

/* The rows, by group; NULL past the last one, or where there is no such key. */
const cbm_train_setting *cbm_train_setting_at(int i);
const cbm_train_setting *cbm_train_setting_find(const char *key);

/* What a run with these options (NULL: all zeros) has for settings: each field what it was set to, or what a 0 or a negative
 * number stands for. An error names the first setting that is out of bounds, or that does not go with another. With
 * `encoder` NULL, max_length stays 0 where it was not set. Settled options are not options: do not train with them. */
scbm_status cbm_train_settle(const cbm_train_options *options, const cbm_model *encoder, cbm_train_options *settled);
/* Of what the setting needs the first that a run with these settled options does not have; NULL: the setting has an effect. */
const char *cbm_train_setting_unmet(const cbm_train_setting *setting, const cbm_train_options *settled);

/* A setting's value, as it stands in the options: of flags, numbers and choices; of texts and files, and a choice's name. */
double cbm_train_setting_number(const cbm_train_setting *setting, const cbm_train_options *options);
const char *cbm_train_setting_text(const cbm_train_setting *setting, const cbm_train_options *options);
/* Sets the option so that the setting has this value, 0 too where it may. The text must stay as long as the options. */
void cbm_train_setting_set_number(const cbm_train_setting *setting, cbm_train_options *options, double value);
void cbm_train_setting_set_text(const cbm_train_setting *setting, cbm_train_options *options, const char *value);
/* The value in the run that wrote the model, as its file has it, for CBM_SETTING_FIXED ones; NULL: it had no effect. A
 * number is written into `text`; what is a text lives as long as the model. */
const char *cbm_train_setting_of(const cbm_train_setting *setting, const cbm_model *model, char text[32]);

/* ------------------------------------------------------------------------------------------
 * Evaluation
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_evaluation {
    size_t n;                                /* texts */
    int n_labels, n_concepts, n_classes;     /* Y, K, C = Σ R_k */
    const int32_t *first_class;              /* [K + 1]: concept k's classes are first_class[k] … of the C */
    const int32_t *label, *concept_class;    /* predictions: [n], [n, K] */
    const float *label_probability;          /* [n, Y] */
    const float *concept_probability;        /* [n, C] */
    size_t n_truncated;
    double seconds;
} cbm_evaluation;

/* Predicts every text of the data set, whose classes must be the model's. The result is the context's until its next
 * evaluation. cbm_measure measures it against data->label and data->concept_class. The progress hook gets "evaluate". */
scbm_status cbm_evaluate(cbm_context *ctx, const cbm_dataset *data, const cbm_evaluation **evaluation);

/* The oracle: every concept of the data set's texts that the model misreads is set to its gold class. */
typedef struct cbm_oracle {
    size_t n;                                       /* texts */
    const size_t *row;                              /* [n]: of the data set */
    const int32_t *label_before, *label_after;      /* [n] */
    const int32_t *concept_before, *concept_after;  /* [n, K] */
    int n_labels, n_concepts, n_classes;            /* Y, K, C = Σ R_k */
    const int32_t *first_class;                     /* [K + 1]: concept k's classes are first_class[k] … of the C */
    const float *label_probability_before, *label_probability_after;     /* [n, Y] */
    const float *concept_probability_before, *concept_probability_after; /* [n, C] */
    int64_t concepts_wrong, concepts_fixed;
    int64_t labels_fixed, labels_broken;            /* wrong → right, right → wrong */
    int64_t moved_bits, steps;
    double predict_seconds, seconds;                /* before the first intervention, and in all */
} cbm_oracle;

/* `most` texts, evenly spaced over the data set; 0: all. The result belongs to the context and lives until the next oracle;
 * afterwards the context holds no text to intervene on. The progress hook gets "predict", then "intervene" with the texts. */
scbm_status cbm_intervene_oracle(cbm_context *ctx, const cbm_dataset *data, const cbm_intervene_options *options,
                                 size_t most, const cbm_oracle **oracle);

/* ------------------------------------------------------------------------------------------
 * Files: written whole or not at all (scbm_output_open)
 * ---------------------------------------------------------------------------------------- */

/* One self-contained HTML file that explains a text. `title` stands at its top (the model's file name, say). The mask maps
 * are the model's. Of a vanilla model the page has its labels and words. */
scbm_status cbm_report_html(const char *path, const char *title, const cbm_model *model, const char *text,
                            size_t length, const cbm_explanation *explanation, const scbm_hooks *hooks);
/* A page that lists pages. `page` is where an entry's lies, as a link in HTML ("1.html"). */
typedef struct cbm_report_entry {
    const char *page, *text;
    size_t length;                 /* of the text */
    int label;
    float probability;             /* of the label */
} cbm_report_entry;
scbm_status cbm_report_index_html(const char *path, const char *title, const cbm_model *model,
                                  const cbm_report_entry *entries, size_t n, const scbm_hooks *hooks);
/* The same as cbm_report_html for a data set. */
scbm_status cbm_report_global_html(const char *path, const char *title, const cbm_model *model,
                                   const cbm_global_report *report, const scbm_hooks *hooks);
/* What a page on a training run is made of. on_end of cbm_train_options is where the history is at hand, and the data that
 * on_data was given are still there. */
typedef struct cbm_training_report {
    const cbm_train_history *history;
    const cbm_dataset *validation;    /* what the model was evaluated on, … */
    const cbm_evaluation *evaluation; /* … by cbm_evaluate; NULL: the page has no measures of classes and no confusion */
} cbm_training_report;

/* A page on the run that wrote `model`: curves of epochs and steps, each class's measures and the confusion of label and
 * concepts, and the settings that had an effect. The model may be a vanilla one. */
scbm_status cbm_report_training_html(const char *path, const char *title, const cbm_model *model,
                                     const cbm_training_report *report, const scbm_hooks *hooks);
/* Mask maps of every matrix and concept, and the overlaps, as a PNG picture with labels; not of a dense model. */
scbm_status cbm_report_png(const char *path, const char *title, const cbm_model *model,
                           const cbm_subnetworks *subnetworks, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Encoders: from other programs' files
 * ---------------------------------------------------------------------------------------- */

/* All zeros (or NULL): the folder's own settings, and matrices as F32. */
typedef struct cbm_convert_options {
    scbm_type type;                /* of the matrices: SCBM_F32 (0), F16, BF16, Q8_0 or Q4_0 */
    int max_tokens;                /* longest text, special tokens included; 0: as the folder says */
    cbm_pooling pooling;           /* CBM_POOL_FILE: as the folder says, or the mean */
    cbm_normalize normalize;       /* CBM_NORMALIZE_FILE: as the folder says */
    int verify;                    /* 1: the file is read again and compared with the folder, in 4 bytes a weight of memory */
    size_t memory;                 /* bytes that the process may take; 0: what the machine and its control groups leave */
    const scbm_hooks *hooks;       /* NULL: the default ones */
    uint64_t reserved[8];
} cbm_convert_options;

/* What was converted. */
typedef struct cbm_conversion {
    const char *architecture;      /* "bert"; it lasts for ever */
    int64_t blocks, hidden, heads, tokens, max_tokens, n_weights;
    int n_tensors, n_unused;       /* the latter: that an encoder does without: pooler, heads */
    char unused[256];              /* which, by the beginnings of their names: "cls (5), pooler (2)" */
    int n_kept_f16;                /* matrices whose rows are no multiple of 32, where a quantized type was asked for */
    cbm_pooling pooling;
    int normalize;
    cbm_memory_plan memory;        /* what it needs, also where that was too much and nothing was converted */
    double difference;             /* of the hidden states of the text that verifying runs, relative to their norm */
    uint64_t reserved[8];
} cbm_conversion;

/* What encoders there are, by index from 0 (0, NULL: no more): model_type, name, general.architecture, checkpoints; and the
 * tokenizers. Of one that is not converted but trained from scratch type and examples are
 * NULL. */
int cbm_encoder_kind_at(int index, const char **type, const char **title, const char **architecture, const char **examples);
const char *cbm_convert_tokenizer_at(int index);

/* Converts the encoder of a Hugging Face folder (config.json, model.safetensors or pytorch_model.bin or the shards of either, a
 * tokenizer's files; sentence-transformers' folders too) to the model file `output`, which is replaced when all is written.
 * Weights are read and converted one after the other; where even that, or verifying, takes more memory than there may be,
 * nothing is written. Licence and source go along where README.md or config.json say them.
 * `conversion` may be NULL. What the folder has that this version does not compute is an error that names it; the progress
 * hook gets "tensors checked", "tensors written" and "tensors verified". */
scbm_status cbm_convert(const char *folder, const char *output, const cbm_convert_options *options,
                        cbm_conversion *conversion);

/* All zeros (or NULL): the encoder as it is. */
typedef struct cbm_export_options {
    const char *concept;           /* W ⊙ M of this concept's subnetwork; NULL: W */
    const scbm_hooks *hooks;       /* NULL: the default ones */
    uint64_t reserved[8];
} cbm_export_options;

/* The way back: a model's encoder as a Hugging Face folder, which transformers (AutoModel, AutoTokenizer) and
 * sentence-transformers open: config.json, model.safetensors (F32), tokenizer.json, tokenizer_config.json, how it pools,
 * and README.md with licence and source. Concepts and label are left out. `folder` must not be there, or be empty; it
 * appears when all is written. The progress hook gets "tensors written". */
scbm_status cbm_export(const cbm_model *model, const char *folder, const cbm_export_options *options);

/* ------------------------------------------------------------------------------------------
 * Encoders with random weights: to be trained from scratch, and for tests
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_random_encoder_options {
    const char *architecture;      /* NULL: "bert" */
    int hidden, blocks, heads;     /* 0: 256, 4, 4; of "bilstm" 256 (both directions together), 1, and heads do not count */
    int embedding_width;           /* of words of a "bilstm", where it is not the hidden size; 0: 300, or the hidden size under several blocks */
    const char *vectors;           /* a fastText file (.vec or .bin) that words of a "bilstm" begin with, of that file's width; NULL: none */
    int feed_forward;              /* neurons of its hidden layer; 0: 4 · hidden */
    int max_tokens;                /* positions: the longest text, special tokens included; 0: 512 */
    uint64_t seed;
    double deviation;              /* of the normal numbers that matrices and embeddings begin with; 0: 0.02 */
    const char *name;              /* what the file says it is (general.name); NULL: "random weights" */
    int cased;                     /* 1: capital letters and accents tell words apart */
    /* The vocabulary: tokens as vocab.txt has them ("[UNK]", "the", "##ing"), or where that is NULL the characters and the
     * most frequent words of texts. Without either it is the printable ASCII characters. */
    const char *const *tokens;
    int n_tokens;
    const char *const *texts;      /* UTF-8 */
    const size_t *lengths;         /* in bytes; NULL: the texts are NUL-terminated */
    size_t n_texts;
    int max_vocabulary;            /* of tokens made of texts; 0: 30,000 */
    const scbm_hooks *hooks;       /* NULL: the default ones */
    uint64_t reserved[8];
} cbm_random_encoder_options;

/* Writes a model file with an encoder that nobody has trained, as BERT is initialized (Devlin et al., 2019): matrices and
 * embeddings are normal numbers of mean 0, norms begin as 1 and 0, biases as 0; and a WordPiece tokenizer. The same
 * options give the same bytes. `options` NULL: all defaults. The progress hook gets "tensors written". */
scbm_status cbm_random_encoder_write(const char *path, const cbm_random_encoder_options *options);

/* Concept bottleneck models with random heads and masks, to measure what subnetworks cost. */
#define CBM_RANDOM_CONCEPTS 64     /* at most */
typedef struct cbm_random_model_options {
    int n_concepts;                /* of three classes each; 0: 4 */
    double sparsity;               /* each concept keeps every prunable weight with probability 1 - sparsity; 0: 0.7,
                                      negative: no masks, a dense model */
    uint64_t seed;
    const scbm_hooks *hooks;       /* NULL: the default ones */
    uint64_t reserved[8];
} cbm_random_model_options;

/* Writes a model file with the encoder of another file, 5 labels and these concepts. `options` NULL: all defaults. */
scbm_status cbm_random_model_write(const char *path, const char *encoder_path, const cbm_random_model_options *options);
/* Draws every bit of the masks I8 [S, out, scbm_mask_row_bytes(in)] of a matrix, which is 1 with probability 1 - sparsity;
 * `state` is a seed and goes on. Returns how many weights the S masks keep together. */
int64_t cbm_draw_masks(const scbm_tensor *masks, int64_t in, double sparsity, uint64_t *state);

#ifdef __cplusplus
}
#endif

#endif
