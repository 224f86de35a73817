/*
 * tests/fuzz/fuzz-sentencepiece.c - any bytes as a model of SentencePiece, for each class of tokenizers
 */
#include "convert/hf-unigram.h"
#include "tests/fuzz/require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const classes[] = {"XLMRobertaTokenizer", "CamembertTokenizer", "T5Tokenizer"};
    enum { ROWS = 120 };
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        hf_tokenizer t;
        require(cbm_hf_tokenizer_init(&t, ROWS, NULL) == SCBM_OK);
        require(cbm_hf_tokenizer_set_layout(&t, classes[i], "") == SCBM_OK);
        scbm_status status = cbm_hf_tokenizer_parse_sentencepiece(&t, data, size, "input");
        if (!status) status = cbm_hf_tokenizer_finish(&t, "input");
        if (status) check_refusal();
        else
            for (int row = 0; row < ROWS; row++) require(!t.piece[row] || t.score[row] - t.score[row] == 0);
        cbm_hf_tokenizer_clear(&t);
    }
    return 0;
}
