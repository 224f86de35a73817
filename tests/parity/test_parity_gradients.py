"""The joint loss and every parameter's gradient equal PyTorch's."""

import numpy as np
import pytest
import torch

from conftest import CEBAB_COLUMNS, TINY_COLUMNS, cebab_file, cebab_subset, read_tiny, relative_error, tiny_csv
from test_parity_encoder import dump
import reference as ref


def check(checkpoint, tensors, dumped, data, rows, pooling="mean"):
    model = checkpoint.bottleneck(tensors, data, pooling=pooling)
    concept_logits, label_logits, pooled = model(*ref.pad(checkpoint.ids(data.texts[:rows])))
    loss = ref.joint_loss(concept_logits, label_logits, torch.from_numpy(data.concepts[:rows]),
                          torch.from_numpy(data.labels[:rows]), concept_weight=5.0)
    loss.backward()

    for name, wanted in (("pooled", pooled), ("concept_logits", concept_logits), ("label_logits", label_logits)):
        assert relative_error(dumped[name].reshape(rows, -1), wanted.detach().numpy().reshape(rows, -1)) <= 1e-4, name
    assert abs(float(dumped["loss"].reshape(-1)[0]) - loss.item()) <= 1e-5

    gradients = {ref.gguf_name(name): parameter.grad.numpy() for name, parameter in model.named_parameters()}
    whole = np.sqrt(sum((g ** 2).sum() for g in gradients.values()))
    wrong = []
    for name, wanted in gradients.items():
        got = dumped["grad." + name].reshape(wanted.shape)
        norm, error = np.linalg.norm(wanted), np.linalg.norm(got - wanted)
        if not error <= 1e-3 * max(norm, 1e-5 * whole):
            wrong.append(f"{name}: error {error:.3e}, gradient {norm:.3e}")
    assert not wrong, f"of all gradients' norm {whole:.3e}:\n" + "\n".join(wrong)
    extra = {name for name in dumped if name.startswith("grad.")} - {"grad." + name for name in gradients}
    assert not extra, f"gradients that PyTorch does not have: {extra}"


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_random_models(gradient_checkpoint, tmp_path, pooling):
    path = tiny_csv(tmp_path / "tiny.csv")
    tensors, dumped = dump(gradient_checkpoint, path, TINY_COLUMNS, 24, pooling)
    check(gradient_checkpoint, tensors, dumped, read_tiny(path), 24, pooling)


def test_minilm(minilm, cebab):
    path = cebab_subset(minilm.work / "gradient.csv", cebab_file(cebab, "train_cebab"), 32)
    tensors, dumped = dump(minilm, path, CEBAB_COLUMNS, 16)
    check(minilm, tensors, dumped, ref.read_csv(path), 16)
