"""Hidden states and pooled vectors equal transformers' and sentence-transformers'."""

import numpy as np
import pytest

from conftest import (CEBAB_COLUMNS, TINY_COLUMNS, cebab_file, cebab_subset, cosine_distance, read_tiny,
                      relative_error, run, run_json, tiny_csv, write_lines)
import reference as ref


def dump(checkpoint, data, columns, rows, pooling="mean"):
    """Trains nothing (fresh heads on the encoder), and returns what tests/dump writes of `rows` rows."""
    init, out = checkpoint.work / f"init-{pooling}.gguf", checkpoint.work / "dump.gguf"
    run("main", "train", "--encoder", checkpoint.gguf(), "--data", data, "--validation", data, *columns,
        "--mode", "joint", "--epochs", 0, "--seed", 7, "--pool", pooling, "--force", "-o", init)
    run("dump", "--model", init, "--data", data, *columns, "--rows", rows, "-o", out)
    return ref.read_gguf(init), ref.read_gguf(out)


def check_hidden(checkpoint, dumped, texts):
    wanted = checkpoint.hidden(texts)
    for layer, state in enumerate(wanted):
        error = relative_error(dumped[f"hidden.{layer}"], state)
        assert error <= 1e-4, f"hidden state {layer}: relative error {error:.2e}"
    assert f"hidden.{len(wanted)}" not in dumped


def test_hidden_states_of_random_models(random_checkpoint, tmp_path):
    data = tiny_csv(tmp_path / "tiny.csv")
    _, dumped = dump(random_checkpoint, data, TINY_COLUMNS, 24)
    check_hidden(random_checkpoint, dumped, read_tiny(data).texts)


def test_hidden_states_of_minilm(minilm, cebab):
    data = cebab_subset(minilm.work / "data.csv", cebab_file(cebab, "train_cebab"), 32)
    _, dumped = dump(minilm, data, CEBAB_COLUMNS, 32)
    check_hidden(minilm, dumped, ref.read_csv(data).texts)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_of_random_models(random_checkpoint, tmp_path, pooling):
    data = tiny_csv(tmp_path / "tiny.csv")
    texts = read_tiny(data).texts
    state, wanted, start = random_checkpoint.hidden(texts)[-1], [], 0
    for ids in random_checkpoint.ids(texts):
        rows = state[start:start + len(ids)]
        wanted.append({"mean": rows.mean(0), "first": rows[0], "last": rows[-1]}[pooling])
        start += len(ids)
    got = run_json("main", "embed", "--model", random_checkpoint.gguf(), "--data", data, "--text", "text",
                   "--pool", pooling)
    assert relative_error([row["embedding"] for row in got], np.array(wanted)) <= 1e-4


def test_sentence_transformers(minilm, cebab, hard_strings, tmp_path):
    from sentence_transformers import SentenceTransformer

    # An empty text is [CLS] [SEP] to both; long ones are cut at the 256 tokens that the folder says.
    texts = ref.read_csv(cebab_file(cebab, "test_cebab")).texts[:300] + hard_strings + ["much too long " * 200]
    path = write_lines(tmp_path / "texts.txt", [" ".join(t.split("\n")) for t in texts])
    texts = path.read_bytes().decode("utf-8").split("\n")[:-1]
    wanted = SentenceTransformer(str(minilm.folder), device="cpu").encode(texts, normalize_embeddings=True)
    got = np.array([row["embedding"] for row in
                    run_json("main", "embed", "--model", minilm.gguf(), "--file", path, "--normalize", "yes")])
    assert got.shape == wanted.shape
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() <= 1e-5
    distance = cosine_distance(got, wanted)
    assert distance.max() <= 1e-5, f"{distance.max():.2e} for {texts[distance.argmax()]!r}"
