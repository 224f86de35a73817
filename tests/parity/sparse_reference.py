"""SparseCBM in PyTorch, as the method has it: what the C programs are compared with.

K subnetworks over one encoder (weights ⊙ masks, one pass for each), the joint loss over all of them, gradients of each
W ⊙ M_k, second-order scores by the recursion of the inverse Fisher blocks, the exact choice of zeros, learned scores,
both kinds of intervention, and attributions. Everything is in f64; there is nothing of the C code in it.

Weights go by the names that model files have ("blk.0.attn_q.weight"); masks are boolean arrays [K, out, in].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import reference as ref

PRUNABLE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")


# --- files ----------------------------------------------------------------------------------


def is_prunable(name):
    """Every linear layer inside the encoder's blocks, without its bias."""
    parts = name.split(".")
    return parts[0] == "blk" and parts[-1] == "weight" and parts[2] in PRUNABLE


def read_tensors(path):
    """All tensors of a GGUF file, as they are, by name."""
    from gguf import GGUFReader

    return {t.name: np.array(t.data).reshape([int(n) for n in reversed(t.shape)]) for t in GGUFReader(path).tensors}


def unpack_masks(bits, columns):
    """Bit j of byte b of a row is weight 8b + j; what is past the row's end must be zero."""
    unpacked = np.unpackbits(bits.view(np.uint8), axis=-1, bitorder="little")
    assert not unpacked[..., columns:].any(), "bits past the end of a row"
    return unpacked[..., :columns].astype(bool)


def pack_masks(masks, row_bytes):
    bits = np.packbits(masks, axis=-1, bitorder="little")
    padded = np.zeros((*masks.shape[:-1], row_bytes), dtype=np.uint8)
    padded[..., : bits.shape[-1]] = bits
    return padded.view(np.int8)


def masks_of(tensors):
    """Masks by the name of their weight, of a model file's tensors."""
    return {name: unpack_masks(tensors[name.removesuffix(".weight") + ".masks"], tensors[name].shape[1])
            for name in tensors if is_prunable(name)}


def overwrite(path, values):
    """Sets tensors of a GGUF file in place, by name."""
    from gguf import GGUFReader

    tensors = {t.name: t.data for t in GGUFReader(path, "r+").tensors}
    for name, value in values.items():
        tensors[name][...] = np.asarray(value, dtype=tensors[name].dtype).reshape(tensors[name].shape)


def pack_all(masks, tensors):
    """Masks as tensors of a model file, by their names there."""
    return {(key := name.removesuffix(".weight") + ".masks"): pack_masks(mask, tensors[key].shape[-1])
            for name, mask in masks.items()}


# --- the model ------------------------------------------------------------------------------


class SparseBottleneck(nn.Module):
    """Concept k's logits come from its own subnetwork, the label's from all the concepts' values.

    `encoder`: Hugging Face's; `groups` [K + 1]: concept k's classes are groups[k] … groups[k + 1] − 1 of all. Without
    masks it is the dense model: every concept's weights are the same.
    """

    def __init__(self, encoder, groups, n_labels, masks=None):
        super().__init__()
        self.encoder, self.groups = encoder, list(groups)
        self.concept = nn.Linear(encoder.config.hidden_size, self.groups[-1])
        self.label = nn.Linear(self.groups[-1], n_labels)
        self.to(torch.float64)
        self.keys = {ref.gguf_name(name): name for name, _ in encoder.named_parameters() if ref.gguf_name(name)}
        self.prunable = [key for key in self.keys if is_prunable(key)]
        self.set_masks(masks)

    @property
    def n_concepts(self):
        return len(self.groups) - 1

    def set_masks(self, masks):
        self.masks = {key: torch.from_numpy(mask) for key, mask in masks.items()} if masks else None
        assert not masks or sorted(masks) == sorted(self.prunable)

    def weight(self, key):
        return self.encoder.get_parameter(self.keys[key])

    def classes(self, k):
        return slice(self.groups[k], self.groups[k + 1])

    def products(self):
        """W ⊙ M_k of every prunable weight: [K, out, in]."""
        if self.masks is None:
            return {key: self.weight(key).expand(self.n_concepts, -1, -1) for key in self.prunable}
        return {key: self.weight(key) * self.masks[key] for key in self.prunable}

    def encode(self, k, products, mask, **inputs):
        """h_k [B, T, d], from input_ids or inputs_embeds."""
        weights = {self.keys[key]: products[key][k] for key in self.prunable}
        return functional_call(self.encoder, weights, kwargs=dict(attention_mask=mask, **inputs)).last_hidden_state

    def concept_logits(self, k, products, mask, **inputs):
        """[B, R_k]"""
        pooled = pool(self.encode(k, products, mask, **inputs), mask)
        return F.linear(pooled, self.concept.weight[self.classes(k)], self.concept.bias[self.classes(k)])

    def forward(self, ids, mask, products=None):
        """Concept logits [B, C] and label logits [B, Y]; `products` stand for W ⊙ M_k where they are given."""
        products = self.products() if products is None else products
        logits = torch.cat([self.concept_logits(k, products, mask, input_ids=ids) for k in range(self.n_concepts)], 1)
        return logits, self.label(logits)

    def loss(self, ids, mask, concepts, labels, products=None, concept_weight=5.0):
        """L = CE(y) + λ · mean over concepts and examples of CE(c_k); without labels, the latter mean alone."""
        logits, label_logits = self(ids, mask, products)
        losses = [F.cross_entropy(logits[:, self.classes(k)], concepts[:, k], reduction="none")
                  for k in range(self.n_concepts)]
        concept_loss = torch.stack(losses).mean()
        return concept_loss if labels is None else F.cross_entropy(label_logits, labels) + concept_weight * concept_loss

    def stream_gradients(self, *batch):
        """∂L/∂(W ⊙ M_k), dense: [K, out, in] of every prunable weight."""
        products = {key: product.detach().requires_grad_() for key, product in self.products().items()}
        loss = self.loss(*batch, products=products)
        gradients = torch.autograd.grad(loss, list(products.values()))
        return {key: gradient.numpy() for key, gradient in zip(products, gradients)}


def pool(hidden, mask):
    """The mean over the real tokens, special ones included."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


# --- second-order scores --------------------------------------------------------------------


def block_scores(weight, gradients, damping):
    """w_j² / (2 [F⁻¹_m]_jj) of blocks: weight [N, B], gradients [m, N, B], by the recursion from F⁻¹_0 = I / δ."""
    m, n, size = gradients.shape
    inverse = np.tile(np.eye(size) / damping, (n, 1, 1))
    for g in gradients:
        fg = np.einsum("nij,nj->ni", inverse, g)
        inverse -= fg[:, :, None] * fg[:, None, :] / (m + (g * fg).sum(1))[:, None, None]
    return weight ** 2 / (2 * np.einsum("njj->nj", inverse))


def obert_scores(weight, gradients, block, damping, absolute=False, kept=None):
    """Scores of a matrix [out, in] for one concept: gradients [m, out, in] of W ⊙ M, zero where masked.

    A relative damping is a share of the mean squared gradient of the `kept` weights (None: all).
    """
    w = weight.astype(np.float64).reshape(-1)
    g = gradients.astype(np.float64).reshape(len(gradients), -1)
    if not absolute:
        damping *= np.mean((g if kept is None else g[:, kept.reshape(-1)]) ** 2)
    whole = w.size // block * block  # the last block may be shorter
    scores = [block_scores(w[:whole].reshape(-1, block), g[:, :whole].reshape(len(g), -1, block), damping).reshape(-1)]
    if whole < w.size:
        scores.append(block_scores(w[None, whole:], g[:, None, whole:], damping).reshape(-1))
    return np.concatenate(scores).reshape(weight.shape)


def n_zeros(n, sparsity):
    return math.floor(sparsity * n + 0.5)


def prune(scores, kept, sparsity):
    """The mask [out, in] after pruning, and the largest score that went.

    By score, then position in row-major order; what is masked already scores −∞.
    """
    scores = np.where(kept, scores, -np.inf).reshape(-1)
    zeros = n_zeros(scores.size, sparsity)
    order = np.argsort(scores, kind="stable")
    mask = np.ones(scores.size, dtype=bool)
    mask[order[:zeros]] = False
    return mask.reshape(kept.shape), scores[order[zeros - 1]] if zeros else -np.inf


def schedule(epoch, start, end, initial, final):
    """s(epoch), linear from `initial` at `start` to `final` at `end`; 0 before."""
    if epoch < start:
        return 0.0
    return final if epoch >= end else initial + (final - initial) * (epoch - start) / (end - start)


# --- learned scores -------------------------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    """The mask of the top (1 − s) of |score|; backward, as if it were |score| itself."""

    @staticmethod
    def forward(context, magnitude, sparsity, structured):
        return torch.from_numpy(popup_masks(magnitude.detach().numpy(), sparsity, structured)).to(magnitude.dtype)

    @staticmethod
    def backward(context, gradient):
        return gradient, None, None


def popup_masks(scores, sparsity, structured):
    """[K, out, in]; structured: whole rows, by the norm of their scores."""
    masks = np.zeros(scores.shape, dtype=bool)
    for mask, score in zip(masks, np.abs(scores)):
        if structured:
            rows, _ = prune(np.sqrt((score ** 2).sum(1)), np.ones(len(score), dtype=bool), sparsity)
            mask[rows] = True
        else:
            mask[...], _ = prune(score, np.ones(score.shape, dtype=bool), sparsity)
    return masks


def popup_gradients(model, scores, sparsity, structured, *batch):
    """Gradients of the loss for the scores [K, out, in] and for the weights [out, in], by automatic differentiation."""
    scores = {key: torch.from_numpy(score.astype(np.float64)).requires_grad_() for key, score in scores.items()}
    weights = {key: model.weight(key).detach().requires_grad_() for key in scores}
    products = {key: weights[key] * StraightThrough.apply(score.abs(), sparsity, structured)
                for key, score in scores.items()}
    loss = model.loss(*batch, products=products)
    gradients = torch.autograd.grad(loss, [*scores.values(), *weights.values()])
    found = [gradient.numpy() for gradient in gradients]
    return dict(zip(scores, found[: len(scores)])), dict(zip(scores, found[len(scores):]))


# --- interventions --------------------------------------------------------------------------


def concept_loss(model, products, k, target, ids, mask):
    """CE(c_k, target) of one text, with concept k's products [1, out, in]."""
    weights = {key: product.expand(k + 1, -1, -1) for key, product in products.items()}
    logits = model.concept_logits(k, weights, mask, input_ids=ids)
    return F.cross_entropy(logits, torch.tensor([target])), logits[0]


def mask_gradients(model, masks, k, target, ids, mask):
    """G = (∂CE/∂(W ⊙ M)) ⊙ W, dense, and CE; `masks` are concept k's, [out, in]."""
    products = {key: (model.weight(key).detach() * torch.from_numpy(m))[None].requires_grad_()
                for key, m in masks.items()}
    loss, _ = concept_loss(model, products, k, target, ids, mask)
    gradients = torch.autograd.grad(loss, list(products.values()))
    return {key: (g[0] * model.weight(key).detach()).numpy() for key, g in zip(products, gradients)}, loss.item()


def evaluate(model, masks, k, target, ids, mask):
    """CE and concept k's logits under these masks."""
    with torch.no_grad():
        products = {key: (model.weight(key) * torch.from_numpy(m))[None] for key, m in masks.items()}
        loss, logits = concept_loss(model, products, k, target, ids, mask)
    return loss.item(), logits.numpy()


def candidates(gradient, kept, rule):
    """Places (in row-major order) of a matrix's kept weights that may go and of its zeros that may come, best first."""
    g, on = gradient.reshape(-1), kept.reshape(-1)
    if rule == "signed":
        go, come = np.flatnonzero(on & (g > 0)), np.flatnonzero(~on & (g < 0))
        return go[np.argsort(-g[go], kind="stable")], come[np.argsort(g[come], kind="stable")]
    go, come = np.flatnonzero(on), np.flatnonzero(~on)
    return go[np.argsort(np.abs(g[go]), kind="stable")], come[np.argsort(-np.abs(g[come]), kind="stable")]


def n_moves(go, come, kept, portion):
    """min(round(ρ · kept), zeros), and no more than there are candidates: as many go as come."""
    return min(math.floor(portion * kept.sum() + 0.5), (~kept).sum(), len(go), len(come))


def move(masks, gradients, portion, rule):
    """The masks after one step."""
    moved = {}
    for key, kept in masks.items():
        go, come = candidates(gradients[key], kept, rule)
        q = n_moves(go, come, kept, portion)
        flat = kept.reshape(-1).copy()
        flat[go[:q]], flat[come[:q]] = False, True
        moved[key] = flat.reshape(kept.shape)
    return moved


@dataclass
class Attempt:
    """One step of an intervention: the bits that it moves, and whether it is taken back because CE rose."""

    gradients: dict
    masks: dict
    undone: bool


def attempt(model, masks, k, target, ids, mask, rule, portion):
    """From concept k's masks as they are; with the signed rule, the portion is halved after a step that is undone."""
    gradients, loss = mask_gradients(model, masks, k, target, ids, mask)
    moved = move(masks, gradients, portion, rule)
    after, _ = evaluate(model, moved, k, target, ids, mask)
    return Attempt(gradients, moved, rule == "signed" and after > loss)


def edit(model, logits, k, values):
    """The label's logits after concept k's values are replaced."""
    u = torch.from_numpy(logits.copy())
    u[model.classes(k)] = torch.as_tensor(values, dtype=u.dtype)
    with torch.no_grad():
        return model.label(u).numpy()


def gold_means(values, concepts, groups):
    """Of u [N, C]: for each class, the mean of u_k over the rows whose gold class it is, and their number."""
    means, counts = [], []
    for k in range(len(groups) - 1):
        for c in range(groups[k + 1] - groups[k]):
            rows = concepts[:, k] == c
            counts.append(int(rows.sum()))
            means.append(values[rows, groups[k]:groups[k + 1]].mean(0) if rows.any() else None)
    return means, counts


# --- attributions ---------------------------------------------------------------------------


@dataclass
class Attribution:
    gradient_input: np.ndarray  # [T]
    integrated_gradients: np.ndarray  # [T]
    target_logit: float
    baseline_logit: float
    steps: int
    converged: bool


def word_embeddings(model, ids):
    return model.encoder.get_input_embeddings()(ids).detach()


def logit_of(model, products, k, target, embeddings):
    """c_{k,target} of texts given by their word embeddings [B, T, d]."""
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    return model.concept_logits(k, products, mask, inputs_embeds=embeddings)[:, target]


def integrated_gradients(model, products, k, target, embeddings, baseline, steps):
    """Captum's IntegratedGradients with the midpoint rule, summed over the embedding's numbers: [T].

    (e − e') ⊙ mean over i of ∂c/∂e at e' + (i + ½) / n · (e − e').
    """
    alphas = (torch.arange(steps, dtype=embeddings.dtype) + 0.5) / steps
    path = (baseline + alphas[:, None, None] * (embeddings - baseline)).requires_grad_()
    gradient, = torch.autograd.grad(logit_of(model, products, k, target, path).sum(), path)
    return ((embeddings - baseline)[0] * gradient.mean(0)).sum(-1).numpy()


def explain(model, ids, special, baseline_id, k, target=None, steps=32, most=512):
    """Attributions of a text's tokens to a class of concept k (None: the one that it reads), through its subnetwork.

    The baseline has the embedding of `baseline_id` in place of every token but the special ones; the steps double until
    the sum is the logits' difference Δ within 0.01 · max(|Δ|, 1).
    """
    products = {key: product.detach() for key, product in model.products().items()}
    ids = torch.tensor([ids])
    e = word_embeddings(model, ids)
    plain = torch.tensor(~np.asarray(special))
    baseline = torch.where(plain[None, :, None], word_embeddings(model, torch.tensor([[baseline_id]])), e)
    if target is None:
        with torch.no_grad():
            target = model.concept_logits(k, products, torch.ones_like(ids), input_ids=ids)[0].argmax().item()
    at = e.clone().requires_grad_()
    c = logit_of(model, products, k, target, at)
    gradient, = torch.autograd.grad(c.sum(), at)
    with torch.no_grad():
        start = logit_of(model, products, k, target, baseline).item()
    delta = c.item() - start
    while True:
        attribution = integrated_gradients(model, products, k, target, e, baseline, steps)
        converged = abs(attribution.sum() - delta) <= 0.01 * max(abs(delta), 1)
        if converged or steps >= most:
            break
        steps *= 2
    return Attribution((e * gradient).sum(-1)[0].numpy(), attribution, c.item(), start, steps, bool(converged))


# --- faithfulness (ERASER) ------------------------------------------------------------------


def probability(model, products, k, target, ids):
    ids = torch.tensor([ids])
    with torch.no_grad():
        logits = model.concept_logits(k, products, torch.ones_like(ids), input_ids=ids)
    return logits.softmax(1)[0, target].item()


def attention_received(model, ids, k):
    """How much attention each token gets in concept k's last block: the mean over heads and tokens."""
    products = model.products()
    weights = {model.keys[key]: products[key][k] for key in model.prunable}
    with torch.no_grad():
        output = functional_call(model.encoder, weights,
                                 kwargs=dict(input_ids=torch.tensor([ids]), output_attentions=True))
    return output.attentions[-1][0].mean((0, 1)).numpy()


def faithfulness(model, ids, special, k, attributions, share):
    """Comprehensiveness and sufficiency of one text and concept: p(text) − p(text without the tokens of the largest
    attributions), and p(text) − p(they alone). Special tokens stay, the others that go are left out of the text."""
    products = {key: product.detach() for key, product in model.products().items()}
    with torch.no_grad():
        whole = torch.tensor([ids])
        target = model.concept_logits(k, products, torch.ones_like(whole), input_ids=whole)[0].argmax().item()
    plain = np.flatnonzero(~np.asarray(special))
    count = max(1, round_half_up(share * len(plain)))
    top = set(plain[np.argsort(-np.asarray(attributions)[plain], kind="stable")[:count]])
    p = probability(model, products, k, target, ids)
    without = [token for i, token in enumerate(ids) if i not in top]
    alone = [token for i, token in enumerate(ids) if i in top or special[i]]
    return (p - probability(model, products, k, target, without), p - probability(model, products, k, target, alone))


def round_half_up(x):
    return math.floor(x + 0.5)
