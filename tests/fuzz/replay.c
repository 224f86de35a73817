/*
 * tests/fuzz/replay.c - runs a fuzzer's entry point on files, for compilers without libFuzzer
 *
 *     replay-NAME FILE...
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input is in a block of exactly its size, so that AddressSanitizer sees a read past its end. */
static int replay(const char *path) {
    FILE *stream = fopen(path, "rb");
    long size = -1;
    if (stream && fseek(stream, 0, SEEK_END) == 0) size = ftell(stream);
    uint8_t *data = size < 0 ? NULL : malloc(size ? (size_t)size : 1);
    int is_read = data && fseek(stream, 0, SEEK_SET) == 0 && fread(data, 1, (size_t)size, stream) == (size_t)size;
    if (stream) fclose(stream);
    if (is_read) LLVMFuzzerTestOneInput(data, (size_t)size);
    else fprintf(stderr, "%s: cannot be read\n", path);
    free(data);
    return is_read;
}

int main(int argc, char **argv) {
    int n = 0;
    for (int i = 1; i < argc; i++) n += replay(argv[i]);
    printf("%d of %d inputs\n", n, argc - 1);
    return n == argc - 1 && n > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
