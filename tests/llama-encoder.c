/*
 * tests/llama-encoder.c - writes the encoder of tests/llama/encoder.h for tests/llama/compare.py: llama-encoder FILE
 */
#include "tests/llama/encoder.h"

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc == 2 && create_llama_encoder(argv[1]) == SCBM_OK) return 0;
    fprintf(stderr, "llama-encoder: %s\n", argc == 2 ? scbm_last_error() : "one file to write is expected");
    return 1;
}
