"""Finding the subnetworks as the PyTorch reference does: scores, choices of zeros, learned scores, training."""

import csv

import numpy as np
import pytest
import torch

from conftest import Case, make_checkpoint, relative_error
from test_parity_sparse import (CONCEPTS, ROWS, SparseModel, change, check_gradients, load_reference,
                                one_thread as one_thread, train, write_data)
import reference as ref
import sparse_reference as sparse

# 36·36 and 36·70 weights: blocks of 50 and 128 end in a shorter one, blocks of 20 do not divide 1,296 either.
CASE = Case("pruned", 2, 36, 4, 70, "gelu", 1e-12)
STREAMS = len(CONCEPTS)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense model, as `train --epochs 0` starts it; .path is the same with masks."""
    checkpoint = make_checkpoint(CASE, tmp_path_factory)
    data_path = write_data(checkpoint.work / "data.csv")
    start = train(checkpoint, data_path, checkpoint.work / "start.gguf", "--epochs", 0)
    masked = train(checkpoint, data_path, checkpoint.work / "masked.gguf", "--init", start, "--lr", 0,
                   "--head-lr", 0, "--prune", "random", "--sparsity", 0.3, "--prune-start", 1, "--prune-end", 1,
                   "--epochs", 1)
    data = ref.read_csv(data_path, "text", "stars", CONCEPTS, drop_label=None)
    return SparseModel(checkpoint, data_path, data, start, masked, masked, masked)


def prune(model, path, out, method, sparsity, *arguments, rows=1):
    """What tests/dump writes of a pruning, and the masks after it."""
    dumped = model.dump(out, "--prune", method, "--sparsity", sparsity, *arguments, model=path, rows=rows)
    weights = sparse.read_tensors(path)
    masks = {name.removeprefix("masks."): bits for name, bits in dumped.items() if name.startswith("masks.")}
    return dumped, {name: sparse.unpack_masks(bits, weights[name].shape[1]) for name, bits in masks.items()}


def weights_and_masks(path):
    tensors = sparse.read_tensors(path)
    weights = {name: w for name, w in tensors.items() if sparse.is_prunable(name)}
    if any(name.endswith(".masks") for name in tensors):
        return weights, sparse.masks_of(tensors)
    return weights, {name: np.ones((STREAMS, *w.shape), dtype=bool) for name, w in weights.items()}


def check_choice(got, scores, kept, sparsity):
    """Masks by the program beside the reference's choice by its own scores.

    Bits that differ have scores within 1e-3 of the threshold, and are at most 1e-4 of all.
    """
    n_differing = n_bits = 0
    for name in got:
        for k in range(STREAMS):
            wanted, threshold = sparse.prune(scores[name][k], kept[name][k], sparsity)
            assert (~got[name][k]).sum() == sparse.n_zeros(wanted.size, sparsity), f"{name}: the number of zeros"
            assert not (got[name][k] & ~kept[name][k]).any(), f"{name}: a masked weight came back"
            differing = got[name][k] != wanted
            assert (np.abs(scores[name][k][differing] / threshold - 1) <= 1e-3).all(), name
            n_differing, n_bits = n_differing + differing.sum(), n_bits + wanted.size
    assert n_differing <= 1e-4 * n_bits, f"{n_differing} of {n_bits} bits differ"


# --- scores and choices ---------------------------------------------------------------------

FISHER = {
    "relative": (20, 24, ("--damping", 0.1)),
    "published": (50, 20, ("--damping-absolute", 1e-7)),
    "one-weight-blocks": (1, 8, ("--damping", 1e-3)),
    "large-blocks": (128, 20, ("--damping", 0.01)),
}


def fisher_arguments(kind):
    block, m, damping = FISHER[kind]
    return "--fisher-block", block, "--fisher-gradients", m, "--fisher-texts", 5, "--seed", 11, *damping


def reference_scores(weights, gradients, kept, kind):
    """`gradients` [m, K, out, in] of W ⊙ M_k."""
    block, _, (name, damping) = FISHER[kind]
    return {key: np.stack([sparse.obert_scores(w, gradients[key][:, k], block, damping, name == "--damping-absolute",
                                               kept[key][k]) for k in range(STREAMS)])
            for key, w in weights.items()}


@pytest.mark.parametrize("start", ["ones", "masks"])
@pytest.mark.parametrize("kind", FISHER)
def test_second_order_scores_and_choice(dense, tmp_path, kind, start):
    """Given the same gradients: scores by the recursion, and the choice of zeros."""
    path = dense.trained if start == "ones" else dense.path
    dumped, masks = prune(dense, path, tmp_path / "dump.gguf", "obert", 0.6, *fisher_arguments(kind))
    weights, kept = weights_and_masks(path)
    gradients = {name: dumped["gradient." + name] for name in weights}
    scores = reference_scores(weights, gradients, kept, kind)
    for name in weights:
        assert not gradients[name][:, ~kept[name]].any(), f"{name}: gradients where masked"
        error = np.abs(dumped["score." + name] / scores[name] - 1)[kept[name]]
        assert error.max() <= 1e-4, f"{name}: {error.max():.2e}"
    check_choice(masks, scores, kept, 0.6)
    overlap, _ = dumped["report"].reshape(-1)
    agreeing = sum((masks[name][k] & sparse.prune(np.abs(weights[name]), kept[name][k], 0.6)[0]).sum()
                   for name in weights for k in range(STREAMS))
    assert overlap == pytest.approx(agreeing / sum(mask.sum() for mask in masks.values()), abs=2e-4)


@pytest.mark.parametrize("start", ["ones", "masks", "sequential"])
def test_second_order_from_text_to_masks(dense, tmp_path, start):
    """Gradients of the drawn minibatches equal PyTorch's, and so do the scores made of them.

    Of the whole loss; in sequential mode, where the label head is fitted apart, of the concepts' alone.
    """
    path = dense.path if start == "masks" else dense.trained
    if start == "sequential":
        path = train(dense.checkpoint, dense.data_path, tmp_path / "sequential.gguf", "--epochs", 0, mode="sequential")
    dumped, masks = prune(dense, path, tmp_path / "dump.gguf", "obert", 0.6, *fisher_arguments("relative"))
    weights, kept = weights_and_masks(path)
    reference = load_reference(dense.checkpoint, path, dense.data)
    reference.set_masks(kept)
    ids, mask, concepts, labels = dense.batch()
    rows = dumped["rows"]
    first = rows.reshape(-1)[:ROWS // 5 * 5].tolist()
    assert len(set(first)) == len(first), "a row comes twice before all have come"
    gradients = {name: [] for name in weights}
    for i, batch in enumerate(rows):
        dense_gradients = reference.stream_gradients(ids[batch], mask[batch], concepts[batch],
                                                     None if start == "sequential" else labels[batch])
        for name, gradient in dense_gradients.items():
            gradients[name].append(gradient * kept[name])
        check_gradients({name: dumped["gradient." + name][i] for name in weights},
                        {name: gradients[name][i] for name in weights})
    scores = reference_scores(weights, {name: np.stack(g) for name, g in gradients.items()}, kept, "relative")
    for name in weights:
        assert relative_error(dumped["score." + name][kept[name]], scores[name][kept[name]]) <= 1e-4, name
    check_choice(masks, scores, kept, 0.6)


def test_layer_groups_do_not_change_masks(dense, tmp_path):
    arguments = fisher_arguments("relative")
    together, masks = prune(dense, dense.path, tmp_path / "one.gguf", "obert", 0.6, *arguments)
    apart, same = prune(dense, dense.path, tmp_path / "many.gguf", "obert", 0.6, *arguments, "--fisher-memory", 1)
    assert together["report"].reshape(-1)[1] == 1
    assert apart["report"].reshape(-1)[1] == len(masks)
    assert all((masks[name] == same[name]).all() for name in masks)


@pytest.mark.parametrize("sparsity", [0.5, 0.731])
def test_magnitude(dense, tmp_path, sparsity):
    _, masks = prune(dense, dense.path, tmp_path / "dump.gguf", "magnitude", sparsity)
    weights, kept = weights_and_masks(dense.path)
    for name, w in weights.items():
        for k in range(STREAMS):
            assert (masks[name][k] == sparse.prune(np.abs(w), kept[name][k], sparsity)[0]).all(), name


def test_equal_scores_go_by_position(dense, tmp_path):
    """A matrix of one value, and one of two: what comes first in row-major order goes first."""
    weights, kept = weights_and_masks(dense.path)
    one, two = "blk.0.ffn_up.weight", "blk.1.attn_v.weight"
    values = {one: np.full_like(weights[one], -0.5),
              two: np.where(np.indices(weights[two].shape).sum(0) % 3, 1.0, -2.0)}
    path = change(dense.path, "ties.gguf", values)
    _, masks = prune(dense, path, tmp_path / "dump.gguf", "magnitude", 0.4)
    for name, w in values.items():
        for k in range(STREAMS):
            assert (masks[name][k] == sparse.prune(np.abs(w), kept[name][k], 0.4)[0]).all(), name


# --- learned scores -------------------------------------------------------------------------


@pytest.mark.parametrize("method, sparsity, rate", [("popup", 0.6, 0.3), ("popup-structured", 0.4, 0.5)])
def test_learned_scores(dense, tmp_path, method, sparsity, rate):
    """Three steps: masks of the scores, straight-through gradients, AdamW's step; some scores become negative."""
    steps, structured = 3, method == "popup-structured"
    dumped, masks = prune(dense, dense.trained, tmp_path / "dump.gguf", method, sparsity, "--score-lr", rate,
                          "--steps", steps, rows=8)
    weights, ones = weights_and_masks(dense.trained)
    reference = load_reference(dense.checkpoint, dense.trained, dense.data)
    scores = {name: dumped["score." + name] for name in weights}
    assert min(score.min() for score in scores.values()) < 0
    for name, w in weights.items():
        start = np.abs(w) / np.sqrt((w.astype(np.float64) ** 2).mean())
        assert all(relative_error(score, start) <= 1e-6 for score in scores[name][0])
        if not structured:
            assert (masks[name][0] == sparse.prune(np.abs(w), ones[name][0], sparsity)[0]).all(), "not magnitude's"
    for step in range(steps + 1):
        for name in weights:
            wanted = sparse.popup_masks(scores[name][step].astype(np.float64), sparsity, structured)
            assert (masks[name][step] == wanted).all(), f"{name}, step {step}"
    for step in range(steps):
        for_scores, for_weights = sparse.popup_gradients(reference, {name: scores[name][step] for name in weights},
                                                         sparsity, structured, *dense.batch(8))
        check_gradients({name: dumped["gradient." + name][step] for name in weights}, for_scores)
        check_gradients({name: dumped["weight_gradient." + name][step] for name in weights}, for_weights)
    for name in weights:
        parameter = torch.nn.Parameter(torch.from_numpy(scores[name][0].astype(np.float64)))
        optimizer = torch.optim.AdamW([parameter], lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
        for step in range(steps):
            parameter.grad = torch.from_numpy(dumped["gradient." + name][step].astype(np.float64))
            optimizer.step()
            assert relative_error(scores[name][step + 1], parameter.detach().numpy()) <= 1e-5, name


# --- training -------------------------------------------------------------------------------


def test_training_with_magnitude_pruning(dense, tmp_path):
    """Every step's loss, before, between and after prunings, and the masks in the end."""
    epochs, start, end, initial, final, batch = 5, 2, 4, 0.3, 0.6, 8
    out = train(dense.checkpoint, dense.data_path, tmp_path / "model.gguf", "--init", dense.trained, "--prune",
                "magnitude", "--prune-start", start, "--prune-end", end, "--initial-sparsity", initial, "--sparsity",
                final, "--epochs", epochs, "--log-steps", tmp_path / "steps.csv", "--dump-order",
                tmp_path / "order.txt")
    with open(tmp_path / "steps.csv", newline="", encoding="ascii") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    orders = [[int(row) for row in line.split()] for line in (tmp_path / "order.txt").read_text().splitlines()]
    steps = epochs * ROWS // batch
    assert len(losses) == len(orders) == steps

    reference = load_reference(dense.checkpoint, dense.trained, dense.data)
    optimizer = ref.make_optimizer(reference)
    ids, mask, concepts, labels = dense.batch()
    warmup = max(1, round(0.06 * steps))
    kept = {name: np.ones((STREAMS, *reference.weight(name).shape), dtype=bool) for name in reference.prunable}
    wanted = []
    for step, rows in enumerate(orders, 1):
        loss = reference.loss(ids[rows], mask[rows], concepts[rows], labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * ref.linear_schedule(step, warmup, steps)
        optimizer.step()
        wanted.append(loss.item())
        epoch = step * batch // ROWS
        if step * batch % ROWS == 0 and start <= epoch <= end:
            sparsity = sparse.schedule(epoch, start, end, initial, final)
            magnitudes = {name: np.abs(reference.weight(name).detach().numpy()) for name in kept}
            kept = {name: np.stack([sparse.prune(magnitudes[name], m, sparsity)[0] for m in kept[name]])
                    for name in kept}
            with torch.no_grad():
                before = reference.loss(ids, mask, concepts, labels).item()
                reference.set_masks(kept)
                after = reference.loss(ids, mask, concepts, labels).item()
            assert abs(after / before - 1) > 2e-3, "so small an effect would hide an error"
    difference = np.abs(np.array(losses) / np.array(wanted) - 1)
    assert difference.max() <= 1e-4, f"{difference.max():.2e} at step {1 + difference.argmax()}"
    got = sparse.masks_of(sparse.read_tensors(out))
    differing = sum((got[name] != kept[name]).sum() for name in kept)
    assert differing <= 1e-4 * sum(mask.size for mask in kept.values())
