"""The gguf package reads what we write, we read what it writes, and both quantize to the same bytes."""

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open

from conftest import cebab_file, cosine_distance, run, run_json, write_lines
import reference as ref

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
QUANTIZED = {gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.BF16,
             gguf.GGMLQuantizationType.F16}


def original_weights(folder):
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        weights = {ref.gguf_name(name): file.get_tensor(name).astype(np.float32)
                   for name in file.keys() if not name.startswith("pooler.") and not name.endswith("position_ids")}
    return weights


@pytest.mark.parametrize("type", TYPES)
def test_gguf_reads_ours(minilm, type):
    reader = gguf.GGUFReader(minilm.gguf(type))
    field = lambda key: reader.fields[key].contents()
    assert field("general.architecture") == "bert"
    assert field("bert.embedding_length") == 384
    assert field("bert.block_count") == 6
    assert field("bert.attention.head_count") == 12
    assert field("bert.feed_forward_length") == 1536
    assert field("bert.context_length") in (256, 512)
    assert field("bert.attention.layer_norm_epsilon") == np.float32(1e-12)
    assert len(field("tokenizer.ggml.tokens")) == 30522

    weights = original_weights(minilm.folder)
    assert {t.name for t in reader.tensors} == set(weights)
    used = set()
    for tensor in reader.tensors:
        wanted = weights[tensor.name]
        used.add(tensor.tensor_type.name.lower())
        assert list(reversed(tensor.shape.tolist())) == list(wanted.shape), tensor.name
        if tensor.tensor_type in QUANTIZED:
            assert wanted.ndim == 2, f"{tensor.name} is {tensor.tensor_type.name}"
            wanted = gguf.quants.quantize(wanted, tensor.tensor_type)
        same = np.asarray(tensor.data).view(np.uint8).reshape(-1) == wanted.view(np.uint8).reshape(-1)
        assert same.all(), f"{tensor.name}: {(~same).sum()} of {same.size} bytes differ from the gguf package's"
    assert type in used


def test_quantize_equals_converting(minilm, tmp_path):
    """`quantize` of a converted file holds the tensors that converting to the type gives."""
    path = tmp_path / "q8.gguf"
    run("main", "quantize", minilm.gguf(), "--type", "q8_0", "-o", path)
    ours, wanted = (gguf.GGUFReader(p) for p in (path, minilm.gguf("q8_0")))
    data = lambda reader: {t.name: (t.tensor_type, np.asarray(t.data).tobytes()) for t in reader.tensors}
    assert data(ours) == data(wanted)


def rewrite(source, target, more_keys=()):
    """Copies a model file through the gguf package's reader and writer, with that one's alignment instead of ours."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.alignment"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for name, value, *types in more_keys:
        writer.add_key_value(name, value, *types)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


KIND = gguf.GGUFValueType
KEYS = [
    ("a.uint8", 200, KIND.UINT8), ("a.int8", -100, KIND.INT8), ("a.uint16", 60000, KIND.UINT16),
    ("a.int16", -30000, KIND.INT16), ("a.uint32", 4000000000, KIND.UINT32), ("a.int32", -2000000000, KIND.INT32),
    ("a.uint64", 2 ** 53, KIND.UINT64), ("a.int64", -(2 ** 53), KIND.INT64), ("a.float32", 0.5, KIND.FLOAT32),
    ("a.float64", 0.1, KIND.FLOAT64), ("a.bool", True, KIND.BOOL), ("a.string", "grüß \"dich\"", KIND.STRING),
    ("a.strings", ["one", "", "drei"], KIND.ARRAY, KIND.STRING), ("a.numbers", [1, -2, 3], KIND.ARRAY, KIND.INT16),
]


@pytest.mark.parametrize("type", TYPES)
def test_we_read_what_gguf_writes(minilm, tmp_path, type):
    """The model works as before, and `inspect` shows its tensors and metadata of every type."""
    path = tmp_path / "rewritten.gguf"
    rewrite(minilm.gguf(type), path, KEYS)
    shown, = run_json("main", "inspect", path)
    assert {t.name for t in gguf.GGUFReader(path).tensors} == {t["name"] for t in shown["tensors"]}
    for name, value, *_ in KEYS:
        assert shown["keys"][name] == value, name
    texts = write_lines(tmp_path / "texts.txt", ["Great food, rude staff.", "", "Näive café"])
    embed = lambda model: run("main", "embed", "--model", model, "--file", texts, "--json")
    assert embed(path) == embed(minilm.gguf(type))


def torch_embeddings(checkpoint, tensors, texts):
    """Means over the tokens, computed by transformers with a model file's weights."""
    encoder = checkpoint.encoder(torch.float32)
    ids, mask = ref.pad(checkpoint.ids(texts))
    with torch.inference_mode():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(torch.from_numpy(tensors[ref.gguf_name(name)]).reshape(parameter.shape))
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return ((hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).numpy()


@pytest.mark.parametrize("type, most", [("f16", 1e-5), ("bf16", 1e-4), ("q8_0", 1e-3), ("q4_0", 0.1)])
def test_quantized_embeddings(minilm, cebab, tmp_path, type, most):
    """Those of the quantized weights, computed exactly; the rounding itself moves them by no more than `most`.

    Rounding MiniLM to 4 bits alone costs 5.9e-2, hence 0.1 there; what is ours is held to 1e-5.
    """
    texts = [" ".join(t.split("\n")) for t in ref.read_csv(cebab_file(cebab, "test_cebab")).texts[:100]]
    path = write_lines(tmp_path / "texts.txt", texts)
    exact, rounded = (np.array([row["embedding"] for row in run_json("main", "embed", "--model", minilm.gguf(t),
                                                                     "--file", path)]) for t in ("f32", type))
    distance = cosine_distance(rounded, torch_embeddings(minilm, ref.read_gguf(minilm.gguf(type)), texts))
    assert distance.max() <= 1e-5, f"{distance.max():.2e} from PyTorch with the same weights"
    distance = cosine_distance(exact, rounded)
    assert distance.max() <= most, f"{distance.max():.2e} from the exact weights"


def test_numpy_reads_vectors(minilm, tmp_path):
    """embed -o writes NumPy's format: the numbers that it prints, float32 [texts, hidden size]."""
    texts, path = ["The soup was cold.", "Kind staff!", ""], tmp_path / "vectors.npy"
    run("main", "embed", "--model", minilm.gguf("f32"), "-o", path, *texts)
    printed = run_json("main", "embed", "--model", minilm.gguf("f32"), *texts)
    vectors = np.load(path)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 384)
    assert (vectors == np.array([p["embedding"] for p in printed], dtype=np.float32)).all()
