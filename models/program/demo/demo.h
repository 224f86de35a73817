/*
 * models/program/demo/demo.h - the embedded default: generated reviews, and models with random weights
 */
#ifndef CBM_DEMO_H
#define CBM_DEMO_H

#include "sparsecbm.h"

#define DEMO_CONCEPTS 4
#define DEMO_REVIEW_SIZE 1024

extern const char *const demo_concepts[DEMO_CONCEPTS]; /* "food", … */

typedef struct demo_review {
    char text[DEMO_REVIEW_SIZE];
    const char *label;                  /* "1" … "5", rarely "no majority" */
    const char *concept[DEMO_CONCEPTS]; /* "Negative", "Positive" or "unknown" */
    int is_true;                        /* nothing of it was mislabelled on purpose */
    int n_twisted;                      /* phrases that name the opposite judgement: "was not bland" */
} demo_review;

/* Review `number` of the collection `seed`: a short text, a label of 1 to 5 stars and four concepts, some of them
 * mislabelled on purpose. */
void demo_make_review(demo_review *review, uint64_t seed, uint64_t number);
/* Reviews first … first + n - 1 as CSV: review,stars,food,service,noise,price. */
scbm_status demo_write_reviews(const char *path, uint64_t seed, uint64_t first, uint64_t n, const scbm_hooks *hooks);

typedef struct demo_shape {
    int hidden, layers, heads, feed_forward, max_tokens;
} demo_shape;

/* A BERT-shaped encoder with random weights, and a WordPiece vocabulary of the words in reviews 0 … n - 1
 * and of single letters, so that any text can be read. */
scbm_status demo_write_encoder(const char *path, const demo_shape *shape, uint64_t seed, uint64_t n,
                               const scbm_hooks *hooks);

#endif
