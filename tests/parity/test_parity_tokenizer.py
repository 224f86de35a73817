"""Token ids and byte ranges equal Hugging Face's."""

import csv
import unicodedata

import pytest
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from conftest import CEBAB_FILES, cebab_file, run_json, tiny_csv, read_tiny, write_lines


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


@pytest.fixture(scope="module")
def untruncated(minilm):
    """MiniLM with the 512 tokens that its positions allow."""
    minilm.tokenizer.enable_truncation(512)
    yield minilm
    minilm.tokenizer.enable_truncation(minilm.max_tokens)


@pytest.mark.parametrize("name", CEBAB_FILES)
def test_every_review(untruncated, cebab, name):
    path = cebab_file(cebab, name)
    with open(path, newline="", encoding="utf-8") as file:
        texts = [row["description"] for row in csv.DictReader(file)]
    compare(untruncated, texts, "--data", path, "--text", "description", "--max-length", 512)


def test_hard_strings(untruncated, hard_strings, tmp_path):
    compare(untruncated, hard_strings, "--file", write_lines(tmp_path / "hard.txt", hard_strings),
            "--max-length", 512)


def test_small_vocabularies(random_checkpoint, hard_strings, tmp_path):
    path = tiny_csv(tmp_path / "tiny.csv", 60)
    compare(random_checkpoint, read_tiny(path).texts, "--data", path, "--text", "text")
    compare(random_checkpoint, hard_strings, "--file", write_lines(tmp_path / "hard.txt", hard_strings))


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


def test_every_assigned_code_point(untruncated, tmp_path):
    """Each between two letters, in the planes that have characters."""
    code_points = [c for plane in (range(1, 0xD800), range(0xE000, 0x20400), range(0x2F800, 0x2FA20),
                                   range(0xE0000, 0xE0200)) for c in plane if c not in (0x0A, 0x0D)]
    texts = [f"a{chr(c)}b" for c in code_points if follows_unicode(chr(c))]
    assert len(texts) > 80_000
    compare(untruncated, texts, "--file", write_lines(tmp_path / "all.txt", texts))
