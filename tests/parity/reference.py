"""The dense concept bottleneck model in PyTorch: what the C programs are compared with.

Data, model, loss and training follow the method as written, with nothing of the C code in them:
pooling over the real tokens, special ones included (the mean, the first or the last), K linear concept heads, one linear
label head over the concatenated concept logits, L = CE(label) + lambda * mean over concepts and
examples of CE(concept).
"""

import csv
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

UNKNOWN = ("", "unknown", "no majority")
CEBAB_CONCEPTS = {
    name: f"{name}_aspect_majority" for name in ("food", "ambiance", "service", "noise")
}


# --- data -----------------------------------------------------------------------------------


@dataclass
class Dataset:
    texts: list
    labels: np.ndarray  # [N]
    concepts: np.ndarray  # [N, K]
    label_classes: list
    concept_classes: list  # K lists


def sorted_classes(values):
    """Numbers by value, else by name; "unknown" last."""
    names = set(values)
    known = names - {"unknown"}
    try:
        known = sorted(known, key=float)
    except ValueError:
        known = sorted(known)
    return known + (["unknown"] if "unknown" in names else [])


def read_csv(path, text="description", label="review_majority", concepts=CEBAB_CONCEPTS,
             drop_label="no majority", like=None):
    """Rows with `drop_label` are left out. `like`: a data set whose classes are used."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[label] != drop_label]
    value = lambda row, column: "unknown" if row[column] in UNKNOWN else row[column]
    if like:
        label_classes, concept_classes = like.label_classes, like.concept_classes
    else:
        label_classes = sorted_classes(row[label] for row in rows)
        concept_classes = [sorted_classes(value(row, c) for row in rows) for c in concepts.values()]
    return Dataset(
        texts=[row[text] for row in rows],
        labels=np.array([label_classes.index(row[label]) for row in rows]),
        concepts=np.array([[classes.index(value(row, column))
                            for classes, column in zip(concept_classes, concepts.values())]
                           for row in rows]),
        label_classes=label_classes,
        concept_classes=concept_classes,
    )


def pad(sequences):
    """Lists of ids as (ids [B, T], mask [B, T]), padded to the longest of them."""
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return ids, mask


# --- model ----------------------------------------------------------------------------------


def pool(hidden, mask, pooling):
    """[B, T, d] to [B, d], over the real tokens."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


class ConceptBottleneck(nn.Module):
    def __init__(self, encoder, n_concepts, n_classes, n_labels, pooling="mean"):
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        d = encoder.config.hidden_size
        self.shape = (n_concepts, n_classes)
        self.concept = nn.Linear(d, n_concepts * n_classes)
        self.label = nn.Linear(n_concepts * n_classes, n_labels)

    def forward(self, ids, mask):
        """Returns concept logits [B, K, R], label logits [B, Y], pooled [B, d]."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = pool(hidden, mask, self.pooling)
        concepts = self.concept(pooled)
        return concepts.view(-1, *self.shape), self.label(concepts), pooled


def joint_loss(concept_logits, label_logits, concepts, labels, concept_weight):
    concept_loss = F.cross_entropy(concept_logits.flatten(0, 1), concepts.flatten())
    return F.cross_entropy(label_logits, labels) + concept_weight * concept_loss


# --- names and files ------------------------------------------------------------------------

LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDING_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def gguf_name(name):
    """A parameter of ConceptBottleneck or of its encoder, as the model file names it; None: not kept there."""
    name = name.removeprefix("encoder.") if not name.startswith("encoder.layer.") else name
    if name in EMBEDDING_NAMES:
        return EMBEDDING_NAMES[name]
    if name.startswith("encoder.layer."):
        layer, rest = name.removeprefix("encoder.layer.").split(".", 1)
        part, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"
    if name.split(".")[0] in ("concept", "label"):
        return "sparsecbm." + name
    return None


def read_gguf(path):
    """Tensors of real numbers of a GGUF file as float32 arrays by name; fused queries, keys and values as three."""
    from gguf import GGMLQuantizationType, GGUFReader, quants

    integers = (GGMLQuantizationType.I8, GGMLQuantizationType.I32)
    tensors = {t.name: quants.dequantize(np.asarray(t.data), t.tensor_type).astype(np.float32)
                             .reshape([int(n) for n in reversed(t.shape)])
               for t in GGUFReader(path).tensors if t.tensor_type not in integers}
    for name in [name for name in tensors if ".attn_qkv." in name]:
        for part, values in zip(("attn_q", "attn_k", "attn_v"), np.split(tensors.pop(name), 3)):
            tensors[name.replace("attn_qkv", part)] = values
    return tensors


def load_weights(model, tensors):
    """Sets a ConceptBottleneck's parameters from a model file's tensors; every one must be there."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            key = gguf_name(name)
            if key is not None:
                parameter.copy_(torch.from_numpy(tensors[key].copy()).reshape(parameter.shape))


# --- training -------------------------------------------------------------------------------


def linear_schedule(step, warmup, total):
    """0 -> 1 over the first `warmup` steps, then linearly to 0 at `total`; steps count from 1."""
    return step / warmup if step < warmup else (total - step) / max(1, total - warmup)


def make_optimizer(model, encoder_rate=1e-4, head_rate=1e-3, weight_decay=0.01):
    """AdamW; weight decay on matrices only."""
    groups = []
    for is_head, rate in ((False, encoder_rate), (True, head_rate)):
        for is_matrix, decay in ((True, weight_decay), (False, 0.0)):
            parameters = [p for name, p in model.named_parameters()
                          if name.startswith(("concept.", "label.")) == is_head and (p.ndim >= 2) == is_matrix]
            groups.append(dict(params=parameters, lr=rate, initial_lr=rate, weight_decay=decay))
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def losses_of(model, sequences, data, orders):
    """The losses of the steps of a training, which takes these rows of the data in turn."""
    optimizer, warmup, losses = make_optimizer(model), max(1, round(0.06 * len(orders))), []
    for step, rows in enumerate(orders, 1):
        batch = (*pad([sequences[i] for i in rows]),
                 torch.from_numpy(data.concepts[rows]), torch.from_numpy(data.labels[rows]))
        losses.append(training_step(model, optimizer, batch, linear_schedule(step, warmup, len(orders))))
    return losses


def training_step(model, optimizer, batch, rate, concept_weight=5.0, clip=1.0):
    """One step on (ids, mask, concepts, labels); returns the loss before it."""
    ids, mask, concepts, labels = batch
    concept_logits, label_logits, _ = model(ids, mask)
    loss = joint_loss(concept_logits, label_logits, concepts, labels, concept_weight)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
    optimizer.step()
    return loss.item()


def predict(model, sequences, batch_size=64):
    """Predicted label [N] and concept classes [N, K]; batches sorted by length."""
    model.eval()
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    labels = np.zeros(len(order), dtype=int)
    concepts = np.zeros((len(order), model.shape[0]), dtype=int)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start:start + batch_size]
            concept_logits, label_logits, _ = model(*pad([sequences[i] for i in rows]))
            labels[rows] = label_logits.argmax(-1).numpy()
            concepts[rows] = concept_logits.argmax(-1).numpy()
    return labels, concepts


def measure(data, labels, concepts):
    """Accuracy and scikit-learn's macro F1 of the label; of the concepts the mean over them."""
    from sklearn.metrics import f1_score

    f1 = lambda gold, predicted: f1_score(gold, predicted, average="macro", zero_division=0)
    return dict(
        label_acc=float((labels == data.labels).mean()),
        label_f1=float(f1(data.labels, labels)),
        concept_acc=float((concepts == data.concepts).mean()),
        concept_f1=float(np.mean([f1(data.concepts[:, k], concepts[:, k]) for k in range(concepts.shape[1])])),
    )
