"""Training in bf16 is PyTorch's with the operands of linear layers and of their gradients' products rounded to bf16."""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import (CEBAB_COLUMNS, TINY_COLUMNS, cebab_file, cebab_subset, read_steps, read_tiny, run, short_training,
                      tiny_csv)
import reference as ref

BATCH, EPOCHS, ROWS = 16, 2, 192  # 12 steps an epoch


def rounded(x):
    return x.to(torch.bfloat16).to(x.dtype)


class RoundedProduct(torch.autograd.Function):
    """x Wᵀ of what bf16 holds of x and W; its gradients' products read what bf16 holds of theirs."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return rounded(x) @ rounded(weight).T

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = rounded(dy)
        return dy @ rounded(weight), dy.flatten(0, -2).T @ rounded(x).flatten(0, -2)


class RoundedLinear(nn.Module):
    """A layer in the place of another, with its parameters."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        return RoundedProduct.apply(x, self.weight) + self.bias


def round_layers(model):
    """All but the concepts' heads, which are small and stay f32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "concept":
                setattr(module, name, RoundedLinear(child))
    return model


def gradients_of(model, checkpoint, data, rows):
    concept_logits, label_logits, _ = model(*ref.pad(checkpoint.ids(data.texts[:rows])))
    ref.joint_loss(concept_logits, label_logits, torch.from_numpy(data.concepts[:rows]),
                   torch.from_numpy(data.labels[:rows]), concept_weight=5.0).backward()
    return {ref.gguf_name(name): parameter.grad.numpy() for name, parameter in model.named_parameters()}


def distance(got, wanted):
    """Of all gradients together, and the largest of one matrix whose gradient is not next to nothing."""
    off = {name: np.linalg.norm(got[name].reshape(w.shape) - w) for name, w in wanted.items()}
    norm = {name: np.linalg.norm(w) for name, w in wanted.items()}
    whole = np.sqrt(sum(n ** 2 for n in norm.values()))
    return (np.sqrt(sum(o ** 2 for o in off.values())) / whole,
            max(off[name] / norm[name] for name in off if norm[name] > 1e-2 * whole))


def check_gradients(checkpoint, path, columns, data, rows):
    init, out = checkpoint.work / "rounded-init.gguf", checkpoint.work / "rounded.gguf"
    run("main", "train", "--encoder", checkpoint.gguf(), "--data", path, "--validation", path, *columns,
        "--mode", "joint", "--epochs", 0, "--seed", 7, "--force", "-o", init)
    run("dump", "--model", init, "--data", path, *columns, "--rows", rows, "--precision", "bf16", "-o", out)
    tensors, dumped = ref.read_gguf(init), ref.read_gguf(out)
    got = {name.removeprefix("grad."): value for name, value in dumped.items() if name.startswith("grad.")}
    emulated = gradients_of(round_layers(checkpoint.bottleneck(tensors, data)), checkpoint, data, rows)
    exact = gradients_of(checkpoint.bottleneck(tensors, data), checkpoint, data, rows)
    whole, worst = distance(got, emulated)
    from_exact, _ = distance(got, exact)
    print(f"gradients: {whole:.1e} from the emulation, one matrix {worst:.1e}; {from_exact:.1e} from f64")
    assert whole <= 2e-2 and worst <= 2e-2, (whole, worst)
    assert from_exact > 1e-4, "nothing was rounded"


def test_gradients_of_random_models(gradient_checkpoint, tmp_path):
    path = tiny_csv(tmp_path / "tiny.csv")
    check_gradients(gradient_checkpoint, path, TINY_COLUMNS, read_tiny(path), 24)


def test_gradients_of_minilm(minilm, cebab):
    path = cebab_subset(minilm.work / "rounded.csv", cebab_file(cebab, "train_cebab"), 32)
    check_gradients(minilm, path, CEBAB_COLUMNS, ref.read_csv(path), 16)


@pytest.fixture(scope="module")
def trained(minilm, cebab):
    return short_training(minilm, cebab, "training-bf16", ROWS, 32, "--epochs", EPOCHS, "--batch-size", BATCH,
                          "--precision", "bf16")


def test_losses(minilm, trained):
    losses, orders = read_steps(trained)
    assert len(losses) == len(orders) == EPOCHS * ROWS // BATCH
    data = ref.read_csv(trained / "train.csv")
    model = minilm.bottleneck(ref.read_gguf(trained / "init.gguf"), data, torch.float32)
    wanted = ref.losses_of(round_layers(model), minilm.ids(data.texts), data, orders)
    off = np.abs(np.array(losses) / wanted - 1)
    print(f"losses: {off.max():.1e} from the emulation, at step {1 + off.argmax()}")
    assert off.max() <= 2e-2, "\n".join(f"{i + 1} {a:.6f} {b:.6f}" for i, (a, b) in enumerate(zip(losses, wanted)))
