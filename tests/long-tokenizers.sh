#!/bin/sh
# tests/long-tokenizers.sh - 100,000 texts of each byte-level BPE, of MPNet's WordPiece and of each Unigram, and every character,
# against Hugging Face's. Needs the virtual environment of tests/parity (make test-parity makes it); without it nothing is
# compared, which is said.
python=${VENV:-build/venv}/bin/python
if [ ! -x "$python" ]; then
    echo "no $python: make test-parity makes it"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
if SPARSECBM_TEXTS=100000 "$python" -m pytest -q tests/parity/test_parity_bpe.py tests/parity/test_parity_unigram.py \
    -k "texts or own or every_character or strings or code_point or sentencepiece_files" >log.$$ 2>&1; then
    tail -n 1 log.$$ && rm -f log.$$
    echo "1 passed, 0 failed, 0 skipped"
else
    tail -n 40 log.$$ && rm -f log.$$
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
