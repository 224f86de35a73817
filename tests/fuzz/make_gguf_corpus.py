#!/usr/bin/env python3
"""Writes the seeds of fuzz-gguf, small model files that are whole or damaged: make_gguf_corpus.py FOLDER

Needs nothing but Python. The files stand in tests/fuzz/corpus/gguf; run this again when the format grows.
"""

import struct
import sys
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32_VALUE, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACKED = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32_VALUE: "<f", BOOL: "<B", U64: "<Q",
          I64: "<q", F64: "<d"}
F32, F16, Q4_0, Q8_0, I8_TENSOR, I32_TENSOR, BF16 = 0, 1, 2, 8, 24, 26, 30
BYTES = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), I8_TENSOR: (1, 1), I32_TENSOR: (1, 4), BF16: (1, 2)}


def string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def value(kind, x):
    return string(x) if kind == STRING else struct.pack(PACKED[kind], x)


def key(name, kind, x):
    """A list is an array of its kind."""
    if isinstance(x, list):
        body = struct.pack("<IIQ", ARRAY, kind, len(x)) + b"".join(value(kind, item) for item in x)
    else:
        body = struct.pack("<I", kind) + value(kind, x)
    return string(name) + body


def gguf(keys, tensors, alignment=32):
    """Tensors are (name, type, shape outermost first); their bytes count up, unless they follow."""
    info, data = b"", b""
    for name, kind, shape, *given in tensors:
        n = 1
        for size in shape:
            n *= size
        per, size = BYTES[kind]
        info += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        info += struct.pack("<IQ", kind, len(data))
        data += given[0] if given else numbers(kind, n // per * size)
        data += bytes(-len(data) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(key(*k) for k in keys) + info
    return head + bytes(-len(head) % alignment) + data


def numbers(kind, n_bytes):
    """Small numbers of the type; blocks have the scale 1/16."""
    if kind == F32:
        return b"".join(struct.pack("<f", (i % 7 - 3) / 8) for i in range(n_bytes // 4))
    if kind in (F16, BF16):
        return b"".join(struct.pack("<H", (0x3c00, 0xb800)[i % 2]) for i in range(n_bytes // 2))
    if kind == I32_TENSOR:
        return b"".join(struct.pack("<i", i) for i in range(n_bytes // 4))
    size = BYTES[kind][1]
    block = struct.pack("<e", 1 / 16) + bytes(i * 37 % 256 for i in range(size - 2)) if size > 2 else b"\x5a"
    return block * (n_bytes // size)


def every_value():
    plain = [("u8", U8, 200), ("i8", I8, -100), ("u16", U16, 60000), ("i16", I16, -30000), ("u32", U32, 4000000000),
             ("i32", I32, -2000000000), ("u64", U64, 2 ** 64 - 1), ("i64", I64, -(2 ** 63)), ("f32", F32_VALUE, 0.5),
             ("f64", F64, 0.1), ("yes", BOOL, 1), ("text", STRING, "grüß"), ("empty", STRING, "")]
    arrays = [("a." + name, kind, [x, x]) for name, kind, x in plain] + [("a.none", STRING, [])]
    return plain + arrays


def every_tensor():
    return [(f"tensor.{kind}", kind, shape) for kind, shape in
            [(F32, [3]), (F16, [2, 5]), (BF16, [1, 2, 3]), (Q8_0, [2, 64]), (Q4_0, [1, 1, 3, 32]), (I8_TENSOR, [7]),
             (I32_TENSOR, [4])]]


def encoder_keys(hidden, feed_forward, tokens):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = ["padding", "unknown", "cls", "seperator", "mask"]
    return [("general.architecture", STRING, "bert"), ("bert.context_length", U32, 8), ("bert.block_count", U32, 1),
            ("bert.embedding_length", U32, hidden), ("bert.feed_forward_length", U32, feed_forward),
            ("bert.attention.head_count", U32, 2), ("bert.attention.layer_norm_epsilon", F32_VALUE, 1e-12),
            ("bert.pooling_type", U32, 1), ("sparsecbm.activation", STRING, "gelu"),
            ("tokenizer.ggml.model", STRING, "bert"), ("tokenizer.ggml.tokens", STRING, names + tokens),
            ("tokenizer.ggml.token_type", I32, [3] * 5 + [1] * len(tokens)),
            ("sparsecbm.tokenizer.lowercase", BOOL, 1)] + \
        [(f"tokenizer.ggml.{name}_token_id", U32, i) for i, name in enumerate(ids)]


def encoder_tensors(hidden, feed_forward, vocabulary, matrix):
    block = [("attn_q", hidden, hidden), ("attn_k", hidden, hidden), ("attn_v", hidden, hidden),
             ("attn_output", hidden, hidden), ("ffn_up", feed_forward, hidden), ("ffn_down", hidden, feed_forward)]
    norms = ["token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"]
    tensors = [("token_embd.weight", matrix, [vocabulary, hidden]), ("position_embd.weight", F32, [8, hidden]),
               ("token_types.weight", F32, [2, hidden])]
    for name, rows, columns in block:
        tensors += [(f"blk.0.{name}.weight", matrix, [rows, columns]), (f"blk.0.{name}.bias", F32, [rows])]
    for name in norms:
        tensors += [(f"{name}.weight", F32, [hidden]), (f"{name}.bias", F32, [hidden])]
    return tensors


def bottleneck(hidden, mode):
    """Two concepts of two and three classes, two labels."""
    keys = [("sparsecbm.version", U32, 1), ("sparsecbm.mode", STRING, mode), ("sparsecbm.labels", STRING, ["no", "yes"])]
    if mode == "vanilla":
        return keys, [("sparsecbm.label.weight", F32, [2, hidden]), ("sparsecbm.label.bias", F32, [2])]
    keys += [("sparsecbm.concepts", STRING, ["food", "noise"]), ("sparsecbm.concept.groups", I32, [0, 2, 5]),
             ("sparsecbm.concept.classes", STRING, ["bad", "good", "low", "high", "unknown"])]
    return keys, [("sparsecbm.concept.weight", F32, [5, hidden]), ("sparsecbm.concept.bias", F32, [5]),
                  ("sparsecbm.label.weight", F32, [2, 5]), ("sparsecbm.label.bias", F32, [2]),
                  ("sparsecbm.concept.mean", F32, [5]), ("sparsecbm.concept.gold_means", F32, [5, 3]),
                  ("sparsecbm.concept.gold_counts", I32_TENSOR, [5])]


def masks(name, rows, columns):
    """Of two concepts; every other weight, and all but the last."""
    row_bytes = (columns + 63) // 64 * 8
    planes = [sum(1 << j for j in range(columns) if j % 2 == 0), (1 << columns - 1) - 1]
    data = b"".join(plane.to_bytes(row_bytes, "little") * rows for plane in planes)
    return (name, I8_TENSOR, [2, rows, row_bytes], data)


def all_masks(tensors):
    return [masks(name.replace(".weight", ".masks"), *shape) for name, _, shape in tensors
            if name.startswith("blk.") and len(shape) == 2]


def model(mode=None, hidden=4, matrix=F32, change_masks=None):
    tokens = ["▁good", "▁fo", "od", "▁x", "▁.", "é"]
    feed_forward = max(6, hidden)
    keys = encoder_keys(hidden, feed_forward, tokens)
    tensors = encoder_tensors(hidden, feed_forward, 5 + len(tokens), matrix)
    if mode:
        more_keys, more_tensors = bottleneck(hidden, mode)
        keys, tensors = keys + more_keys, tensors + more_tensors
    if change_masks:
        tensors = tensors + change_masks(all_masks(tensors))
    return gguf(keys, tensors)


def patched(data, offset, replacement):
    return data[:offset] + replacement + data[offset + len(replacement):]


def seeds():
    joint = model("joint")
    yield "empty", b""
    yield "magic", b"GGUF"
    yield "no-keys", gguf([], [])
    yield "values", gguf(every_value(), [])
    yield "tensors", gguf([("general.alignment", U32, 64)], every_tensor(), 64)
    yield "encoder", model()
    yield "encoder-q4_0", model(hidden=32, matrix=Q4_0)
    yield "joint", joint
    yield "independent", model("independent")
    yield "vanilla-f16", model("vanilla", matrix=F16)
    yield "sparse", model("joint", change_masks=lambda m: m)
    yield "sparse-q4_0", model("independent", hidden=32, matrix=Q4_0, change_masks=lambda m: m)
    yield "sparse-encoder", model(change_masks=lambda m: m)
    yield "sparse-vanilla", model("vanilla", change_masks=lambda m: m)
    yield "masks-missing", model("joint", change_masks=lambda m: m[:-1])
    yield "masks-of-one-concept", model("joint", change_masks=lambda m: [(n, k, [1] + s[1:], d[:len(d) // 2]) for n, k, s, d in m])
    yield "masks-past-the-row", model("joint", change_masks=lambda m: [(n, k, s, d[:-1] + b"\1") for n, k, s, d in m])
    yield "cut-in-keys", joint[:200]
    yield "cut-in-tensors", joint[:joint.index(b"attn_output.weight")]
    yield "cut-in-data", joint[:-40]
    yield "many-keys", patched(joint, 16, b"\xff" * 8)
    yield "many-tensors", patched(joint, 8, b"\xff" * 7 + b"\x7f")
    yield "long-key", patched(joint, 24, struct.pack("<Q", 2 ** 63))
    yield "large-array", patched(joint, joint.index(b"tokenizer.ggml.tokens") + 21 + 8, struct.pack("<Q", 2 ** 61))
    place = joint.index(b"token_embd.weight") + 17 + 4
    yield "large-tensor", patched(joint, place, struct.pack("<QQ", 2 ** 32, 2 ** 32))
    yield "other-shape", patched(joint, place, struct.pack("<QQ", 11, 4))
    yield "far-offset", patched(joint, place + 16 + 4, struct.pack("<Q", 2 ** 40))
    yield "array-of-arrays", patched(joint, joint.index(b"tokenizer.ggml.tokens") + 21 + 4, struct.pack("<I", ARRAY))
    yield "big-endian", patched(joint, 4, b"\0\0\0\3")
    for number, offset in enumerate((26, 240, 700, 1500, 2500)):
        yield f"bit-flip-{number}", patched(joint, offset, bytes([joint[offset] ^ 1 << number]))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
