"""Token ids and byte ranges equal Hugging Face's."""

import csv
import itertools
import random
import shutil
import unicodedata

import pytest
from tokenizers import AddedToken
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from conftest import CASES, CEBAB_FILES, Checkpoint, cebab_file, make_checkpoint, run_json, tiny_csv, read_tiny, write_lines


def byte_offsets(text, encoding):
    """Hugging Face counts characters, we count bytes."""
    start_of = [0]
    for character in text:
        start_of.append(start_of[-1] + len(character.encode("utf-8")))
    return [[start_of[a], start_of[b]] for a, b in encoding.offsets]


def compare(checkpoint, texts, *source, offsets=True):
    got = run_json("main", "tokenize", "--model", checkpoint.gguf(), *source)
    assert len(got) == len(texts)
    wrong = []
    for number, (text, encoding, tokens) in enumerate(zip(texts, checkpoint.tokenizer.encode_batch(texts), got)):
        if tokens["ids"] != encoding.ids:
            wrong.append((number, text[:200], "ids", encoding.tokens[:60], tokens["tokens"][:60]))
        elif offsets and tokens["offsets"] != byte_offsets(text, encoding):
            wrong.append((number, text[:200], "offsets", byte_offsets(text, encoding)[:60], tokens["offsets"][:60]))
    assert not wrong, f"{len(wrong)} of {len(texts)} texts differ; number, text, what, wanted, got:\n" + \
        "\n".join(map(repr, wrong[:20]))


@pytest.mark.parametrize("name", CEBAB_FILES)
def test_every_review(minilm, cebab, name):
    path = cebab_file(cebab, name)
    with open(path, newline="", encoding="utf-8") as file:
        texts = [row["description"] for row in csv.DictReader(file)]
    compare(minilm, texts, "--data", path, "--text", "description")


def test_hard_strings(minilm, hard_strings, tmp_path):
    compare(minilm, hard_strings, "--file", write_lines(tmp_path / "hard.txt", hard_strings))


def test_small_vocabularies(random_checkpoint, hard_strings, tmp_path):
    path = tiny_csv(tmp_path / "tiny.csv", 60)
    compare(random_checkpoint, read_tiny(path).texts, "--data", path, "--text", "text")
    compare(random_checkpoint, hard_strings, "--file", write_lines(tmp_path / "hard.txt", hard_strings))


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_added_tokens(case, tmp_path_factory, tmp_path):
    """Tokens beside the vocabulary and words of it, with every combination of what AddedToken says."""
    plain = make_checkpoint(case, tmp_path_factory)
    folder = tmp_path / "checkpoint"
    shutil.copytree(plain.folder, folder)
    tokenizer = plain.tokenizer
    tokenizer.no_truncation()
    room = iter(range(1000))
    names = ["<{}>", "Tag{}", "é{}É", "new word{}", "##b{}"]
    for flags in itertools.product([False, True], repeat=4):
        tokenizer.add_tokens([AddedToken(names[next(room) % len(names)].format(sum(flags[i] << i for i in range(4))),
                                         lstrip=flags[0], rstrip=flags[1], single_word=flags[2], normalized=flags[3])])
    tokenizer.add_tokens([AddedToken(word, normalized=False, single_word=True) for word in ("food", "##ing")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = (folder / "config.json").read_text()
    size = tokenizer.get_vocab_size()
    checkpoint = Checkpoint(folder, tmp_path)
    checkpoint.tokenizer.no_truncation()
    write_larger(folder, config, size)
    rng = random.Random(3)
    pieces = [token.content for token in tokenizer.get_added_tokens_decoder().values()] + \
        ["food", "FOOD", " ", "  ", "\u3000", "x", "é", ".", "_", "9", "the", "wing", "好", "e\u0301", "\u200d", "İ"]
    texts = ["".join(rng.choice(pieces).swapcase() if rng.random() < 0.2 else rng.choice(pieces)
                     for _ in range(rng.randint(1, 12))) for _ in range(4000)]
    compare(checkpoint, texts, "--file", write_lines(tmp_path / "added.txt", texts), "--max-length", 40)


def write_larger(folder, config, size):
    """The same checkpoint with embeddings of `size` rows."""
    import json
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if n.endswith(("word_embeddings.weight", "predictions.bias"))]:
        rows = tensors[name]
        tensors[name] = rows.new_zeros((size, *rows.shape[1:]))
        tensors[name][:len(rows)] = rows
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "vocab_size": size}))


def test_truncation(minilm, tmp_path):
    texts = ["word " * n + "end." for n in (1, 5, 6, 7, 8, 300)]
    minilm.tokenizer.enable_truncation(8)
    try:
        compare(minilm, texts, "--file", write_lines(tmp_path / "long.txt", texts), "--max-length", 8)
    finally:
        minilm.tokenizer.enable_truncation(minilm.max_tokens)


def follows_unicode(character):
    """Whether Hugging Face treats the character as this Python's Unicode tables would. Its tables are older,
    so that some newer marks and punctuation are letters to it; unassigned code points are what tables disagree on."""
    category = unicodedata.category(character)
    if category == "Cn":
        return False
    text = f"a{character}b"
    removed = BertNormalizer(lowercase=False, strip_accents=True).normalize_str(text) == "ab"
    split = len(BertPreTokenizer().pre_tokenize_str(text)) == 3
    if category == "Mn" and not removed or category.startswith("P") and not split:
        return False
    return not (removed and category[0] not in "MC")


def test_every_assigned_code_point(minilm, tmp_path):
    """Each between two letters, in the planes that have characters."""
    code_points = [c for plane in (range(1, 0xD800), range(0xE000, 0x20400), range(0x2F800, 0x2FA20),
                                   range(0xE0000, 0xE0200)) for c in plane if c not in (0x0A, 0x0D)]
    texts = [f"a{chr(c)}b" for c in code_points if follows_unicode(chr(c))]
    assert len(texts) > 80_000
    compare(minilm, texts, "--file", write_lines(tmp_path / "all.txt", texts))
