"""llama.cpp's ids and embeddings of all-MiniLM-L6-v2, kept in tests/llama/golden.txt, are those of our file.

tests/llama/compare.py (`make test-llama`) asks llama.cpp itself, and wrote them.
"""

import json

import numpy as np
from conftest import ROOT, relative_error, run_json

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


def test_minilm_as_in_llama_cpp(minilm, tmp_path):
    texts, ids, vectors = read_golden("minilm")
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = ["--model", minilm.gguf(), "--data", data, "--text", "text"]
    assert [row["ids"] for row in run_json("main", "tokenize", *options)] == [[int(i) for i in row] for row in ids]
    got = [row["embedding"] for row in run_json("main", "embed", "--normalize", "no", *options)]
    assert max(relative_error(a, b) for a, b in zip(got, np.array(vectors))) <= BOUND
