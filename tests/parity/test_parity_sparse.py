"""Sparse models equal the PyTorch reference: forward, loss, gradients of every kind, statistics, interventions."""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import WORDS, Case, Checkpoint, make_checkpoint, relative_error, run, run_json, write_csv
import reference as ref
import sparse_reference as sparse

CASES = [Case("sparse-erf", 2, 36, 4, 70, "gelu", 1e-12), Case("sparse-tanh", 2, 72, 3, 131, "gelu_new", 1e-5)]
CONCEPTS = {"service": "how served", "price": "price", "noise": "noise"}
COLUMNS = ["--text", "text", "--label", "stars"] + [
    word for name, column in CONCEPTS.items() for word in ("--concept", f"{name}={column}")]
ROWS = 24


def write_data(path, n=ROWS):
    """Labelled texts of random words; concepts with three, two and four classes."""
    rng = random.Random(2)
    rows = [[" ".join(rng.choice(WORDS + ["Walking", "xyz", "12", "café", "bad,", "line\nbreak"])
                      for _ in range(rng.randint(1, 14))),
             1 + i % 3, rng.choice(["Negative", "Positive", ""]), ["low", "high"][i % 2], rng.choice("1234")]
            for i in range(n)]
    return write_csv(path, ["text", "stars", *CONCEPTS.values()], rows)


@dataclass
class SparseModel:
    checkpoint: Checkpoint
    data_path: Path
    data: ref.Dataset
    trained: Path  # as the program wrote it
    path: Path  # the same with other masks: of different densities, with empty rows and columns
    hollow: Path  # and with a matrix in which a concept keeps nothing
    stubborn: Path  # and with concepts that are hard to move
    references: dict = field(default_factory=dict)

    @property
    def groups(self):
        return np.cumsum([0] + [len(classes) for classes in self.data.concept_classes])

    def reference(self, path):
        """The reference with this file's weights and masks."""
        if path not in self.references:
            self.references[path] = load_reference(self.checkpoint, path, self.data)
        self.references[path].zero_grad()
        return self.references[path]

    def batch(self, rows=ROWS):
        return (*ref.pad(self.checkpoint.ids(self.data.texts[:rows])), torch.from_numpy(self.data.concepts[:rows]),
                torch.from_numpy(self.data.labels[:rows]))

    def text(self, row):
        return ref.pad(self.checkpoint.ids([self.data.texts[row]]))

    def dump(self, out, *arguments, model=None, rows=ROWS):
        run("dump", "--model", model or self.path, "--data", self.data_path, *COLUMNS, "--rows", rows, *arguments,
            "-o", out)
        return sparse.read_tensors(out)


def load_reference(checkpoint, path, data):
    groups = np.cumsum([0] + [len(classes) for classes in data.concept_classes])
    tensors = sparse.read_tensors(path)
    has_masks = any(name.endswith(".masks") for name in tensors)
    model = sparse.SparseBottleneck(checkpoint.encoder(), groups, len(data.label_classes),
                                    sparse.masks_of(tensors) if has_masks else None)
    ref.load_weights(model, tensors)
    return model


def train(checkpoint, data_path, out, *arguments):
    run("main", "train", "--model", checkpoint.gguf(), "--data", data_path, "--valid", data_path, *COLUMNS, "--mode",
        "joint", "--seed", 4, "--dropout", 0, "--batch", 8, *arguments, "-o", out)
    return out


def awkward_masks(shapes):
    """Random masks: the three concepts keep 90, 50 and 15 %, and some rows and columns are empty."""
    rng = np.random.default_rng(3)
    masks = {}
    for name, shape in shapes.items():
        masks[name] = rng.random(shape) < np.array([0.9, 0.5, 0.15])[:, None, None]
        masks[name][0, 0, :] = masks[name][1, :, 0] = masks[name][2, -1, :] = False
        masks[name][2, 1, :] = True
    return masks


def change(path, name, values):
    """A copy of a model file with other numbers in some of its tensors."""
    copy = Path(shutil.copy(path, path.parent / name))
    sparse.overwrite(copy, values)
    return copy


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def model(request, tmp_path_factory):
    checkpoint = make_checkpoint(request.param, tmp_path_factory)
    data = write_data(checkpoint.work / "data.csv")
    trained = train(checkpoint, data, checkpoint.work / "trained.gguf", "--prune", "random", "--sparsity", 0.55,
                    "--prune-start", 1, "--prune-end", 1, "--epochs", 1)
    tensors = sparse.read_tensors(trained)
    masks = awkward_masks({name: mask.shape for name, mask in sparse.masks_of(tensors).items()})
    path = change(trained, "sparse.gguf", sparse.pack_all(masks, tensors))
    masks["blk.0.attn_k.weight"][2] = False
    hollow = change(trained, "hollow.gguf", sparse.pack_all(masks, tensors))
    stubborn = change(path, "stubborn.gguf", {"sparsecbm.concept.bias": [-5, 5, 0, -4, 4, -2, 3, -1, 2]})
    return SparseModel(checkpoint, data, ref.read_csv(data, "text", "stars", CONCEPTS, drop_label=None), trained, path,
                       hollow, stubborn)


# --- forward and backward -------------------------------------------------------------------


def check_gradients(got, wanted):
    """Every gradient within 1e-3 · max(‖g‖, 1e-5 · ‖all g‖)."""
    whole = np.sqrt(sum((g ** 2).sum() for g in wanted.values()))
    wrong = []
    for name, gradient in wanted.items():
        norm, error = np.linalg.norm(gradient), np.linalg.norm(got[name].reshape(gradient.shape) - gradient)
        if not error <= 1e-3 * max(norm, 1e-5 * whole):
            wrong.append(f"{name}: error {error:.3e}, gradient {norm:.3e}")
    assert not wrong, f"of all gradients' norm {whole:.3e}:\n" + "\n".join(wrong)


def gradients_of(tensors, prefix="grad."):
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_random_masks_have_the_exact_number_of_zeros(model):
    for name, mask in sparse.masks_of(sparse.read_tensors(model.trained)).items():
        for k in range(len(CONCEPTS)):
            assert (~mask[k]).sum() == sparse.n_zeros(mask[k].size, 0.55), name


def test_forward_loss_and_gradients(model, tmp_path):
    dumped = model.dump(tmp_path / "dump.gguf", model=model.hollow)
    reference = model.reference(model.hollow)
    ids, mask, concepts, labels = model.batch()
    products = reference.products()
    pooled = [sparse.pool(reference.encode(k, products, mask, input_ids=ids), mask) for k in range(len(CONCEPTS))]
    concept_logits, label_logits = reference(ids, mask)
    loss = reference.loss(ids, mask, concepts, labels)
    loss.backward()
    for name, wanted in (("pooled", torch.stack(pooled)), ("concept_logits", concept_logits),
                         ("label_logits", label_logits), ("loss", loss.reshape(1))):
        wanted = wanted.detach().numpy()
        assert relative_error(dumped[name].reshape(wanted.shape), wanted) <= 1e-4, name

    wanted = {ref.gguf_name(name): parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    got = gradients_of(dumped)
    assert sorted(got) == sorted(wanted)
    check_gradients(got, wanted)
    for name, masks in reference.masks.items():
        assert not got[name][~masks.any(0).numpy()].any(), f"{name}: a gradient where every concept's mask is zero"


@pytest.mark.parametrize("kind", ["masked", "dense"])
def test_gradients_of_each_stream(model, tmp_path, kind):
    got = gradients_of(model.dump(tmp_path / "dump.gguf", "--gradients", kind, model=model.hollow))
    reference = model.reference(model.hollow)
    wanted = reference.stream_gradients(*model.batch())
    if kind == "masked":
        wanted = {name: gradient * reference.masks[name].numpy() for name, gradient in wanted.items()}
        assert all(not got[name][~masks.numpy()].any() for name, masks in reference.masks.items())
    check_gradients(got, wanted)
    for k in range(len(CONCEPTS)):  # a small stream must not hide behind a large one
        check_gradients({name: got[name][k] for name in wanted}, {name: g[k] for name, g in wanted.items()})


def test_predictions(model):
    reference = model.reference(model.path)
    with torch.no_grad():
        concept_logits, label_logits = reference(*model.batch()[:2])
    got = run_json("main", "predict", "--model", model.path, "--data", model.data_path, "--text", "text")
    assert relative_error([p["logits"] for p in got], label_logits.numpy()) <= 1e-4
    mean = sparse.read_tensors(model.path)["sparsecbm.concept.mean"].astype(np.float64)
    weight = reference.label.weight.detach().numpy()
    for p, logits, labels in zip(got, concept_logits.numpy(), label_logits.numpy()):
        y = labels.argmax()
        assert p["label"] == model.data.label_classes[y]
        assert p["bias"] == pytest.approx(reference.label.bias[y].item() + weight[y] @ mean, rel=1e-4, abs=1e-4)
        for k, concept in enumerate(p["concepts"]):
            own = reference.classes(k)
            assert relative_error(concept["logits"], logits[own]) <= 1e-4
            assert concept["class"] == model.data.concept_classes[k][logits[own].argmax()]
            assert concept["contribution"] == pytest.approx(weight[y, own] @ (logits[own] - mean[own]), rel=1e-3,
                                                            abs=1e-4)


def test_statistics(model):
    """ū, and the mean of u_k over the training rows of each gold class, through the subnetworks."""
    reference = model.reference(model.trained)
    tensors = sparse.read_tensors(model.trained)
    with torch.no_grad():
        values = reference(*model.batch()[:2])[0].numpy()
    assert relative_error(tensors["sparsecbm.concept.mean"].reshape(-1), values.mean(0)) <= 1e-4
    means, counts = sparse.gold_means(values, model.data.concepts, reference.groups)
    assert tensors["sparsecbm.concept.gold_counts"].reshape(-1).tolist() == counts
    for got, wanted in zip(tensors["sparsecbm.concept.gold_means"], means):
        assert relative_error(got[:len(wanted)], wanted) <= 1e-4
        assert not got[len(wanted):].any()


# --- interventions --------------------------------------------------------------------------


def wrong_concepts(reference, model, n):
    """Some (row, concept, class that it does not read), spread over concepts and classes."""
    with torch.no_grad():
        logits = reference(*model.batch()[:2])[0]
    found = []
    for i in range(n):
        row, k = (7 * i) % ROWS, i % len(CONCEPTS)
        read = logits[row, reference.classes(k)].argmax().item()
        size = len(model.data.concept_classes[k])
        found.append((row, k, (read + 1 + i % (size - 1)) % size))
    return found


def dump_intervention(model, path, out, row, k, target, rule, portion, steps):
    dumped = model.dump(out, "--intervene", f"{list(CONCEPTS)[k]}={model.data.concept_classes[k][target]}", "--rule",
                        rule, "--portion", portion, "--steps", steps, model=path, rows=row + 1)
    masks = {name.removeprefix("masks."): bits for name, bits in dumped.items() if name.startswith("masks.")}
    weights = sparse.read_tensors(path)
    return dumped, {name: sparse.unpack_masks(bits[0], weights[name].shape[1]) for name, bits in masks.items()}


def check_bits(gradients, was, got, wanted, rule):
    """A bit may differ where its |G| is the threshold's within 1e-3, or zero as far as f32 can tell. Returns how many do."""
    noise = 1e-6 * max(np.abs(g).max() for g in gradients.values())
    n_differing = 0
    for name, gradient in gradients.items():
        g = np.abs(gradient)
        assert got[name].sum() == was[name].sum(), f"{name}: the sparsity changed"
        for side in (True, False):  # the kept ones, and the zeros
            moved = g[(was[name] == side) & (wanted[name] != side)]
            differing = g[(was[name] == side) & (wanted[name] != got[name]) & (g > noise)]
            if len(differing):
                threshold = moved.max() if rule == "abs" and side else moved.min()
                print(name, side, differing, threshold, g.max(), noise, len(moved)); assert np.abs(differing / threshold - 1).max() <= 1e-2, name
            n_differing += len(differing)
    return n_differing


@pytest.mark.parametrize("rule", ["signed", "abs"])
def test_one_intervention_step(model, tmp_path, rule):
    """The same bits move, and the logits after them are the same."""
    reference = model.reference(model.path)
    masks = {name: mask.numpy() for name, mask in reference.masks.items()}
    differing = total = 0
    for row, k, target in wrong_concepts(reference, model, 4):
        dumped, got = dump_intervention(model, model.path, tmp_path / "dump.gguf", row, k, target, rule, 0.05, 1)
        was = {name: mask[k] for name, mask in masks.items()}
        wanted = sparse.attempt(reference, was, k, target, *model.text(row), rule, 0.05)
        differing += check_bits(wanted.gradients, was, got, wanted.masks, rule)
        n_moved = sum((got[name] != was[name]).sum() for name in was)
        assert n_moved == pytest.approx(sum((wanted.masks[name] != was[name]).sum() for name in was), rel=0.01)
        n_bits = sum(mask.size for mask in was.values())
        total += n_bits
        _, logits = sparse.evaluate(reference, got, k, target, *model.text(row))
        assert not wanted.undone
        assert dumped["counts"].reshape(-1).tolist() == [1, logits.argmax() == target, n_moved, n_bits]
        check_logits(reference, model, dumped, got, row, k, target)
    assert differing <= 1e-4 * total, f"{differing} of {total} bits differ"


def check_logits(reference, model, dumped, masks, row, k, target):
    """Logits of all concepts and of the label, before, and after under these masks of concept k."""
    with torch.no_grad():
        logits, label = (x[0].numpy() for x in reference(*model.text(row)))
        _, changed = sparse.evaluate(reference, masks, k, target, *model.text(row))
    after = logits.copy()
    after[reference.classes(k)] = changed
    assert relative_error(dumped["before"].reshape(-1), np.concatenate([logits, label])) <= 1e-4
    label_after = sparse.edit(reference, logits, k, changed)
    assert relative_error(dumped["after"].reshape(-1), np.concatenate([after, label_after])) <= 1e-4


@pytest.mark.parametrize("rule", ["signed", "abs"])
def test_interventions_of_several_steps(model, tmp_path, rule):
    """Attempt by attempt, from where the program stood: the same bits, and undone when the reference undoes it."""
    reference = model.reference(model.stubborn)
    masks = {name: mask.numpy() for name, mask in reference.masks.items()}
    stayed = undone = 0
    for row, k, target in wrong_concepts(reference, model, 2):
        state, portion, steps = {name: mask[k] for name, mask in masks.items()}, 0.1, 0
        for attempt in range(1, 6):
            wanted = sparse.attempt(reference, state, k, target, *model.text(row), rule, portion)
            dumped, got = dump_intervention(model, model.stubborn, tmp_path / "dump.gguf", row, k, target, rule, 0.1,
                                            attempt)
            if wanted.undone:
                assert all((got[name] == state[name]).all() for name in state), "a step that raises CE stays"
                portion, undone = portion / 2, undone + 1
            else:
                check_bits(wanted.gradients, state, got, wanted.masks, rule)
                steps, stayed = steps + 1, stayed + 1
            state = got
            _, logits = sparse.evaluate(reference, state, k, target, *model.text(row))
            succeeded = logits.argmax() == target
            assert dumped["counts"].reshape(-1)[:2].tolist() == [steps, succeeded]
            if succeeded:
                break
        check_logits(reference, model, dumped, got, row, k, target)
    assert stayed > 2 and (undone or rule == "abs")
