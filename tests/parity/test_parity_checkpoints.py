"""Checkpoints as torch.save writes them, in every form, convert to the tensors that PyTorch holds."""

import collections
import json
import os
import shutil
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from conftest import PROGRAMS, Case, make_checkpoint, run
import reference as ref
import subprocess

CASE = Case("torch-files", 2, 40, 4, 72, "gelu", 1e-12, prefix=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(CASE, tmp_path_factory)


@pytest.fixture(scope="module")
def state(checkpoint):
    """Weights, and an integer buffer as older versions saved."""
    model = BertForMaskedLM.from_pretrained(checkpoint.folder)
    state = collections.OrderedDict((name, tensor.detach().clone()) for name, tensor in model.state_dict().items())
    state["bert.embeddings.position_ids"] = torch.arange(48).expand(1, -1)
    state._metadata = getattr(model.state_dict(), "_metadata", None)
    return state


def turned(state):
    """Matrices whose columns follow one another."""
    return {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in state.items()}


def every_other(state):
    """Every tensor lies in one twice as long, with something else between its numbers."""
    def wide(t):
        big = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), 7, dtype=t.dtype)
        big[..., 1::2] = t
        return big[..., 1::2]
    return {n: wide(t) for n, t in state.items()}


def slices_of_one(state):
    """All are parts of one storage."""
    floats = {n: t for n, t in state.items() if t.is_floating_point()}
    flat, result, at = torch.cat([torch.zeros(13)] + [t.reshape(-1) for t in floats.values()]), {}, 13
    for name, tensor in floats.items():
        result[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return result


def parameters(state):
    return {n: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for n, t in state.items()}


def parameters_with_state(state):
    result = parameters(state)
    for parameter in result.values():
        parameter.origin = {"step": 3, "who": ["a", ("b", None, 2.5, True)]}
    return result


def tensors_with_state(state):
    result = {n: t.clone() for n, t in state.items()}
    for tensor in result.values():
        tensor.origin = "x"
    return result


def with_other_types(state):
    """Types that no encoder's weight has; a uint16 tensor is saved with an untyped storage."""
    more = [torch.uint16, torch.int8, torch.int32, torch.bool, torch.float8_e4m3fn]
    return {**state, **{f"cls.extra{i}": torch.zeros(3, 5).to(t) for i, t in enumerate(more)}}


FORMS = {
    "zip": (lambda s: s, {}),
    "old": (lambda s: s, {"_use_new_zipfile_serialization": False}),
    "protocol-4": (lambda s: s, {"pickle_protocol": 4}),
    "protocol-5": (lambda s: s, {"pickle_protocol": 5}),
    "old-protocol-4": (lambda s: s, {"pickle_protocol": 4, "_use_new_zipfile_serialization": False}),
    "turned": (turned, {}),
    "old-turned": (turned, {"_use_new_zipfile_serialization": False}),
    "every-other": (every_other, {}),
    "slices": (slices_of_one, {}),
    "old-slices": (slices_of_one, {"_use_new_zipfile_serialization": False}),
    "parameters": (parameters, {}),
    "old-parameters": (parameters, {"_use_new_zipfile_serialization": False}),
    "parameters-with-state": (parameters_with_state, {}),
    "tensors-with-state": (tensors_with_state, {}),
    "more-types": (with_other_types, {}),
    "state-dict": (lambda s: {"epoch": 3, "state_dict": s, "loss": 0.5}, {}),
    "model": (lambda s: {"model": dict(s), "arguments": {"lr": 1e-3, "names": ["a"]}}, {}),
    "f64": (lambda s: {n: t.double() if t.is_floating_point() else t for n, t in s.items()}, {}),
    "f16": (lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()}, {}),
    "bf16-turned": (lambda s: turned({n: t.bfloat16() if t.is_floating_point() else t for n, t in s.items()}), {}),
    "old-f64-every-other": (lambda s: every_other({n: t.double() if t.is_floating_point() else t for n, t in s.items()}),
                            {"_use_new_zipfile_serialization": False}),
}


def folder_for(checkpoint, tmp_path):
    """The checkpoint's folder without its weights."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint.folder, folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    return folder


def tensors_of(folder, path):
    run("convert", folder, "-o", path)
    return {t.name: np.array(t.data).reshape(tuple(reversed(t.shape.tolist()))) for t in gguf.GGUFReader(path).tensors}


def check(folder, tmp_path, saved):
    """Every tensor of the encoder arrives with its bits."""
    for around in ("state_dict", "model"):
        saved = saved.get(around, saved)
    got = tensors_of(folder, tmp_path / "model.gguf")
    wanted = {ref.gguf_name(n.removeprefix("bert.")): t.detach().float().numpy() for n, t in saved.items()
              if n.startswith("bert.") and t.is_floating_point() and "pooler" not in n}
    assert set(got) == set(wanted) and len(got) > 30
    for name, tensor in wanted.items():
        assert np.array_equal(got[name], tensor), name


@pytest.mark.parametrize("form", FORMS)
def test_every_form(checkpoint, state, tmp_path, form):
    make, options = FORMS[form]
    folder = folder_for(checkpoint, tmp_path)
    saved = make(state)
    torch.save(saved, folder / "pytorch_model.bin", **options)
    check(folder, tmp_path, torch.load(folder / "pytorch_model.bin", weights_only=False))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
def test_shards(checkpoint, state, tmp_path, options):
    folder = folder_for(checkpoint, tmp_path)
    names, where = list(state), {}
    for i in range(3):
        file = f"pytorch_model-{i + 1:05}-of-00003.bin"
        torch.save({n: state[n] for n in names[i::3]}, folder / file, **options)
        where.update({n: file for n in names[i::3]})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    check(folder, tmp_path, state)


def swapped(data, size):
    return np.frombuffer(data, dtype=f"u{size}").byteswap().tobytes()


def test_big_endian(checkpoint, state, tmp_path):
    """A file as a big-endian machine writes it; PyTorch reads it the same."""
    folder = folder_for(checkpoint, tmp_path)
    floats = {n: t for n, t in state.items() if t.is_floating_point()}
    torch.save(floats, tmp_path / "little.bin")
    with zipfile.ZipFile(tmp_path / "little.bin") as little, \
         zipfile.ZipFile(folder / "pytorch_model.bin", "w") as big:
        for name in little.namelist():
            data = little.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            big.writestr(name, swapped(data, 4) if "/data/" in name else data)
    again = torch.load(folder / "pytorch_model.bin")
    assert all(torch.equal(again[n], t) for n, t in floats.items())
    check(folder, tmp_path, floats)


def refusal(folder, tmp_path):
    done = subprocess.run([PROGRAMS["convert"], folder, "-o", tmp_path / "model.gguf"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "model.gguf").exists()
    return done.stderr


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}],
                         ids=["zip", "old", "protocol-4"])
def test_nothing_is_run(checkpoint, state, tmp_path, options):
    folder = folder_for(checkpoint, tmp_path)
    torch.save({**state, "bert.harm": Harm(tmp_path / "harm")}, folder / "pytorch_model.bin", **options)
    message = refusal(folder, tmp_path)
    assert "asks for posix.system, which describes no tensor; nothing of it was run" in message
    assert not (tmp_path / "harm").exists()


def test_compressed_is_refused(checkpoint, state, tmp_path):
    folder = folder_for(checkpoint, tmp_path)
    torch.save(state, tmp_path / "plain.bin")
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, \
         zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert "is compressed or encrypted" in refusal(folder, tmp_path)


def test_whole_model_is_refused(checkpoint, tmp_path):
    folder = folder_for(checkpoint, tmp_path)
    torch.save(BertForMaskedLM.from_pretrained(checkpoint.folder), folder / "pytorch_model.bin")
    assert "its pickle asks for transformers.models.bert.modeling_bert.BertForMaskedLM" in refusal(folder, tmp_path)
