"""llama.cpp's ids and embeddings of our files, kept in tests/llama/golden.txt, are ours.

all-MiniLM-L6-v2, and the tiny RoBERTa, DistilBERT, GPT-2 and T5 of tests/llama/folders.py. tests/llama/compare.py
(`make test-llama`) asks llama.cpp itself, and wrote them; tests/test-llama.c compares the tiny BERT.
"""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT, relative_error, run, run_json

sys.path.insert(0, str(ROOT / "tests" / "llama"))
import folders

BOUND = 2e-3


def read_golden(model):
    """Texts, ids and embeddings."""
    answers, current = [], None
    for line in (ROOT / "tests" / "llama" / "golden.txt").read_text(encoding="utf-8").split("\n"):
        key, _, value = line.partition(" ")
        if key == "model":
            current = value
        elif current == model and key == "text":
            answers.append([value])
        elif current == model and key in ("ids", "embedding"):
            answers[-1].append([float(x) for x in value.split()])
    return zip(*answers)


def check(name, model, work):
    texts, ids, vectors = read_golden(name)
    assert len(texts) >= 10
    data = work / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = ["--model", model, "--data", data, "--text", "text"]
    assert [row["ids"] for row in run_json("main", "tokenize", *options)] == [[int(i) for i in row] for row in ids]
    got = [row["embedding"] for row in run_json("main", "embed", "--normalize", "no", *options)]
    for a, b in zip(np.array(got), np.array(vectors)):
        assert relative_error(a, b) <= BOUND if np.any(b) else not np.any(a)  # what has no token is zero


def test_minilm_as_in_llama_cpp(minilm, tmp_path):
    check("minilm", minilm.gguf(), tmp_path)


@pytest.mark.parametrize("family", folders.FAMILIES)
def test_family_as_in_llama_cpp(family, tmp_path):
    folders.FAMILIES[family](tmp_path / family)
    run("main", "convert", tmp_path / family, "-o", tmp_path / "model.gguf", "--quiet")
    check(family, tmp_path / "model.gguf", tmp_path)
