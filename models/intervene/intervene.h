/*
 * models/intervene/intervene.h - a context's interventions from the inside: overlay.c, moves.c, intervene.c and oracle.c
 *
 * A context's overlay is a backbone that shares the model's weights and has masks of its own, of one stream: a copy of
 * the concept's planes, which the steps change. Two graphs run on it: the concept's logits and cross-entropy, and the
 * same with the dense gradient of every prunable matrix, of which nodes keep only the bits to move; a third flips them.
 */
#ifndef CBM_INTERVENE_H
#define CBM_INTERVENE_H

#include "models/core/context.h"

typedef struct cbm_overlay cbm_overlay;

/* ------------------------------------------------------------------------------------------
 * Moves: which bits of a matrix's mask a step changes (moves.c)
 * ---------------------------------------------------------------------------------------- */

/* A matrix's masks and what the next step moves. */
typedef struct cbm_overlay_matrix {
    const cbm_parameter *parameter; /* of the model */
    scbm_tensor masks;              /* I8 [1, out, row bytes], the overlay's own */
    scbm_tensor moves;              /* I32 [2, room]: see scbm_mask_moves */
    int64_t kept;                   /* weights; no step changes their number */
} cbm_overlay_matrix;

/* Makes room for the moves of steps of the overlay's portion, each way and matrix. Graphs are made anew where it had to be made
 * larger. */
scbm_status cbm_moves_reserve(cbm_overlay *overlay);
/* Adds the choice of the moves to the gradients' graph, and asks for those of a step of the overlay's portion before it
 * runs. */
void cbm_moves_add(cbm_overlay *overlay, int matrix, scbm_tensor *gradient);
void cbm_moves_want(cbm_overlay *overlay);
/* How many there are, each way, of all matrices; what has run must have chosen them. */
scbm_status cbm_moves_count(cbm_overlay *overlay, int64_t *n);
/* Makes the moves, or takes them back: all of them, or with a smaller portion than the step's those of the smallest scores. */
scbm_status cbm_moves_apply(cbm_overlay *overlay, double portion, int undo);

/* ------------------------------------------------------------------------------------------
 * The overlay (overlay.c)
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_overlay_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *targets, *logits, *loss; /* I32 [1, K], [1, C], [1] */
} cbm_overlay_graph;

/* The text, and what it reads now. */
typedef struct cbm_overlay_text {
    uint64_t run;  /* of the context, that brought it; 0: there is none */
    size_t number; /* of that run's */
    cbm_sequences sequence;
    float *base;              /* [C]: the concepts' logits without interventions */
    float *computed, *values; /* [C]: their logits now, and u */
} cbm_overlay_text;

/* What the progress hook is told: steps of one intervention, or texts of an oracle. */
typedef struct cbm_overlay_progress {
    int counts_texts;
    int64_t done, total;
} cbm_overlay_progress;

struct cbm_overlay {
    cbm_context *ctx;
    cbm_backbone backbone; /* the model's tensors, the overlay's masks */
    cbm_overlay_matrix *matrix;
    int n_matrices;   /* 0 in a dense model */
    int64_t capacity; /* tokens that the graphs hold */
    cbm_overlay_graph forward, gradient;
    scbm_graph *flips;          /* of all matrices' bits */
    scbm_tensor *wanted, *flip; /* inputs of the gradients' and of the flips' graph: I32 [matrices, 2] */
    scbm_tensor counts;         /* I32 [matrices]: moves there are */
    cbm_overlay_text text;
    /* Of the intervention at hand: */
    const cbm_intervene_options *options;
    double portion; /* of the step at hand, at most */
    cbm_overlay_progress progress;
    float *former; /* [2 max R]: the concept's logits and values before it, for where it fails */
    /* What the caller gets: */
    cbm_intervention result;
    cbm_prediction predictions[2]; /* before, after */
    float *place_numbers[2];       /* what they point to */
    cbm_concept_result *place_concepts[2];
};

scbm_status cbm_overlay_create(cbm_context *ctx);
/* NULL: the context has none yet. */
cbm_overlay *cbm_overlay_of(const cbm_context *ctx);
/* Text `i` of the context's last run becomes the overlay's, without interventions. */
scbm_status cbm_overlay_load_text(cbm_overlay *overlay, size_t i);
/* Starts from the model's mask of a concept. */
void cbm_overlay_load_masks(cbm_overlay *overlay, int concept);
/* Bits that differ from the model's now, after which the host has the masks. */
scbm_status cbm_overlay_count_moved(cbm_overlay *overlay, int concept, int64_t *moved);
/* Graphs that hold the text and the moves. */
scbm_status cbm_overlay_prepare_graphs(cbm_overlay *overlay);
void cbm_overlay_free_graphs(cbm_overlay *overlay);
/* The cross-entropy of a concept with a class under the overlay's masks; the gradient's graph also chooses the moves. */
scbm_status cbm_overlay_run(cbm_overlay *overlay, cbm_overlay_graph *graph, int concept, int class_index, double *loss);
/* Asks the progress hook. */
scbm_status cbm_overlay_tell(cbm_overlay *overlay);
/* What the text reads now, as prediction 0 or 1 of the overlay's. */
const cbm_prediction *cbm_overlay_predict(cbm_overlay *overlay, int place);

/* The masks I8 [1, out, row bytes] of a weight as the last mask intervention left them; NULL: there are none. */
const scbm_tensor *cbm_overlay_masks(const cbm_context *ctx, const scbm_tensor *weight);

static inline const scbm_hooks *cbm_overlay_hooks(const cbm_overlay *overlay) {
    return &overlay->ctx->hooks;
}

static inline const cbm_heads *cbm_overlay_heads(const cbm_overlay *overlay) {
    return &overlay->ctx->model->network.heads;
}

/* ------------------------------------------------------------------------------------------
 * One intervention (intervene.c)
 * ---------------------------------------------------------------------------------------- */

/* On the overlay's text, which is what it was before where this fails; the options have been checked. The result is the
 * overlay's. */
scbm_status cbm_intervene_text(cbm_overlay *overlay, int concept, int class_index,
                               const cbm_intervene_options *options);
/* The class that a concept reads. */
int cbm_concept_reads(const cbm_heads *heads, const float *logits, int concept);

#endif
