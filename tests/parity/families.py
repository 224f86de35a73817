"""Random encoders of every family that can be converted, of transformers' own classes, and where a model file has their
parameters.

A parameter of Hugging Face's is one tensor of a model file, or several: with `parts` > 1 its rows are cut, `transposed` ones
are stored [in, out], and `padding` says that the file has the row of positions of this number last.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.func import functional_call
import transformers

import reference as ref


@dataclass(frozen=True)
class Family:
    name: str  # config.json's model_type, and what is particular
    architecture: str  # of the model file
    model: str  # transformers' class
    config: str
    options: dict = field(hash=False)
    special: tuple = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pooler: bool = False  # the class has one that can be left out
    max_tokens: int = 48
    shards: bool = False
    prefix: str = ""  # a class with a head, whose names begin so

    def make_config(self, vocabulary):
        return getattr(transformers, self.config)(vocab_size=vocabulary, **self.options)


# The padding token is number 1: what stands for it in a text reads RoBERTa's row of padding.
PADDING_1 = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def bert_like(hidden, layers, heads, ffn, tokens, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ffn,
                max_position_embeddings=tokens, initializer_range=0.2, **more)


def gpt2(hidden, layers, heads, tokens, **more):
    return dict(n_embd=hidden, n_layer=layers, n_head=heads, n_positions=tokens, initializer_range=0.2, **more)


def opt(hidden, layers, heads, ffn, tokens, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=ffn,
                max_position_embeddings=tokens, init_std=0.2, **more)


def t5(hidden, size, layers, heads, ffn, **more):
    return dict(d_model=hidden, d_kv=size, num_layers=layers, num_heads=heads, d_ff=ffn, **more)


FAMILIES = [
    Family("distilbert", "bert", "DistilBertModel", "DistilBertConfig",
           dict(dim=36, n_layers=2, n_heads=4, hidden_dim=70, max_position_embeddings=48, initializer_range=0.2)),
    Family("distilbert-prefix", "bert", "DistilBertForMaskedLM", "DistilBertConfig",
           dict(dim=33, n_layers=3, n_heads=3, hidden_dim=52, max_position_embeddings=50, activation="relu",
                initializer_range=0.2), prefix="distilbert.", shards=True),
    Family("roberta", "bert", "RobertaModel", "RobertaConfig", bert_like(36, 2, 6, 61, 50, type_vocab_size=1, layer_norm_eps=1e-5),
           PADDING_1, True),
    Family("xlm-roberta", "bert", "XLMRobertaForMaskedLM", "XLMRobertaConfig",
           bert_like(40, 3, 5, 64, 52, type_vocab_size=1, hidden_act="gelu_new"), PADDING_1, True, prefix="roberta."),
    Family("camembert", "bert", "CamembertModel", "CamembertConfig", bert_like(24, 2, 1, 30, 60, type_vocab_size=2),
           PADDING_1, True, shards=True),
    Family("mpnet", "mpnet", "MPNetModel", "MPNetConfig", bert_like(36, 2, 4, 70, 202), PADDING_1, True, 200),
    Family("mpnet-prefix", "mpnet", "MPNetForMaskedLM", "MPNetConfig",
           bert_like(30, 3, 3, 41, 82, layer_norm_eps=1e-5, relative_attention_num_buckets=32), PADDING_1, True, 80,
           prefix="mpnet."),
    Family("gpt2", "gpt2", "GPT2Model", "GPT2Config", gpt2(36, 2, 4, 48)),
    Family("gpt2-prefix", "gpt2", "GPT2LMHeadModel", "GPT2Config",
           gpt2(42, 3, 3, 60, n_inner=50, scale_attn_by_inverse_layer_idx=True, activation_function="relu"),
           prefix="transformer."),
    Family("opt", "opt", "OPTModel", "OPTConfig", opt(36, 2, 4, 61, 48, word_embed_proj_dim=36), PADDING_1),
    Family("opt-projected", "opt", "OPTForCausalLM", "OPTConfig",
           opt(40, 3, 5, 52, 48, word_embed_proj_dim=24, do_layer_norm_before=False), PADDING_1, prefix="model."),
    Family("t5", "t5encoder", "T5EncoderModel", "T5Config", t5(36, 7, 2, 3, 61), max_tokens=200),
    Family("t5-gated", "t5encoder", "T5EncoderModel", "T5Config",
           t5(30, 16, 3, 4, 40, feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-5), max_tokens=150, shards=True),
    Family("t5-whole", "t5encoder", "T5Model", "T5Config", t5(24, 8, 2, 3, 33, relative_attention_num_buckets=16,
                                                             relative_attention_max_distance=40), max_tokens=90),
]

# --- names ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Where a piece of Hugging Face's parameter lies."""

    name: str  # in a model file
    part: int = 0
    parts: int = 1
    transposed: bool = False
    padding: int = -1

    def take(self, tensor):
        """The model file's tensor, of Hugging Face's."""
        if self.transposed:
            tensor = tensor.T
        if self.parts > 1:
            rows = tensor.shape[0] // self.parts
            tensor = tensor[self.part * rows:(self.part + 1) * rows]
        if self.padding >= 0:
            tensor = torch.cat([tensor[self.padding + 1:], tensor[self.padding:self.padding + 1]])
        return tensor


BERT = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"}
NAMES = {
    "distilbert": {**BERT, "transformer.layer.N.attention.q_lin": "attn_q", "transformer.layer.N.attention.k_lin": "attn_k",
                   "transformer.layer.N.attention.v_lin": "attn_v", "transformer.layer.N.attention.out_lin": "attn_output",
                   "transformer.layer.N.sa_layer_norm": "attn_output_norm", "transformer.layer.N.ffn.lin1": "ffn_up",
                   "transformer.layer.N.ffn.lin2": "ffn_down",
                   "transformer.layer.N.output_layer_norm": "layer_output_norm"},
    "bert": {**BERT, **{f"encoder.layer.N.{key}": name for key, name in ref.LAYER_NAMES.items()}},
    "mpnet": {**BERT, "encoder.relative_attention_bias": "attn_rel_b",
              **{f"encoder.layer.N.attention.attn.{a}": f"attn_{b}" for a, b in zip("qkvo", ["q", "k", "v", "output"])},
              "encoder.layer.N.attention.LayerNorm": "attn_output_norm",
              "encoder.layer.N.intermediate.dense": "ffn_up", "encoder.layer.N.output.dense": "ffn_down",
              "encoder.layer.N.output.LayerNorm": "layer_output_norm"},
    "gpt2": {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "h.N.ln_1": "attn_norm",
             "h.N.attn.c_attn": "attn_q|attn_k|attn_v", "h.N.attn.c_proj": "attn_output", "h.N.ln_2": "ffn_norm",
             "h.N.mlp.c_fc": "ffn_up", "h.N.mlp.c_proj": "ffn_down"},
    "opt": {"decoder.embed_tokens": "token_embd", "decoder.embed_positions": "position_embd",
            "decoder.project_in": "embd_proj", "decoder.project_out": "output_proj", "decoder.final_layer_norm": "output_norm",
            "decoder.layers.N.self_attn_layer_norm": "attn_norm", "decoder.layers.N.final_layer_norm": "ffn_norm",
            **{f"decoder.layers.N.self_attn.{a}_proj": f"attn_{b}"
               for a, b in zip(["q", "k", "v", "out"], ["q", "k", "v", "output"])},
            "decoder.layers.N.fc1": "ffn_up", "decoder.layers.N.fc2": "ffn_down"},
    "t5": {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm",
           "encoder.block.N.layer.0.SelfAttention.relative_attention_bias": "enc.attn_rel_b",
           **{f"encoder.block.N.layer.0.SelfAttention.{a}": f"enc.attn_{a}" for a in "qkvo"},
           "encoder.block.N.layer.0.layer_norm": "enc.attn_norm", "encoder.block.N.layer.1.layer_norm": "enc.ffn_norm",
           "encoder.block.N.layer.1.DenseReluDense.wi": "enc.ffn_up",
           "encoder.block.N.layer.1.DenseReluDense.wi_0": "enc.ffn_gate",
           "encoder.block.N.layer.1.DenseReluDense.wi_1": "enc.ffn_up",
           "encoder.block.N.layer.1.DenseReluDense.wo": "enc.ffn_down"},
}
PRUNABLE = re.compile(r"blk\.\d+\.(attn_(q|k|v|o|output)|ffn_(gate|up|down))\.weight$")


def parts_of(encoder, name):
    """The parts of an encoder's parameter."""
    config = encoder.config
    type = {"roberta": "bert", "xlm-roberta": "bert", "camembert": "bert"}.get(config.model_type, config.model_type)
    module, kind = name.rsplit(".", 1)
    block = re.search(r"\.(\d+)\.", "." + module)
    key = re.sub(r"(^|\.)\d+\.", r"\1N.", module, count=1)
    names = NAMES[type][key].split("|")
    transposed = type == "gpt2" and kind == "weight" and key.startswith(("h.N.attn.c", "h.N.mlp.c"))
    padding = -1
    if key == "embeddings.position_embeddings" and config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        padding = 1
    if block and "N." in key:
        before = "enc." if names[0].startswith("enc.") else ""
        names = [f"{before}blk.{block[1]}.{n.removeprefix('enc.')}" for n in names]
    return [Part(f"{n}.{kind}", i, len(names), transposed, padding) for i, n in enumerate(names)]


def named_parts(encoder):
    """(model file's name, Hugging Face's name, Part) of all parameters, each once."""
    return [(part.name, name, part) for name, _ in encoder.named_parameters() for part in parts_of(encoder, name)]


def output_width(config):
    return config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size


class Encoder(torch.nn.Module):
    """A family's encoder whose weights can be replaced by the model file's names, masked ones among them."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.parts = named_parts(encoder)
        self.where = {key: (name, part) for key, name, part in self.parts}

    def weight(self, key):
        name, part = self.where[key]
        return part.take(self.encoder.get_parameter(name))

    def prunable(self):
        return [key for key in self.where if PRUNABLE.search(key)]

    def forward(self, ids, mask, weights=None):
        """[B, T, d]; `weights` stand for those of these names."""
        replaced = {}
        for key in weights or {}:
            name, part = self.where[key]
            replaced.setdefault(name, {})[part.part] = weights[key]
        whole = {}
        for name, pieces in replaced.items():
            tensor = torch.cat([pieces[i] for i in sorted(pieces)])
            whole[name] = tensor.T if parts_of(self.encoder, name)[0].transposed else tensor
        return functional_call(self.encoder, whole, kwargs=dict(input_ids=ids, attention_mask=mask)).last_hidden_state


def to_numpy(part, tensor):
    return np.ascontiguousarray(part.take(tensor).detach().numpy())
