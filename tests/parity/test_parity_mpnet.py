"""all-mpnet-base-v2 with its real weights: tokens and embeddings equal sentence-transformers'."""

import os
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, Checkpoint, cebab_file, relative_error, run_json, write_lines
from test_parity_bpe import write_jsonl
from test_parity_tokenizer import byte_offsets
from texts import make_texts
import reference as ref

FOLDER = ROOT / os.environ.get("SPARSECBM_MPNET", "build/all-mpnet-base-v2")


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    if not (FOLDER / "model.safetensors").exists():
        pytest.skip(f"all-mpnet-base-v2 is not in {FOLDER}: tests/parity/fetch_mpnet.sh fetches it")
    return Checkpoint(FOLDER, tmp_path_factory.mktemp("mpnet"), max_tokens=384)


def test_embeddings(mpnet, cebab, hard_strings, tmp_path):
    from sentence_transformers import SentenceTransformer

    texts = ref.read_csv(cebab_file(cebab, "test_cebab")).texts[:40] + hard_strings[::4] + ["", "one", "much too long " * 300]
    path = write_lines(tmp_path / "texts.txt", [" ".join(t.split("\n")) for t in texts])
    texts = path.read_bytes().decode("utf-8").split("\n")[:-1]
    model = SentenceTransformer(str(FOLDER), device="cpu")
    model.max_seq_length = 384
    wanted = model.encode(texts, batch_size=8)
    got = np.array([row["embedding"] for row in run_json("main", "embed", "--model", mpnet.gguf(), "--file", path)])
    for text, a, b in zip(texts, got, wanted):
        assert relative_error(a, b) <= 1e-5, f"{relative_error(a, b):.2e} for {text[:80]!r}"
    assert relative_error(got, wanted) <= 1e-5
    print(f"relative error of {len(texts)} embeddings: {relative_error(got, wanted):.1e}")


def test_tokens(mpnet, cebab, hard_strings, tmp_path):
    texts = make_texts(5000, 9, also=["<s>", "</s>", "<pad>", "<mask>", " <mask>", "[UNK]", "<unk>"]) + hard_strings
    texts += ref.read_csv(cebab_file(cebab, "train_cebab")).texts
    got = run_json("main", "tokenize", "--model", mpnet.gguf(), "--data", write_jsonl(tmp_path / "texts.jsonl", texts),
                   "--text", "text")
    for text, encoding, tokens in zip(texts, mpnet.tokenizer.encode_batch(texts), got, strict=True):
        assert tokens["ids"] == encoding.ids, text
        assert tokens["offsets"] == byte_offsets(text, encoding), text
