"""Words' vectors of fastText's own files, .bin and .vec, equal fastText's, for words that it has seen and for others."""

import random

import numpy as np
import pytest

from conftest import WORDS, run, write_csv
import sparse_reference as sparse

fasttext = pytest.importorskip("fasttext")

OTHERS = ["cafés", "unheard", "zürich", "x", "日本", "noisier", "!"]
MODELS = {
    "skipgram": dict(model="skipgram", minn=3, maxn=6, bucket=700),
    "one character": dict(model="cbow", minn=1, maxn=2, bucket=31),
    "words alone": dict(model="skipgram", minn=0, maxn=0),
    "classifier": None,
}


def patiently(train, *arguments, **options):
    """fastText ends with "Encountered NaN" now and then on so little text."""
    for _ in range(50):
        try:
            return train(*arguments, thread=1, verbose=0, **options)
        except RuntimeError as error:
            assert "NaN" in str(error)
    pytest.skip("fastText could not be trained")


def train(folder, name):
    rng = random.Random(5)
    words = [word.lower() for word in WORDS] + ["café", "тест", "日本語"]
    lines = [" ".join(rng.choice(words) for _ in range(rng.randint(3, 12))) for _ in range(200)]
    text = folder / "text.txt"
    if MODELS[name] is None:
        text.write_text("".join(f"__label__{rng.choice('ab')} {line}\n" for line in lines), encoding="utf-8")
        return patiently(fasttext.train_supervised, str(text), dim=9, epoch=20)
    text.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return patiently(fasttext.train_unsupervised, str(text), dim=9, t=1.0, epoch=2, minCount=1, **MODELS[name])


def write_vec(model, path):
    """As fastText's own command writes it."""
    words = model.get_words()
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{len(words)} {model.get_dimension()}\n")
        for word in words:
            file.write(word + " " + " ".join(repr(float(np.float32(x))) for x in model.get_word_vector(word)) + " \n")


def vectors_of(encoder):
    from gguf import GGUFReader

    reader = GGUFReader(encoder)
    field = reader.fields["tokenizer.ggml.tokens"]
    words = [bytes(field.parts[i]).decode().removeprefix("▁") for i in field.data]
    return dict(zip(words, sparse.read_tensors(encoder)["token_embd.weight"]))


@pytest.mark.parametrize("name", MODELS)
def test_vectors(tmp_path, name):
    model = train(tmp_path, name)
    model.save_model(str(tmp_path / "model.bin"))
    write_vec(model, tmp_path / "model.vec")
    known, has_ngrams = set(model.get_words()), len(model.get_subwords("unheard")[0]) > 0
    seen = sorted(word for word in known if word.isascii() and word != "</s>") + ["тест"]  # accents go when texts are read
    texts = [" ".join(seen[i::5] + OTHERS) for i in range(5)]
    data = write_csv(tmp_path / "data.csv", ["text", "stars"], [[text, 1 + i % 2] for i, text in enumerate(texts)])
    for file in ("model.bin", "model.vec"):
        out = tmp_path / (file + ".gguf")
        run("main", "train", "--encoder", "bilstm", "--vectors", tmp_path / file, "--data", data, "--validation", data, "--text",
            "text", "--label", "stars", "--mode", "vanilla", "--epochs", 0, "--lstm-size", 4, "-o", out)
        got = vectors_of(out)
        n_compared = 0
        for word, vector in got.items():
            if word.startswith("["):
                continue
            wanted = model.get_word_vector(word)
            if word in known or (file == "model.bin" and has_ngrams):
                n_compared += 1
                # A sum is as exact as its summands are large, and on so little text fastText's are up to 1e18 now and then.
                rows = [np.abs(model.get_input_vector(i)).max() for i in model.get_subwords(word)[1]]
                assert np.allclose(vector, wanted, rtol=1e-6, atol=1e-7 + 1e-6 * max(rows, default=0)), (file, word)
            else:
                assert np.any(vector != 0), (file, word)  # nothing is known of it: random numbers
        assert n_compared >= len(seen)
