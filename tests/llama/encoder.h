/*
 * tests/llama/encoder.h - the cased encoder that llama.cpp's answers are kept of: random weights, the same everywhere
 */
#ifndef TEST_LLAMA_ENCODER_H
#define TEST_LLAMA_ENCODER_H

#include "models/cbm-train.h"

static inline scbm_status create_llama_encoder(const char *path) {
    static const char *const tokens[] = {
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "the", "The",   "food", "was",    "great",
        "Great", "soup",  "Soup",  "Caf",   "caf",    "##é",       "##e", "é",     "É",    "Berlin", "berlin",
        "is",    "cold",  "##er",  "##est", "##s",    "##S",       "a",   "A",     "b",    "##b",    "##a",
        "1",     "2",     "##2",   "好",    "吃",     "##好",      ".",   ",",     "!",    "?",      "-",
        "'",     "\"",    "(",     ")",     "[",      "]",         "#",   "##ing", "wait", "Wait",   "##ed",
        "no",    "No",    "and",   "staff", "rude",   "ß",         "ü",   "über",  "Über"};
    const cbm_random_encoder_options options = {.hidden = 64,
                                                .blocks = 2,
                                                .heads = 2,
                                                .feed_forward = 128,
                                                .max_tokens = 64,
                                                .seed = 14,
                                                .deviation = 0.2,
                                                .name = "tiny cased BERT",
                                                .cased = 1,
                                                .tokens = tokens,
                                                .n_tokens = (int)(sizeof tokens / sizeof tokens[0])};
    return cbm_random_encoder_write(path, &options);
}

#endif
