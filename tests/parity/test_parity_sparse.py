"""Sparse models equal the PyTorch reference: forward, loss, gradients of every kind, statistics, interventions."""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import (CEBAB_COLUMNS, WORDS, Case, Checkpoint, cebab_file, cebab_subset, make_checkpoint,
                      relative_error, run, run_json, write_csv)
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


def train(checkpoint, data_path, out, *arguments, mode="joint"):
    run("main", "train", "--encoder", checkpoint.gguf(), "--data", data_path, "--validation", data_path, *COLUMNS, "--mode",
        mode, "--seed", 4, "--dropout", 0, "--batch-size", 8, *arguments, "-o", out)
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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The models are so small that threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


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


def check_forward_and_backward(reference, dumped, batch):
    ids, mask, concepts, labels = batch
    products = reference.products()
    reference.zero_grad()
    pooled = [sparse.pool(reference.encode(k, products, mask, input_ids=ids), mask)
              for k in range(reference.n_concepts)]
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


def test_forward_loss_and_gradients(model, tmp_path):
    dumped = model.dump(tmp_path / "dump.gguf", model=model.hollow)
    check_forward_and_backward(model.reference(model.hollow), dumped, model.batch())


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


def last_portion(dumped):
    """Of the last step that stayed, which may be smaller than what was asked for; 0 where none did."""
    return dumped["portion"].reshape(-1).astype("<i4").view("<f8").item()


def check_bits(wanted, was, got, rule, portion):
    """Each matrix moves the bits that the reference ranks first; returns how many differ.

    A bit may differ where |G| is the threshold's within 1e-3, their number where f32 cannot tell the sign of G.
    """
    noise = 1e-6 * max(np.abs(g).max() for g in wanted.gradients.values())
    n_differing = 0
    for name, gradient in wanted.gradients.items():
        sides = sparse.candidates(gradient, was[name], rule)
        q, flat, before = sparse.n_moves(*sides, was[name], portion), got[name].reshape(-1), was[name].reshape(-1)
        n_moved = (before & ~flat).sum()
        assert n_moved == (~before & flat).sum(), f"{name}: the sparsity changed"
        assert abs(n_moved - q) <= (np.abs(gradient) <= noise).sum(), f"{name}: {n_moved} bits moved, and not {q}"
        for order, side in zip(sides, (True, False)):
            moved = np.flatnonzero((before == side) & (flat != side))
            differing = np.setxor1d(order[:n_moved], moved)
            g = np.abs(gradient.reshape(-1))
            differing = differing[g[differing] > noise]
            if len(differing):
                assert np.abs(g[differing] / g[order[n_moved - 1]] - 1).max() <= 1e-3, name
            n_differing += len(differing)
    return n_differing


def check_search(reference, was, gradients, k, target, text, portion):
    """None of the doublings below the portion, from one weight of the largest matrix on, is enough for the class."""
    smaller = 1 / max(mask.sum() for mask in was.values())
    while smaller < portion * (1 - 1e-9):
        _, logits = sparse.evaluate(reference, sparse.move(was, gradients, smaller, "signed"), k, target, *text)
        assert logits.argmax() != target, f"a portion of {smaller} is enough, and {portion} was taken"
        smaller *= 2


@pytest.mark.parametrize("rule", ["signed", "abs"])
def test_one_intervention_step(model, tmp_path, rule):
    """The same bits move, and the logits after them are the same."""
    reference = model.reference(model.path)
    masks = {name: mask.numpy() for name, mask in reference.masks.items()}
    differing = total = shrunk = 0
    for row, k, target in wrong_concepts(reference, model, 4):
        dumped, got = dump_intervention(model, model.path, tmp_path / "dump.gguf", row, k, target, rule, 0.05, 1)
        was = {name: mask[k] for name, mask in masks.items()}
        portion = last_portion(dumped) or 0.05
        wanted = sparse.attempt(reference, was, k, target, *model.text(row), rule, portion)
        differing += check_bits(wanted, was, got, rule, portion)
        if rule == "signed" and dumped["counts"].reshape(-1)[1]:
            check_search(reference, was, wanted.gradients, k, target, model.text(row), portion)
        shrunk += portion < 0.05
        n_moved = sum((got[name] != was[name]).sum() for name in was)
        n_bits = sum(mask.size for mask in was.values())
        total += n_bits
        _, logits = sparse.evaluate(reference, got, k, target, *model.text(row))
        assert not wanted.undone
        assert dumped["counts"].reshape(-1).tolist() == [1, logits.argmax() == target, n_moved, n_bits]
        check_logits(reference, model, dumped, got, row, k, target)
    assert differing <= 1e-4 * total, f"{differing} of {total} bits differ"
    assert bool(shrunk) == (rule == "signed"), "only the signed rule makes its step smaller"


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


@pytest.mark.parametrize("steps_of", ["signed", "whole", "abs"])
def test_interventions_of_several_steps(model, tmp_path, steps_of):
    """Attempt by attempt, from where the program stood: the same bits, and undone when the reference undoes it."""
    reference = model.reference(model.stubborn)
    masks = {name: mask.numpy() for name, mask in reference.masks.items()}
    rule = "abs" if steps_of == "abs" else "signed"
    stayed = undone = 0
    for row, k, target in wrong_concepts(reference, model, 2):
        state, portion, steps = {name: mask[k] for name, mask in masks.items()}, 0.1, 0
        for attempt in range(1, 6):
            dumped, got = dump_intervention(model, model.stubborn, tmp_path / "dump.gguf", row, k, target, steps_of,
                                            0.1, attempt)
            if steps_of == "signed":  # the program searched for the portion
                portion = last_portion(dumped)
                assert 0 < portion <= 0.1
            wanted = sparse.attempt(reference, state, k, target, *model.text(row), rule, portion)
            if wanted.undone:
                assert all((got[name] == state[name]).all() for name in state), "a step that raises CE stays"
                portion, undone = portion / 2, undone + 1
            else:
                check_bits(wanted, state, got, rule, portion)
                steps, stayed = steps + 1, stayed + 1
            state = got
            _, logits = sparse.evaluate(reference, state, k, target, *model.text(row))
            succeeded = logits.argmax() == target
            assert dumped["counts"].reshape(-1)[:2].tolist() == [steps, succeeded]
            if succeeded:
                break
        check_logits(reference, model, dumped, got, row, k, target)
    assert stayed > 2 and (undone or steps_of != "whole"), f"{stayed} steps stayed, {undone} were undone"


def intervene(path, text, concept, class_name, *arguments):
    result, = run_json("main", "intervene", "--model", path, text, "--set", f"{concept}={class_name}", *arguments)
    return result


def flat_text(model, row):
    """A text that fits on a command line."""
    return model.data.texts[row].replace("\n", " ")


def logits_of(prediction):
    return np.concatenate([concept["logits"] for concept in prediction["concepts"]] + [prediction["logits"]])


@pytest.mark.parametrize("rule", ["signed", "abs"])
def test_intervene_command(model, tmp_path, rule):
    """Tells of what the library does."""
    (row, k, target), = wrong_concepts(model.reference(model.path), model, 1)
    dumped, _ = dump_intervention(model, model.path, tmp_path / "dump.gguf", row, k, target, rule, 0.05, 1)
    result = intervene(model.path, flat_text(model, row), list(CONCEPTS)[k], model.data.concept_classes[k][target],
                       "--select", rule, "--portion", 0.05, "--steps", 1)
    assert result["method"] == "mask"
    steps, _, moved, total = dumped["counts"].reshape(-1)
    assert (result["steps"], result["moved_bits"], result["total_bits"]) == (steps, moved, total)
    for when in ("before", "after"):
        assert relative_error(logits_of(result[when]), dumped[when].reshape(-1)) <= 1e-6


@pytest.mark.parametrize("values", ["mean", "one-hot"])
def test_edit(model, values):
    """u_k replaced by the gold mean of its new class, or one-hot: the label follows, by its linear head."""
    reference = model.reference(model.trained)
    with torch.no_grad():
        u = reference(*model.batch()[:2])[0].numpy()
    means, counts = sparse.gold_means(u, model.data.concepts, reference.groups)
    for row, k, target in wrong_concepts(reference, model, 3):
        number = reference.groups[k] + target
        assert counts[number], "a class without rows"
        new = means[number] if values == "mean" else np.eye(len(means[number]))[target]
        wanted = sparse.edit(reference, u[row], k, new)
        result = intervene(model.trained, flat_text(model, row), list(CONCEPTS)[k],
                           model.data.concept_classes[k][target], "--method", "edit", "--edit", values)
        assert (result["method"], result["moved_bits"]) == ("edit", 0)
        assert relative_error(result["after"]["logits"], wanted) <= 1e-4
        assert relative_error(result["after"]["concepts"][k]["logits"], new) <= 1e-4
        for other in set(range(len(CONCEPTS))) - {k}:
            assert relative_error(result["after"]["concepts"][other]["logits"],
                                  u[row, reference.classes(other)]) <= 1e-4


# --- explanations ---------------------------------------------------------------------------

SPECIAL_TOKENS = ("[CLS]", "[SEP]")


def special_tokens(checkpoint, ids):
    return [checkpoint.tokenizer.id_to_token(i) in SPECIAL_TOKENS for i in ids]


def token_ids(model, row):
    ids = model.checkpoint.ids([model.data.texts[row]])[0]
    return ids, special_tokens(model.checkpoint, ids)


def check_explanation(got, text, reference, ids, special, mask_id, most=512):
    """One text's `explain --json` beside the reference's attributions of every concept."""
    for k, concept in enumerate(got["concepts"]):
        wanted = sparse.explain(reference, ids, special, mask_id, k, most=most)
        tokens = concept["tokens"]
        assert len(tokens) == len(ids)
        assert [t["text"] for t in tokens[:1] + tokens[-1:]] == list(SPECIAL_TOKENS)
        for token in tokens[1:-1]:
            assert text.encode()[token["start"]:token["end"]].decode() == token["text"]
        assert relative_error([concept["target_logit"], concept["baseline_logit"]],
                              [wanted.target_logit, wanted.baseline_logit]) <= 1e-4
        for kind in ("gradient_input", "integrated_gradients"):
            error = relative_error([t[kind] for t in tokens], getattr(wanted, kind))
            assert error <= 1e-3, f"{text!r}, {concept['name']}: {kind} is off by {error:.2e} ({wanted.steps} steps)"
        if wanted.converged:
            total = sum(t["integrated_gradients"] for t in tokens)
            delta = concept["target_logit"] - concept["baseline_logit"]
            assert abs(total - delta) <= 0.01 * max(abs(delta), 1) + 1e-6


def check_explanations(model, path, rows):
    reference = model.reference(path)
    mask_id = model.checkpoint.tokenizer.token_to_id("[MASK]")
    got = run_json("main", "explain", "--model", path, "--data", model.data_path, "--text", "text")
    assert len(got) == ROWS
    for row in rows:
        check_explanation(got[row], model.data.texts[row], reference, *token_ids(model, row), mask_id)
    return got, reference


def test_attributions(model):
    got, reference = check_explanations(model, model.path, range(0, ROWS, 5))
    n = sum(mask[0].numel() for mask in reference.masks.values())
    names = list(CONCEPTS)
    for k, concept in enumerate(got[0]["concepts"]):
        kept = sum(mask[k].sum().item() for mask in reference.masks.values())
        assert concept["density"] == pytest.approx(kept / n, rel=1e-9)
    assert len(got[0]["overlaps"]) == len(CONCEPTS) * (len(CONCEPTS) - 1) // 2
    for pair in got[0]["overlaps"]:
        a, b = names.index(pair["a"]), names.index(pair["b"])
        both = sum((mask[a] & mask[b]).sum().item() for mask in reference.masks.values())
        either = sum((mask[a] | mask[b]).sum().item() for mask in reference.masks.values())
        assert pair["iou"] == pytest.approx(both / either, rel=1e-9)


def test_attributions_of_a_dense_model(model):
    """Every concept has gradients of its own, through the one encoder."""
    path = train(model.checkpoint, model.data_path, model.checkpoint.work / "dense.gguf", "--epochs", 0)
    got, _ = check_explanations(model, path, range(2, ROWS, 10))
    assert all(concept["density"] == 1 for concept in got[0]["concepts"])


def test_faithfulness(model):
    """Comprehensiveness and sufficiency by attributions, and by attention, over texts and concepts."""
    reference = model.reference(model.path)
    mask_id = model.checkpoint.tokenizer.token_to_id("[MASK]")
    rows = [row for row in range(ROWS) if len(model.data.texts[row]) > 20][:4]
    data = write_csv(model.checkpoint.work / "few.csv", ["text"], [[model.data.texts[row]] for row in rows])
    report, = run_json("main", "explain", "--model", model.path, "--data", data, "--text", "text", "--global",
                       "--faithfulness")
    measured = report["faithfulness"]
    assert measured["texts"] == len(rows) and measured["shares"] == [0.01, 0.05, 0.1, 0.2, 0.5]
    drops = {"gradient_input": [], "integrated_gradients": [], "attention": []}
    for row in rows:
        ids, special = token_ids(model, row)
        for k in range(len(CONCEPTS)):
            explained = sparse.explain(reference, ids, special, mask_id, k)
            by = {"gradient_input": explained.gradient_input, "integrated_gradients": explained.integrated_gradients,
                  "attention": sparse.attention_received(reference, ids, k)}
            for method, attributions in by.items():
                drops[method].append([sparse.faithfulness(reference, ids, special, k, attributions, share)
                                      for share in measured["shares"]])
    for method, values in drops.items():
        mean = np.mean(values, axis=0)  # [shares, 2]
        assert np.abs(mean).max() > 0.01
        for i, measure in enumerate(("comprehensiveness", "sufficiency")):
            assert measured[method][measure] == pytest.approx(mean[:, i], abs=1e-3), f"{method}: {measure}"
            assert measured[method]["mean_" + measure] == pytest.approx(mean[:, i].mean(), abs=1e-3)


# --- a real checkpoint ----------------------------------------------------------------------


def test_minilm(minilm, cebab, tmp_path):
    """Forward, gradients, and the attributions of one text."""
    path = cebab_subset(tmp_path / "data.csv", cebab_file(cebab, "train_cebab"), 32)
    out = tmp_path / "sparse.gguf"
    run("main", "train", "--encoder", minilm.gguf(), "--data", path, "--validation", path, *CEBAB_COLUMNS, "--seed", 3,
        "--dropout", 0, "--prune", "random", "--sparsity", 0.3, "--prune-start", 1, "--prune-end", 1, "--epochs", 1,
        "-o", out)
    run("dump", "--model", out, "--data", path, *CEBAB_COLUMNS, "--rows", 4, "-o", tmp_path / "dump.gguf")
    data = ref.read_csv(path)
    reference = load_reference(minilm, out, data)
    batch = (*ref.pad(minilm.ids(data.texts[:4])), torch.from_numpy(data.concepts[:4]),
             torch.from_numpy(data.labels[:4]))
    check_forward_and_backward(reference, sparse.read_tensors(tmp_path / "dump.gguf"), batch)

    text = "The waiter was rude, but I loved the tiramisu."
    got, = run_json("main", "explain", "--model", out, "--max-steps", 32, text)
    ids, = minilm.ids([text])
    mask_id = minilm.tokenizer.token_to_id("[MASK]")
    check_explanation(got, text, reference, ids, special_tokens(minilm, ids), mask_id, 32)
