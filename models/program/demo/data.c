/*
 * models/program/demo/data.c - reviews from word lists and templates, and an encoder with random weights
 *
 * A review has a hidden mood. Each concept is mentioned or not, well or badly, and the stars are a weighted sum of what
 * was said plus chance. A quarter of the phrases name the opposite judgement ("was not bland", "my sister found it
 * awful, but ..."), so that single words do not give the answer away, and a few labels are simply wrong.
 */
#include "models/cbm-train.h"
#include "models/program/demo/demo.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct concept_words {
    const char *const *things, *const *good, *const *bad;
    double mentioned, weight; /* how often it comes up, and what it counts for the stars */
} concept_words;

const char *const demo_concepts[DEMO_CONCEPTS] = {"food", "service", "noise", "price"};

static const char *const food_things[] = {"soup",   "pasta", "steak",    "pizza",          "salad",
                                          "bread",  "fish",  "dessert",  "curry",          "risotto",
                                          "burger", "lamb",  "omelette", "chocolate cake", NULL};
static const char *const food_good[] = {"delicious", "tasty",  "fresh",  "crisp",         "tender",
                                        "wonderful", "superb", "lovely", "well seasoned", NULL};
static const char *const food_bad[] = {"bland", "cold",  "greasy",        "stale", "overcooked",
                                       "salty", "awful", "disappointing", "burnt", NULL};
static const char *const service_things[] = {"waiter",  "waitress", "host", "bartender",
                                             "service", "owner",    "team", NULL};
static const char *const service_good[] = {"friendly", "attentive", "kind",   "quick", "patient",
                                           "charming", "wonderful", "lovely", NULL};
static const char *const service_bad[] = {"rude",      "slow",  "careless",      "cold", "impatient",
                                          "forgetful", "awful", "disappointing", NULL};
static const char *const noise_things[] = {"dining room", "music", "terrace", "bar", "crowd", "open kitchen", NULL};
static const char *const noise_good[] = {"quiet", "calm", "peaceful", "relaxed", "soft", NULL};
static const char *const noise_bad[] = {"loud", "noisy", "deafening", "hectic", "shrill", NULL};
static const char *const price_things[] = {"bill", "wine list", "lunch menu", "set menu", "price", NULL};
static const char *const price_good[] = {"fair", "cheap", "reasonable", "modest", NULL};
static const char *const price_bad[] = {"steep", "expensive", "outrageous", "excessive", NULL};

static const concept_words words[DEMO_CONCEPTS] = {
    {food_things, food_good, food_bad, 0.85, 1.0},
    {service_things, service_good, service_bad, 0.70, 0.8},
    {noise_things, noise_good, noise_bad, 0.45, 0.5},
    {price_things, price_good, price_bad, 0.50, 0.5},
};

/* %t: the thing; %a: a word for the judgement; %o: one for its opposite. */
static const char *const plain_phrases[] = {"the %t was %a",
                                            "the %t was really %a",
                                            "the %t was %a as always",
                                            "we found the %t %a",
                                            "I thought the %t was quite %a",
                                            "once again a %a %t",
                                            "such a %a %t",
                                            "the %t could not have been more %a",
                                            NULL};
static const char *const twisted_phrases[] = {"the %t was not %o at all",
                                              "the %t was anything but %o",
                                              "nobody would call the %t %o",
                                              "my sister called the %t %o, but to me it was %a",
                                              "the guide promised a %o %t, and what we got was %a",
                                              "last year the %t was %o, this time it was %a",
                                              NULL};
static const char *const fillers[] = {"We came on a Tuesday.",
                                      "A friend had told us about this place.",
                                      "It was our anniversary.",
                                      "The parking lot was full.",
                                      "We sat near the window.",
                                      "My parents joined us.",
                                      "We had booked a week ahead.",
                                      "It rained all evening.",
                                      NULL};
static const char *const verdicts[3][4] = {{"I will not be back.", "Never again.", "What a letdown.", NULL},
                                           {"It was fine.", "Maybe I will try it again.", "Nothing more to say.", NULL},
                                           {"We will be back.", "What an evening.", "Go there.", NULL}};

static const char *pick(scbm_random *random, const char *const *list) {
    uint64_t n = 0;
    while (list[n]) n++;
    return list[scbm_random_below(random, n)];
}

static int chance(scbm_random *random, double p) {
    return scbm_random_uniform(random) < p;
}

/* A text that grows in a buffer of fixed size; the longest review is far shorter. */
typedef struct text_buffer {
    char *text;
    size_t n, size;
} text_buffer;

static void append(text_buffer *buffer, const char *text) {
    for (; *text && buffer->n + 1 < buffer->size; text++) buffer->text[buffer->n++] = *text;
    buffer->text[buffer->n] = 0;
}

/* One phrase about concept k; `good` says which way it judges. Returns whether it names the opposite. */
static int append_phrase(text_buffer *buffer, scbm_random *random, int k, int good) {
    const char *thing = pick(random, words[k].things);
    const char *word = pick(random, good ? words[k].good : words[k].bad);
    const char *opposite = pick(random, good ? words[k].bad : words[k].good);
    int is_twisted = chance(random, 0.25);
    const char *phrase = pick(random, is_twisted ? twisted_phrases : plain_phrases);
    char letter[2] = {0, 0};
    for (; *phrase; phrase++) {
        if (*phrase != '%') {
            letter[0] = *phrase;
            append(buffer, letter);
        } else {
            phrase++;
            append(buffer, *phrase == 't' ? thing : *phrase == 'a' ? word : opposite);
        }
    }
    return is_twisted;
}

/* From here on, what was appended is a sentence: capital letter and full stop. */
static void finish_sentence(text_buffer *buffer, size_t start) {
    char *first = buffer->text + start;
    if (*first >= 'a' && *first <= 'z') *first = (char)(*first - 'a' + 'A');
    append(buffer, ". ");
}

/* What is said of each concept: -1 bad, 0 nothing, 1 good. */
static void choose_opinions(scbm_random *random, double mood, int opinion[DEMO_CONCEPTS]) {
    int mentioned = 0;
    for (int k = 0; k < DEMO_CONCEPTS; k++) {
        int good = chance(random, 0.5 + 0.35 * mood);
        opinion[k] = !chance(random, words[k].mentioned) ? 0 : good ? 1 : -1;
        mentioned += opinion[k] != 0;
    }
    if (!mentioned) opinion[0] = mood > 0 ? 1 : -1;
}

/* Returns how many phrases name the opposite. */
static int write_text(text_buffer *buffer, scbm_random *random, const int opinion[DEMO_CONCEPTS], int stars) {
    int32_t order[DEMO_CONCEPTS] = {0, 1, 2, 3};
    int n_twisted = 0, before = 0; /* the opinion of the phrase that an open sentence ends with */
    size_t start = 0;
    scbm_random_shuffle(random, order, DEMO_CONCEPTS);
    if (chance(random, 0.35)) {
        append(buffer, pick(random, fillers));
        append(buffer, " ");
    }
    for (int i = 0; i < DEMO_CONCEPTS; i++) {
        int k = order[i];
        if (!opinion[k]) continue;
        if (before && chance(random, 0.5)) {
            append(buffer, before == opinion[k] ? " and " : chance(random, 0.5) ? ", but " : " although ");
        } else {
            if (before) finish_sentence(buffer, start);
            start = buffer->n;
        }
        n_twisted += append_phrase(buffer, random, k, opinion[k] > 0);
        before = opinion[k];
    }
    finish_sentence(buffer, start);
    if (chance(random, 0.3)) append(buffer, pick(random, verdicts[stars < 3 ? 0 : stars == 3 ? 1 : 2]));
    while (buffer->n && buffer->text[buffer->n - 1] == ' ') buffer->text[--buffer->n] = 0;
    return n_twisted;
}

void demo_make_review(demo_review *review, uint64_t seed, uint64_t number) {
    static const char *const stars_names[] = {"1", "2", "3", "4", "5"};
    static const char *const class_names[] = {"Negative", "unknown", "Positive"};
    scbm_random random = {seed, number, 0};
    text_buffer buffer = {review->text, 0, sizeof review->text};
    int opinion[DEMO_CONCEPTS];
    double mood = 2 * scbm_random_uniform(&random) - 1;
    choose_opinions(&random, mood, opinion);
    double sum = 0.25 * scbm_random_normal(&random);
    for (int k = 0; k < DEMO_CONCEPTS; k++) sum += words[k].weight * opinion[k];
    int stars = sum < -1.1 ? 1 : sum < -0.35 ? 2 : sum < 0.35 ? 3 : sum < 1.1 ? 4 : 5;
    review->n_twisted = write_text(&buffer, &random, opinion, stars);
    int meant = stars;
    if (chance(&random, 0.06)) stars += stars == 5 || (stars > 1 && chance(&random, 0.5)) ? -1 : 1;
    review->label = chance(&random, 0.02) ? "no majority" : stars_names[stars - 1];
    review->is_true = stars == meant && review->label == stars_names[stars - 1];
    for (int k = 0; k < DEMO_CONCEPTS; k++) {
        review->concept[k] = class_names[opinion[k] + 1];
        if (chance(&random, 0.03)) review->concept[k] = class_names[scbm_random_below(&random, 3)];
        if (review->concept[k] != class_names[opinion[k] + 1]) review->is_true = 0;
    }
}

scbm_status demo_write_reviews(const char *path, uint64_t seed, uint64_t first, uint64_t n, const scbm_hooks *hooks) {
    scbm_output_file *output;
    demo_review review;
    scbm_status status = scbm_output_open(&output, path, hooks);
    if (status != SCBM_OK) return status;
    scbm_output_print(output, "review,stars");
    for (int k = 0; k < DEMO_CONCEPTS; k++) scbm_output_print(output, ",%s", demo_concepts[k]);
    scbm_output_print(output, "\n");
    for (uint64_t i = first; i < first + n; i++) {
        demo_make_review(&review, seed, i);
        scbm_output_print(output, "\"%s\",%s", review.text, review.label); /* no quote is in any word */
        for (int k = 0; k < DEMO_CONCEPTS; k++) scbm_output_print(output, ",%s", review.concept[k]);
        scbm_output_print(output, "\n");
    }
    return scbm_output_commit(output);
}

/* ------------------------------------------------------------------------------------------
 * The encoder
 * ---------------------------------------------------------------------------------------- */

scbm_status demo_write_encoder(const char *path, const demo_shape *shape, uint64_t seed, uint64_t n,
                               const scbm_hooks *hooks) {
    demo_review *reviews = scbm_alloc_array(hooks, n, sizeof *reviews);
    const char **texts = scbm_alloc_array(hooks, n, sizeof *texts);
    scbm_status status = reviews && texts ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (status == SCBM_OK) {
        for (uint64_t i = 0; i < n; i++) {
            demo_make_review(&reviews[i], seed, i);
            texts[i] = reviews[i].text;
        }
        const double deviation = 0.5 / sqrt(shape->hidden); /* small ones learn sooner so */
        const cbm_random_encoder_options options = {.hidden = shape->hidden,
                                                    .blocks = shape->layers,
                                                    .heads = shape->heads,
                                                    .feed_forward = shape->feed_forward,
                                                    .max_tokens = shape->max_tokens,
                                                    .seed = seed + 1,
                                                    .deviation = deviation,
                                                    .name = "random weights for the demonstration",
                                                    .texts = texts,
                                                    .n_texts = n,
                                                    .hooks = hooks};
        status = cbm_random_encoder_write(path, &options);
    }
    scbm_release(hooks, (void *)texts);
    scbm_release(hooks, reviews);
    return status;
}
