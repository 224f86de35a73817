"""A BiLSTM equals PyTorch's with the same weights: hidden states, gradients, with masks of subnetworks, and the first hundred
losses of a training. PyTorch's second bias of a gate is zero and stays so: one bias is all that there is to learn."""

import csv
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from conftest import CEBAB_COLUMNS, WORDS, cebab_file, cebab_subset, relative_error, run, run_json, write_csv, write_lines
import reference as ref
import sparse_reference as sparse

CONCEPTS = {"service": "how served", "noise": "noise"}
COLUMNS = ["--text", "text", "--label", "stars"] + [
    word for name, column in CONCEPTS.items() for word in ("--concept", f"{name}={column}")]
ROWS = 12
SIZES = {"small": ["--lstm-size", 7, "--word-size", 5], "odd": ["--lstm-size", 33, "--word-size", 40],
         "deep": ["--lstm-size", 10, "--lstm-layers", 3], "plain": []}


def names(layers):
    """PyTorch's flat list of an LSTM's weights, by the model file's names; None: the second bias."""
    return [f"blk.{n}.lstm_{way}{part}" if part else None for n in range(layers) for way in ("", "reverse_")
            for part in ("input.weight", "state.weight", "input.bias", None)]


class Bottleneck(nn.Module):
    """The joint model with the weights of a model file, and its masks where it has some."""

    def __init__(self, path, data, dtype=torch.float64):
        super().__init__()
        tensors = {name: torch.from_numpy(value.copy()) for name, value in sparse.read_tensors(path).items()}
        self.layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
        self.order = names(self.layers)
        self.dtype = dtype
        self.groups = np.cumsum([0] + [len(c) for c in data.concept_classes])
        trained = {"token_embd.weight", *self.order}
        trained |= {f"sparsecbm.{head}.{part}" for head in ("concept", "label") for part in ("weight", "bias")}
        self.weight = {name: nn.Parameter(value.to(dtype)) for name, value in tensors.items() if name in trained}
        self.prunable = [name for name in self.order if name and name.endswith(".weight")]
        self.masks = {name: torch.from_numpy(sparse.unpack_masks(tensors[name.removesuffix(".weight") + ".masks"].numpy(),
                                                                 tensors[name].shape[1]))
                      for name in self.prunable if name.removesuffix(".weight") + ".masks" in tensors}

    def named_parameters(self, *arguments, **options):
        return [(name.removeprefix("sparsecbm."), parameter) for name, parameter in self.weight.items()]

    def parameters(self, *arguments):
        return list(self.weight.values())

    def products(self):
        return {name: self.weight[name] * mask for name, mask in self.masks.items()}

    def encode(self, ids, mask, replaced):
        """The last layer's states [B, T, 2H] and the text's vector [B, 2H]."""
        weight = {**self.weight, **replaced}
        zero = torch.zeros_like(self.weight[self.order[2]])
        flat = [weight[name] if name else zero for name in self.order]
        x = F.embedding(ids, weight["token_embd.weight"])
        lengths = mask.sum(1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        size = self.weight[self.order[1]].shape[1]
        state = torch.zeros(2 * self.layers, len(ids), size, dtype=self.dtype)
        data, last, _ = torch._VF.lstm(packed.data, packed.batch_sizes, (state, state), flat, True, self.layers, 0.0, False, True)
        states, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True)
        last = last.index_select(1, packed.unsorted_indices)
        query = torch.cat([last[-2], last[-1]], 1)
        scores = (states @ query.unsqueeze(2)).squeeze(2).masked_fill(mask == 0, -torch.inf)
        return states, (scores.softmax(1).unsqueeze(2) * states).sum(1)

    def forward(self, ids, mask, products=None):
        """[B, C], [B, Y], [K or 1, B, d]."""
        w, b = self.weight["sparsecbm.concept.weight"], self.weight["sparsecbm.concept.bias"]
        if not products:
            pooled = [self.encode(ids, mask, {})[1]]
            logits = F.linear(pooled[0], w, b)
        else:
            pooled = [self.encode(ids, mask, {name: product[k] for name, product in products.items()})[1]
                      for k in range(len(self.groups) - 1)]
            rows = [slice(self.groups[k], self.groups[k + 1]) for k in range(len(pooled))]
            logits = torch.cat([F.linear(z, w[r], b[r]) for z, r in zip(pooled, rows)], 1)
        return (logits, F.linear(logits, self.weight["sparsecbm.label.weight"], self.weight["sparsecbm.label.bias"]),
                torch.stack(pooled))

    def loss(self, concepts, labels, logits, label_logits):
        losses = [F.cross_entropy(logits[:, self.groups[k]:self.groups[k + 1]], concepts[:, k], reduction="none")
                  for k in range(len(self.groups) - 1)]
        return F.cross_entropy(label_logits, labels) + 5.0 * torch.stack(losses).mean()


class Case:
    def __init__(self, work, name):
        rng = random.Random(4)
        lengths = [1, 2, 3, 7, 40] + [rng.randint(4, 21) for _ in range(ROWS - 5)]
        rows = [[" ".join(rng.choice(WORDS + ["xyz", "12", "café"]) for _ in range(n)), 1 + i % 3,
                 ["low", "high"][i % 2], ["a", "b", "c", ""][i % 4]] for i, n in enumerate(lengths)]
        self.work, self.sizes = work, SIZES[name]
        self.path = write_csv(work / "data.csv", ["text", "stars", *CONCEPTS.values()], rows)
        self.data = ref.read_csv(self.path, "text", "stars", CONCEPTS, drop_label=None)
        self.dense = self.train("dense.gguf", "--epochs", 0)
        self.sparse = self.train("sparse.gguf", "--epochs", 1, "--prune", "random", "--sparsity", 0.4, "--prune-start", 1,
                                 "--prune-end", 1, "--dropout", 0)
        tensors, masks, draw = sparse.read_tensors(self.sparse), {}, np.random.default_rng(3)
        for name in Bottleneck(self.sparse, self.data).prunable:
            bits = tensors[name.removesuffix(".weight") + ".masks"]
            mask = draw.random((*bits.shape[:2], tensors[name].shape[1])) < np.array([0.8, 0.3])[:, None, None]
            mask[0, 0, :] = mask[1, :, 0] = False
            masks[name] = mask
        sparse.overwrite(self.sparse, sparse.pack_all(masks, tensors))

    def train(self, name, *arguments):
        run("main", "train", "--encoder", "bilstm", *self.sizes, "--data", self.path, "--validation", self.path, *COLUMNS,
            "--mode", "joint", "--seed", 7, *arguments, "-o", self.work / name)
        return self.work / name

    def dump(self, path, *arguments):
        out = self.work / "dump.gguf"
        run("dump", "--model", path, "--data", self.path, *COLUMNS, "--rows", ROWS, *arguments, "-o", out)
        return sparse.read_tensors(out)

    def batch(self):
        texts = write_lines(self.work / "texts.txt", self.data.texts)
        return (*ref.pad(tokenize(self.dense, texts)), torch.from_numpy(self.data.concepts), torch.from_numpy(self.data.labels))


def tokenize(model, path):
    return [row["ids"] for row in run_json("main", "tokenize", "--model", model, "--file", path)]


@pytest.fixture(scope="module", params=SIZES)
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp(request.param), request.param)


def check_gradients(got, wanted):
    whole = np.sqrt(sum((g ** 2).sum() for g in wanted.values()))
    wrong = []
    for name, gradient in wanted.items():
        norm, error = np.linalg.norm(gradient), np.linalg.norm(got[name].reshape(gradient.shape) - gradient)
        if not error <= 1e-3 * max(norm, 1e-5 * whole):
            wrong.append(f"{name}: error {error:.3e}, gradient {norm:.3e}")
    assert not wrong, f"of all gradients' norm {whole:.3e}:\n" + "\n".join(wrong)


def test_hidden_states(case):
    dumped, model = case.dump(case.dense), Bottleneck(case.dense, case.data)
    ids, mask, *_ = case.batch()
    with torch.no_grad():
        states, pooled = model.encode(ids, mask, {})
    assert relative_error(dumped[f"hidden.{model.layers}"].reshape(-1, states.shape[2]), states[mask.bool()].numpy()) <= 1e-5
    assert relative_error(dumped["pooled"].reshape(pooled.shape), pooled.numpy()) <= 1e-5


@pytest.mark.parametrize("which", ["dense", "sparse"])
def test_loss_and_gradients(case, which):
    path = getattr(case, which)
    dumped, model = case.dump(path), Bottleneck(path, case.data)
    ids, mask, concepts, labels = case.batch()
    logits, label_logits, pooled = model(ids, mask, model.products())
    loss = model.loss(concepts, labels, logits, label_logits)
    loss.backward()
    for name, wanted in (("pooled", pooled), ("concept_logits", logits), ("label_logits", label_logits), ("loss", loss)):
        wanted = wanted.detach().numpy().reshape(-1)
        assert relative_error(dumped[name].reshape(-1), wanted) <= 1e-5, name
    wanted = {name: parameter.grad.numpy() for name, parameter in model.weight.items()}
    got = {name.removeprefix("grad."): value for name, value in dumped.items() if name.startswith("grad.")}
    assert sorted(got) == sorted(wanted)
    check_gradients(got, wanted)


@pytest.mark.parametrize("kind", ["masked", "dense"])
def test_gradients_of_each_stream(case, kind):
    dumped, model = case.dump(case.sparse, "--gradients", kind), Bottleneck(case.sparse, case.data)
    ids, mask, concepts, labels = case.batch()
    products = {name: product.detach().requires_grad_() for name, product in model.products().items()}
    logits, label_logits, _ = model(ids, mask, products)
    gradients = torch.autograd.grad(model.loss(concepts, labels, logits, label_logits), list(products.values()))
    wanted = {name: gradient.numpy() for name, gradient in zip(products, gradients)}
    if kind == "masked":
        wanted = {name: gradient * model.masks[name].numpy() for name, gradient in wanted.items()}
    check_gradients({name: dumped["grad." + name] for name in wanted}, wanted)


def test_first_hundred_losses(cebab, tmp_path):
    steps, epochs, rows = 100, 4, 400
    train = cebab_subset(tmp_path / "train.csv", cebab_file(cebab, "train_cebab"), rows)
    common = ["train", "--encoder", "bilstm", "--data", train, "--validation", train, *CEBAB_COLUMNS, "--mode", "joint",
              "--seed", 3, "--max-length", 128]
    run("main", *common, "--epochs", 0, "-o", tmp_path / "init.gguf")
    run("main", *common, "--init", tmp_path / "init.gguf", "--dropout", 0, "--epochs", epochs, "--batch-size", 16, "--log-steps",
        tmp_path / "steps.csv", "--dump-order", tmp_path / "order.txt", "-o", tmp_path / "model.gguf")
    with open(tmp_path / "steps.csv", newline="", encoding="ascii") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    orders = [[int(row) for row in line.split()] for line in (tmp_path / "order.txt").read_text().splitlines()]
    assert len(losses) == len(orders) == steps
    data = ref.read_csv(train)
    texts = [text.replace("\n", " ") for text in data.texts]
    sequences = tokenize(tmp_path / "init.gguf", write_lines(tmp_path / "texts.txt", texts))
    model = Bottleneck(tmp_path / "init.gguf", data, torch.float32)
    optimizer, warmup, wanted = ref.make_optimizer(model), max(1, round(0.06 * steps)), []
    for step, order in enumerate(orders, 1):
        ids, mask = ref.pad([sequences[i] for i in order])
        logits, label_logits, _ = model(ids, mask)
        loss = model.loss(torch.from_numpy(data.concepts[order]), torch.from_numpy(data.labels[order]), logits, label_logits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * ref.linear_schedule(step, warmup, steps)
        optimizer.step()
        wanted.append(loss.item())
    difference = np.abs(np.array(losses) - np.array(wanted))
    print(f"largest difference {difference.max():.2e} at step {1 + difference.argmax()}")
    assert difference.max() <= 1e-5, "\n".join(f"{i + 1} {a:.7f} {b:.7f}" for i, (a, b) in enumerate(zip(losses, wanted)))
