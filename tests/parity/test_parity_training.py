"""The first hundred losses equal PyTorch's, and the metrics of the trained model equal scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from conftest import CEBAB_COLUMNS, read_steps, relative_error, run, run_json, short_training
import reference as ref

BATCH, STEPS, EPOCHS, ROWS = 16, 100, 4, 400  # 25 steps an epoch


@pytest.fixture(scope="module")
def trained(minilm, cebab):
    return short_training(minilm, cebab, "training", ROWS, 300, "--epochs", EPOCHS, "--batch-size", BATCH)


def test_first_hundred_losses(minilm, trained):
    losses, orders = read_steps(trained)
    assert len(losses) == len(orders) == STEPS
    for epoch in range(EPOCHS):
        rows = sum(orders[epoch * STEPS // EPOCHS:(epoch + 1) * STEPS // EPOCHS], [])
        assert sorted(rows) == list(range(ROWS)), "an epoch takes every row once"

    data = ref.read_csv(trained / "train.csv")
    model = minilm.bottleneck(ref.read_gguf(trained / "init.gguf"), data, torch.float32)
    wanted = ref.losses_of(model, minilm.ids(data.texts), data, orders)
    difference = np.abs(np.array(losses) - np.array(wanted))
    assert difference.max() <= 1e-3, f"{difference.max():.2e} at step {1 + difference.argmax()}:\n" + \
        "\n".join(f"{i + 1} {a:.6f} {b:.6f}" for i, (a, b) in enumerate(zip(losses, wanted)))


@pytest.fixture(scope="module")
def predictions(trained):
    return run_json("main", "predict", "--model", trained / "model.gguf", "--data", trained / "test.csv",
                    "--text", "description")


def macro_f1_ovr(gold, predicted, classes):
    """The mean over the classes of the two-class macro F1 of "is it this class"."""
    return np.mean([f1_score(gold == c, predicted == c, average="macro", zero_division=0) for c in classes])


def check_measures(measures, gold, predicted, n_classes):
    assert measures["accuracy"] == pytest.approx(accuracy_score(gold, predicted), abs=1e-6)
    assert measures["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0), abs=1e-6)
    present = np.union1d(gold, predicted)
    assert measures["macro_f1_ovr"] == pytest.approx(macro_f1_ovr(gold, predicted, present), abs=1e-6)
    assert measures["confusion"] == confusion_matrix(gold, predicted, labels=range(n_classes)).tolist()


def test_metrics_equal_scikit_learn(trained, predictions):
    data = ref.read_csv(trained / "test.csv", like=ref.read_csv(trained / "train.csv"))
    measured, = run_json("main", "eval", "--model", trained / "model.gguf", "--data", trained / "test.csv",
                         *CEBAB_COLUMNS)
    assert measured["texts"] == len(data.texts) == len(predictions)
    labels = np.array([data.label_classes.index(p["label"]) for p in predictions])
    check_measures(measured["label"], data.labels, labels, len(data.label_classes))
    each = measured["concepts"]["each"]
    for k, (name, classes) in enumerate(zip(ref.CEBAB_CONCEPTS, data.concept_classes)):
        predicted = np.array([classes.index(p["concepts"][k]["class"]) for p in predictions])
        assert predictions[0]["concepts"][k]["name"] == name
        check_measures(each[name], data.concepts[:, k], predicted, len(classes))
    for measure in ("accuracy", "macro_f1", "macro_f1_ovr"):
        mean = np.mean([each[name][measure] for name in ref.CEBAB_CONCEPTS])
        assert measured["concepts"][measure] == pytest.approx(mean, abs=1e-6)


def test_predictions_equal_pytorch(minilm, trained, predictions):
    """Logits of the trained file, computed by transformers from its weights; contributions add up."""
    data = ref.read_csv(trained / "test.csv", like=ref.read_csv(trained / "train.csv"))
    tensors = ref.read_gguf(trained / "model.gguf")
    model = minilm.bottleneck(tensors, data)
    ref.load_weights(model, tensors)
    with torch.inference_mode():
        concept_logits, label_logits, _ = model(*ref.pad(minilm.ids(data.texts)))
    assert relative_error([p["logits"] for p in predictions], label_logits.numpy()) <= 1e-4
    assert relative_error([[c["logits"] for c in p["concepts"]] for p in predictions], concept_logits.numpy()) <= 1e-4
    for p in predictions:
        logits = np.array(p["logits"])
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert p["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        total = p["bias"] + sum(c["contribution"] for c in p["concepts"])
        assert total == pytest.approx(logits.max(), abs=1e-4)


@pytest.mark.parametrize("type, share", [("q8_0", 0.97), ("q4_0", 0.80)])
def test_quantized_predictions(trained, predictions, tmp_path, type, share):
    """A quantized model predicts as the exact one does, for at least this share of the concepts."""
    path = tmp_path / "quantized.gguf"
    run("main", "quantize", trained / "model.gguf", "--type", type, "-o", path)
    got = run_json("main", "predict", "--model", path, "--data", trained / "test.csv", "--text", "description")
    classes = lambda rows: np.array([[c["class"] for c in row["concepts"]] for row in rows])
    assert (classes(got) == classes(predictions)).mean() >= share
