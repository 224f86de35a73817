"""Unigram: token ids and byte ranges equal those of `tokenizers`, with SentencePiece's own map of characters, for
vocabularies that are trained here by `tokenizers` and by SentencePiece."""

import csv
import json
import os
import random
import struct
import unicodedata

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

from conftest import CEBAB_FILES, cebab_file, run, run_json
from test_parity_tokenizer import byte_offsets

sentencepiece = pytest.importorskip("sentencepiece")

TOKENS = 96  # of a text at most
N_STRINGS = int(os.environ.get("SPARSECBM_TEXTS", 5000))
MARK = "▁"


# --- files ----------------------------------------------------------------------------------


def fields(data):
    """(number, value) of a protobuf message, flat."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            n = varint()
            yield key >> 3, data[at : at + n]
            at += n
        else:
            n = 4 if key & 7 == 5 else 8
            yield key >> 3, data[at : at + n]
            at += n


def read_model(path):
    """Pieces with their scores, and the map, of a SentencePiece model."""
    pieces, charsmap = [], b""
    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0]))
        elif number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    return pieces, charsmap


def corpus():
    rng = random.Random(5)
    words = ("the food was great service slow Pasta wonderful rude staff and but noisy room we could not hear naïve café "
             "Straße Привет мир 東京 大阪 カタカナ ﬁne x² Ⅷ 안녕 مرحبا שלום नमस्ते ก็ ½ 10:30 co-op it's").split()
    return [" ".join(rng.choice(words) + rng.choice(["", "", ",", ".", "!", "ing", "s"]) for _ in range(14))
            for _ in range(3000)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """SentencePiece's model of the corpus, with the map that XLM-R and T5 have."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(corpus()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "model"), vocab_size=400, model_type="unigram",
        character_coverage=0.995, hard_vocab_limit=False, minloglevel=2, num_threads=1)
    return folder / "model.model"


def metaspace(scheme="always", split=True):
    return pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=scheme, split=split)


def xlm_roberta(model):
    """As transformers makes it of the model."""
    pieces, charsmap = read_model(model)
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in vocab_names(vocab)] +
                                 [AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    return finish(tokenizer, "<s>", "</s>")


def vocab_names(vocab):
    return [name for name, _ in vocab[:4]]


def finish(tokenizer, first, last):
    special = [(t, tokenizer.token_to_id(t)) for t in (first, last) if t]
    single = ([first] if first else []) + ["$A"] + ([last] if last else [])
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=single + ["$B:1"], special_tokens=special)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def t5(model, split=True, joined=None, strip=False):
    """As older versions wrote it: no division at white space, but at marks."""
    pieces, charsmap = read_model(model)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], *[(f"<extra_id_{i}>", 0.0) for i in range(9, -1, -1)]]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    steps = [normalizers.Precompiled(charsmap)]
    steps += [normalizers.Strip(left=False, right=True)] if strip else []
    steps += [normalizers.Replace(Regex(" {2,}"), joined)] if joined else []
    tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.pre_tokenizer = metaspace(split=split)
    tokenizer.add_special_tokens([name for name, _ in vocab if name.startswith("<")])
    return finish(tokenizer, None, "</s>")


def first_only(model):
    tokenizer = xlm_roberta(model)
    tokenizer.pre_tokenizer = metaspace("first")
    tokenizer.add_tokens([AddedToken("pasta", normalized=True), AddedToken("Straße", normalized=False)])
    return tokenizer


def bytes_and_no_map(model):
    """Unknown characters byte by byte; no normalizer, no mark before a text."""
    pieces, _ = read_model(model)
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *[(f"<0x{i:02X}>", -20.0) for i in range(256)], *pieces[3:]]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = metaspace("never")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return finish(tokenizer, "<s>", "</s>")


def by_tokenizers(_):
    """Trained by `tokenizers`: its scores are no F32 numbers."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>",
                                      show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return finish(tokenizer, "<s>", "</s>")


KINDS = {
    "xlm-roberta": xlm_roberta,
    "t5": t5,
    "t5-joined": lambda model: t5(model, joined=" "),
    "t5-stripped": lambda model: t5(model, joined=MARK, strip=True),
    "whole-texts": lambda model: t5(model, split=False),
    "first-only": first_only,
    "bytes": bytes_and_no_map,
    "by-tokenizers": by_tokenizers,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, trained, tmp_path_factory):
    tokenizer = KINDS[request.param](trained)
    work = tmp_path_factory.mktemp(request.param)
    return tokenizer, convert(tokenizer, work)


def convert(tokenizer, work):
    folder = work / "checkpoint"
    BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                         intermediate_size=8, max_position_embeddings=TOKENS)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    run("convert", folder, "-o", work / "model.gguf")
    return work / "model.gguf"


# --- texts ----------------------------------------------------------------------------------


BLOCKS = [(0x20, 0x7F), (0xA0, 0x250), (0x2B0, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x1000, 0x1100),
          (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2190), (0x2460, 0x2500), (0x3000, 0x3100),
          (0x3200, 0x3400), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0xF900, 0xFA00), (0xFB00, 0xFE00), (0xFE00, 0xFE70),
          (0xFF00, 0xFFF0), (0x1D400, 0x1D800), (0x1F1E6, 0x1F200), (0x1F300, 0x1F700), (0x20000, 0x20050), (1, 0x20),
          (0x7F, 0xA0), (0xE0000, 0xE0080)]
PARTS = ["<mask>", " <mask>", "<s>", "</s>", "<unk>", "<pad>", "<extra_id_3>", MARK, MARK + MARK, " ", "  ", "   ", "\t", "\n",
         "\r\n", "\u3000", "\u00a0", "\u200b", "\u200d", "\u0301", "e\u0301", "A\u030a", "\u0327\u0301", "\ufe0f", "👩‍👩‍👧", "🇩🇪", "1\ufe0f\u20e3",
         "ﬃ", "ﷺ", "①", "㍿", "½", "\u00ad", "\ufeff", "ｶﾞ", "カ\u3099", "한\u11a8", "\u1100\u1161\u11a8", "क्षि", "pasta", "Pasta", "Straße",
         "the", "food", "x" * 40, "ä" * 7, "<0x41>", "\x7f", "\x01", "İ", "ß", "\U000e0020", "\U0001f3fb", "👍🏽"]


def strings(n, seed):
    rng = random.Random(seed)
    words = " ".join(corpus()[:50]).split()

    def part():
        what = rng.random()
        if what < 0.4:
            return rng.choice(words) + rng.choice(["", " ", " ", "  "])
        if what < 0.7:
            return rng.choice(PARTS)
        low, high = rng.choice(BLOCKS)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 4)))

    return ["", " ", "   ", MARK, "a" * 3000, "ﷺ" * 200] + ["".join(part() for _ in range(rng.randint(1, 12))) for _ in range(n - 6)]


def compare(tokenizer, model, texts, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    got = run_json("main", "tokenize", "--model", model, "--data", path, "--text", "text")
    assert len(got) == len(texts)
    tokenizer.enable_truncation(TOKENS)
    wrong = []
    for text, wanted, tokens in zip(texts, tokenizer.encode_batch(texts), got):
        if tokens["ids"] != wanted.ids:
            wrong.append((text[:80], "ids", wanted.tokens[:20], tokens["tokens"][:20]))
        elif tokens["offsets"] != byte_offsets(text, wanted):
            wrong.append((text[:80], "offsets", byte_offsets(text, wanted)[:20], tokens["offsets"][:20]))
    assert not wrong, f"{len(wrong)} of {len(texts)} texts differ; text, what, wanted, got:\n" + "\n".join(map(ascii, wrong[:20]))


def test_strings_of_every_kind(kind, tmp_path):
    compare(*kind, strings(N_STRINGS, 7), tmp_path)


def test_every_code_point(kind, tmp_path):
    """Alone between letters, and behind a letter that it may combine with."""
    points = [c for low, high in ((1, 0xD800), (0xE000, 0x18000), (0x1B000, 0x20100), (0xE0000, 0xE0200))
              for c in range(low, high) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    texts = ["x".join(chr(c) for c in points[i : i + 24]) for i in range(0, len(points), 24)]
    compare(*kind, texts, tmp_path)


@pytest.mark.parametrize("name", CEBAB_FILES[:2])
def test_every_review(kind, cebab, name, tmp_path):
    with open(cebab_file(cebab, name), newline="", encoding="utf-8") as file:
        texts = [row["description"] for row in csv.DictReader(file)]
    compare(*kind, texts, tmp_path)


def test_exported_again(kind, tmp_path):
    """tokenizer.json goes back, and gives the same tokens."""
    tokenizer, model = kind
    run("main", "export", model, "-o", tmp_path / "folder")
    again = Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    texts = strings(500, 3)
    tokenizer.enable_truncation(TOKENS)
    again.enable_truncation(TOKENS)
    for text, wanted, got in zip(texts, tokenizer.encode_batch(texts), again.encode_batch(texts)):
        assert got.ids == wanted.ids and got.offsets == wanted.offsets, text


# --- SentencePiece's own files ----------------------------------------------------------------


CLASSES = {
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", "xlm-roberta", {}),
    "CamembertTokenizer": ("sentencepiece.bpe.model", "camembert", {"pad_id": 3}),
    "T5Tokenizer": ("spiece.model", "t5", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_sentencepiece_files(name, tmp_path):
    """Without a tokenizer.json, against what AutoTokenizer makes of the folder."""
    pytest.importorskip("google.protobuf")
    from transformers import AutoTokenizer

    file, model_type, ids = CLASSES[name]
    folder = tmp_path / "checkpoint"
    (tmp_path / "corpus.txt").write_text("\n".join(corpus()), encoding="utf-8")
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "model"), vocab_size=300, hard_vocab_limit=False,
        model_type="unigram", minloglevel=2, num_threads=1, **ids)
    (tmp_path / "model.model").rename(folder / file)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    reference = AutoTokenizer.from_pretrained(folder)
    assert type(reference).__name__ == name
    tokenizer = Tokenizer.from_str(reference.backend_tokenizer.to_str())
    size = tokenizer.get_vocab_size()
    BertModel(BertConfig(vocab_size=size, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                         max_position_embeddings=TOKENS)).save_pretrained(folder)
    run("convert", folder, "-o", tmp_path / "model.gguf")
    compare(tokenizer, tmp_path / "model.gguf", strings(2000, 11), tmp_path)
