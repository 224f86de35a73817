"""`export` writes folders that transformers and sentence-transformers open: same weights, hidden states and ids, and
converted again the same file."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from conftest import WORDS, Case, cosine_distance, make_checkpoint, run, run_json, write_lines
from test_parity_sparse import CONCEPTS, train, write_data
import reference as ref
import sparse_reference as sparse

TEXTS = [" ".join(WORDS[i : i + 7]) + tail for i, tail in enumerate(["", "!", " xyz 12", " café好", " \"so-so\"", " " * 3])]


def export(model, folder, *arguments):
    run("main", "export", model, "-o", folder, *arguments)
    return folder


def open_encoder(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False,
                                     attn_implementation="eager").to(torch.float64).eval()


def last_hidden(model, ids):
    ids, mask = ref.pad(ids)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].numpy()


def same_keys(a, b):
    """The two files' keys and values, but for those that an export makes explicit."""
    values = lambda path: {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()
                           if not name.startswith("GGUF.") and name != "general.name"}
    return values(a) == values(b)


def check_export(checkpoint, tmp_path, texts):
    folder = export(checkpoint.gguf(), tmp_path / "exported")
    ours, theirs = open_encoder(folder), checkpoint.encoder()
    assert ours.config.hidden_act in (theirs.config.hidden_act, "gelu_new") and ours.config.layer_norm_eps == pytest.approx(
        theirs.config.layer_norm_eps, rel=1e-6)
    weights = dict(theirs.named_parameters())
    assert set(dict(ours.named_parameters())) == set(weights)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    ids = checkpoint.ids(texts)
    some = sorted(ids, key=len)[:40]
    assert np.abs(last_hidden(ours, some) - last_hidden(theirs, some)).max() <= 1e-9

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == checkpoint.max_tokens
    for text, wanted in zip(texts, ids):
        assert tokenizer(text, truncation=True)["input_ids"] == wanted, text

    again = tmp_path / "again.gguf"
    run("convert", folder, "-o", again)
    tensors = lambda path: {t.name: np.asarray(t.data).tobytes() for t in gguf.GGUFReader(path).tensors}
    assert tensors(again) == tensors(checkpoint.gguf())
    assert same_keys(again, checkpoint.gguf())
    return folder


def test_random_models(random_checkpoint, hard_strings, tmp_path):
    check_export(random_checkpoint, tmp_path, TEXTS + hard_strings)


def test_minilm(minilm, hard_strings, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = check_export(minilm, tmp_path, TEXTS + hard_strings)
    path = write_lines(tmp_path / "texts.txt", TEXTS)
    texts = path.read_bytes().decode("utf-8").split("\n")[:-1]
    wanted = SentenceTransformer(str(minilm.folder), device="cpu").encode(texts)
    got = SentenceTransformer(str(folder), device="cpu").encode(texts)
    assert np.abs(got - wanted).max() <= 1e-6  # pooling and normalization came along
    embedded = [row["embedding"] for row in run_json("main", "embed", "--model", minilm.gguf(), "--file", path, "--normalize", "yes")]
    assert cosine_distance(got, np.array(embedded)).max() <= 1e-6


def test_quantized(minilm, tmp_path):
    """The values that the file stores."""
    folder = export(minilm.gguf("q8_0"), tmp_path / "exported")
    tensors = ref.read_gguf(minilm.gguf("q8_0"))
    for name, parameter in open_encoder(folder).named_parameters():
        assert np.array_equal(parameter.detach().numpy().astype(np.float32), tensors[ref.gguf_name(name)].reshape(parameter.shape)), name


def test_subnetworks(tmp_path_factory):
    """W, and W ⊙ M of each concept, of a trained model."""
    checkpoint = make_checkpoint(Case("export-sparse", 2, 36, 4, 70, "gelu", 1e-12), tmp_path_factory)
    data = write_data(checkpoint.work / "data.csv")
    model = train(checkpoint, data, checkpoint.work / "trained.gguf", "--prune", "random", "--sparsity", 0.55,
                  "--prune-start", 1, "--prune-end", 1, "--epochs", 1)
    tensors = sparse.read_tensors(model)
    masks = sparse.masks_of(tensors)
    for k, concept in [(None, None), *enumerate(CONCEPTS)]:
        folder = export(model, checkpoint.work / f"exported-{concept}", *(["--concept", concept] if concept else []))
        for name, parameter in open_encoder(folder).named_parameters():
            key = ref.gguf_name(name)
            wanted = tensors[key].reshape(parameter.shape)
            if concept and key in masks:
                wanted = wanted * masks[key][k]
            assert np.array_equal(parameter.detach().numpy().astype(np.float32), wanted), (concept, name)
