"""Tiny encoders of random weights as Hugging Face folders, which need no library but NumPy."""

import json

import numpy as np

HIDDEN, BLOCKS, HEADS, FEED_FORWARD, POSITIONS = 64, 2, 2, 128, 64
WORDS = ["the", "food", "was", "great", "soup", "cold", "is", "berlin", "no", "and", "staff", "rude", "a", "b", "##a", "##b",
         "wait", "##ed", "##er", "##est", "##s", "##ing", "caf", "##e", "1", "2", "##2", "uber", "好", "吃"]
MERGES = ["t h", "th e", "Ġ the", "Ġ s", "o u", "ou p", "Ġs oup", "w a", "wa s", "Ġ was", "c o", "l d", "co ld", "Ġ cold",
          "Ġ a", "n d", "Ġa nd", "e r", "e st", "s t", "f f", "Ġs t", "Ġ f", "o o", "oo d", "Ġf ood", "Ã ©"]


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


class Weights(dict):
    """Linear layers, norms and tables by name."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def draw(self, *shape, deviation=0.2, mean=0.0):
        return (mean + deviation * self.random.standard_normal(shape)).astype("<f4")

    def table(self, name, rows):
        self[name + ".weight"] = self.draw(rows, HIDDEN, deviation=1.0)

    def linear(self, name, inputs, outputs):
        self[name + ".weight"], self[name + ".bias"] = self.draw(outputs, inputs), self.draw(outputs)

    def norm(self, name):
        self[name + ".weight"], self[name + ".bias"] = self.draw(HIDDEN, mean=1.0), self.draw(HIDDEN)


def byte_characters():
    """What byte-level BPE writes for each byte (GPT-2): itself where it can be seen, else a letter from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(b) if b in seen else chr(next(hidden)) for b in range(256)]


def write_roberta(folder):
    folder.mkdir()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *byte_characters()]
    tokens += [merge.replace(" ", "") for merge in MERGES] + ["<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "roberta", "architectures": ["RobertaModel"], "hidden_size": HIDDEN, "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS, "intermediate_size": FEED_FORWARD, "max_position_embeddings": POSITIONS + 2,
        "vocab_size": len(tokens), "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2}))
    w = Weights(41)
    w.table("embeddings.word_embeddings", len(tokens))
    w.table("embeddings.position_embeddings", POSITIONS + 2)
    w.table("embeddings.token_type_embeddings", 1)
    w.norm("embeddings.LayerNorm")
    for block in range(BLOCKS):
        layer = f"encoder.layer.{block}."
        for part in ("query", "key", "value"):
            w.linear(layer + "attention.self." + part, HIDDEN, HIDDEN)
        w.linear(layer + "attention.output.dense", HIDDEN, HIDDEN)
        w.norm(layer + "attention.output.LayerNorm")
        w.linear(layer + "intermediate.dense", HIDDEN, FEED_FORWARD)
        w.linear(layer + "output.dense", FEED_FORWARD, HIDDEN)
        w.norm(layer + "output.LayerNorm")
    write_safetensors(folder / "model.safetensors", w)


def write_distilbert(folder):
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *".,!?-'\"()[]#"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "distilbert", "architectures": ["DistilBertModel"], "dim": HIDDEN, "n_layers": BLOCKS, "n_heads": HEADS,
        "hidden_dim": FEED_FORWARD, "max_position_embeddings": POSITIONS, "vocab_size": len(tokens), "activation": "gelu",
        "pad_token_id": 0, "sinusoidal_pos_embds": False}))
    w = Weights(42)
    w.table("embeddings.word_embeddings", len(tokens))
    w.table("embeddings.position_embeddings", POSITIONS)
    w.norm("embeddings.LayerNorm")
    for block in range(BLOCKS):
        layer = f"transformer.layer.{block}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            w.linear(layer + "attention." + part, HIDDEN, HIDDEN)
        w.norm(layer + "sa_layer_norm")
        w.linear(layer + "ffn.lin1", HIDDEN, FEED_FORWARD)
        w.linear(layer + "ffn.lin2", FEED_FORWARD, HIDDEN)
        w.norm(layer + "output_layer_norm")
    write_safetensors(folder / "model.safetensors", w)


def write_gpt2(folder):
    """Matrices are stored [in, out], those of queries, keys and values in one."""
    folder.mkdir()
    tokens = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "gpt2", "architectures": ["GPT2Model"], "n_embd": HIDDEN, "n_layer": BLOCKS, "n_head": HEADS,
        "n_inner": None, "n_positions": POSITIONS, "vocab_size": len(tokens), "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": len(tokens) - 1, "eos_token_id": len(tokens) - 1}))
    w = Weights(43)
    w.table("wte", len(tokens))
    w.table("wpe", POSITIONS)
    for block in range(BLOCKS):
        layer = f"h.{block}."
        w.norm(layer + "ln_1")
        w.linear(layer + "attn.c_attn", 3 * HIDDEN, HIDDEN)
        w.linear(layer + "attn.c_proj", HIDDEN, HIDDEN)
        w.norm(layer + "ln_2")
        w.linear(layer + "mlp.c_fc", 4 * HIDDEN, HIDDEN)
        w.linear(layer + "mlp.c_proj", HIDDEN, 4 * HIDDEN)
        for name, n in (("attn.c_attn", 3 * HIDDEN), ("attn.c_proj", HIDDEN), ("mlp.c_fc", 4 * HIDDEN), ("mlp.c_proj", HIDDEN)):
            w[layer + name + ".bias"] = w.draw(n)
    w.norm("ln_f")
    write_safetensors(folder / "model.safetensors", w)


def write_t5(folder):
    """Version 1.1's encoder, with gates; a Unigram tokenizer without a map of characters."""
    folder.mkdir()
    words = ["the", "food", "was", "great", "soup", "cold", "and", "staff", "rude", "wait", "ed", "ing", "er", "est", "s", "no"]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *("▁" + word for word in words), *words[10:15]]
    pieces += [chr(c) for c in range(33, 127)] + ["é", "好", "吃"]
    vocabulary = [[piece, 0.0 if i < 3 else -2.0 - 0.01 * i] for i, piece in enumerate(pieces)]
    special = [{"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i in range(3)]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    text, pair = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        "post_processor": {"type": "TemplateProcessing", "single": [text, end], "pair": [text, end, pair, end],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": spaces, "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": False}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "t5", "architectures": ["T5EncoderModel"], "d_model": HIDDEN, "num_layers": BLOCKS, "num_heads": HEADS,
        "d_kv": HIDDEN // HEADS, "d_ff": FEED_FORWARD, "vocab_size": len(pieces), "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "pad_token_id": 0, "eos_token_id": 1}))
    w = Weights(44)
    w.table("shared", len(pieces))
    for block in range(BLOCKS):
        layer = f"encoder.block.{block}.layer."
        for part in ("q", "k", "v", "o"):
            w[layer + f"0.SelfAttention.{part}.weight"] = w.draw(HIDDEN, HIDDEN)
        if block == 0:
            w[layer + "0.SelfAttention.relative_attention_bias.weight"] = w.draw(32, HEADS, deviation=1.0)
        w[layer + "0.layer_norm.weight"] = w.draw(HIDDEN, mean=1.0)
        w[layer + "1.layer_norm.weight"] = w.draw(HIDDEN, mean=1.0)
        for part in ("wi_0", "wi_1"):
            w[layer + f"1.DenseReluDense.{part}.weight"] = w.draw(FEED_FORWARD, HIDDEN)
        w[layer + "1.DenseReluDense.wo.weight"] = w.draw(HIDDEN, FEED_FORWARD)
    w["encoder.final_layer_norm.weight"] = w.draw(HIDDEN, mean=1.0)
    write_safetensors(folder / "model.safetensors", w)


FAMILIES = {"roberta": write_roberta, "distilbert": write_distilbert, "gpt2": write_gpt2, "t5": write_t5}
