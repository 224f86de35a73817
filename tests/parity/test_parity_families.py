"""Every family's encoder equals transformers': hidden states, gradients, with masks of subnetworks, quantized, exported."""

import json
import random
import re
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from conftest import WORDS, Checkpoint, relative_error, run, run_json, write_csv, write_lines
from families import FAMILIES, Encoder, output_width, parts_of, to_numpy
import reference as ref
import sparse_reference as sparse

CONCEPTS = {"service": "how served", "noise": "noise"}
COLUMNS = ["--text", "text", "--label", "stars"] + [
    word for name, column in CONCEPTS.items() for word in ("--concept", f"{name}={column}")]
ROWS = 12


def write_data(path, longest):
    """Texts of one token, of two, of odd numbers of tokens and of as many as are read; with marks and unknown words."""
    rng = random.Random(4)
    lengths = [0, 1, 2, 3, 7, longest + 5] + [rng.randint(4, 21) for _ in range(ROWS - 6)]
    rows = [[" ".join(rng.choice(WORDS + ["Walking", "xyz", "12", "café", "[MASK]"]) for _ in range(n)), 1 + i % 3,
             ["low", "high"][i % 2], ["a", "b", "c", ""][i % 4]] for i, n in enumerate(lengths)]
    return write_csv(path, ["text", "stars", *CONCEPTS.values()], rows)


def write_tokenizer(folder, family):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = list(dict.fromkeys(list(family.special) + [w.lower() for w in WORDS] + list(letters + "0123456789.,é")
                                + ["##" + c for c in letters] + ["##ing"]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(list(family.special))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": family.max_tokens}))
    return len(tokens)


def save_checkpoint(folder, family):
    torch.manual_seed(len(family.name))
    model = getattr(transformers, family.model)(family.make_config(write_tokenizer(folder, family)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
            elif family.architecture == "t5encoder" and "shared" not in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="20KB" if family.shards else "5GB")
    assert family.shards == (folder / "model.safetensors.index.json").exists()


class FamilyCheckpoint(Checkpoint):
    def __init__(self, folder, work, family):
        super().__init__(folder, work, max_tokens=family.max_tokens)
        self.family = family

    def encoder(self, dtype=torch.float64):
        kind = transformers.T5EncoderModel if self.family.architecture == "t5encoder" else transformers.AutoModel
        options = dict(add_pooling_layer=False) if self.family.pooler else {}
        return kind.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager", **options).to(dtype).eval()

    def pad(self, texts):
        ids, mask = ref.pad(self.ids(texts))
        return ids.masked_fill(mask == 0, self.family.special.index("[PAD]")), mask

    def hidden(self, texts):
        ids, mask = self.pad(texts)
        with torch.inference_mode():
            out = self.encoder()(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return [state[mask.bool()].numpy() for state in (*out.hidden_states[:-1], out.last_hidden_state)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def model(request, tmp_path_factory):
    family = request.param
    work = tmp_path_factory.mktemp(family.name)
    folder = work / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, family)
    checkpoint = FamilyCheckpoint(folder, work, family)
    path = write_data(work / "data.csv", family.max_tokens)
    data = ref.read_csv(path, "text", "stars", CONCEPTS, drop_label=None)
    return Model(checkpoint, path, data)


class Model(SimpleNamespace):
    def __init__(self, checkpoint, path, data):
        super().__init__(checkpoint=checkpoint, path=path, data=data, family=checkpoint.family)

    def train(self, out, *arguments, encoder=None):
        run("main", "train", "--encoder", encoder or self.checkpoint.gguf(), "--data", self.path, "--validation", self.path,
            *COLUMNS, "--mode", "joint", "--seed", 7, "--pool", "mean", *arguments, "--force", "-o", out)
        return out

    @cached_property
    def dense(self):
        return self.train(self.checkpoint.work / "dense.gguf", "--epochs", 0)

    @cached_property
    def sparse(self):
        """With random masks of different densities, some of whose rows and columns keep nothing."""
        path = self.train(self.checkpoint.work / "sparse.gguf", "--epochs", 1, "--prune", "random", "--sparsity", 0.4,
                          "--prune-start", 1, "--prune-end", 1, "--dropout", 0)
        tensors, rng, masks = sparse.read_tensors(path), np.random.default_rng(3), {}
        for name in Encoder(self.checkpoint.encoder()).prunable():
            bits = tensors[name.removesuffix(".weight") + ".masks"]
            mask = rng.random((*bits.shape[:2], tensors[name].shape[1])) < np.array([0.8, 0.3])[:, None, None]
            mask[0, 0, :] = mask[1, :, 0] = False
            masks[name] = mask
        sparse.overwrite(path, sparse.pack_all(masks, tensors))
        return path

    def dump(self, path, *arguments):
        out = self.checkpoint.work / "dump.gguf"
        run("dump", "--model", path, "--data", self.path, *COLUMNS, "--rows", ROWS, *arguments, "-o", out)
        return sparse.read_tensors(out)

    def batch(self):
        return (*self.checkpoint.pad(self.data.texts), torch.from_numpy(self.data.concepts),
                torch.from_numpy(self.data.labels))


class Bottleneck(nn.Module):
    """The joint model on an encoder with the weights of a model file, and its masks where it has some."""

    def __init__(self, model, path):
        super().__init__()
        tensors = sparse.read_tensors(path)
        self.encoder = Encoder(model.checkpoint.encoder())
        self.groups = np.cumsum([0] + [len(c) for c in model.data.concept_classes])
        self.concept = nn.Linear(output_width(self.encoder.encoder.config), int(self.groups[-1]))
        self.label = nn.Linear(int(self.groups[-1]), len(model.data.label_classes))
        self.to(torch.float64)
        with torch.no_grad():
            for key, name, part in self.encoder.parts:
                put(self.encoder.encoder.get_parameter(name), part, torch.from_numpy(tensors[key].copy()))
            for name, parameter in self.named_parameters():
                if name.startswith(("concept.", "label.")):
                    parameter.copy_(torch.from_numpy(tensors["sparsecbm." + name].copy()).reshape(parameter.shape))
        self.masks = None
        if any(name.endswith(".masks") for name in tensors):
            self.masks = {key: torch.from_numpy(sparse.unpack_masks(tensors[key.removesuffix(".weight") + ".masks"],
                                                                    tensors[key].shape[1]))
                          for key in self.encoder.prunable()}

    def products(self):
        return {key: self.encoder.weight(key) * mask for key, mask in (self.masks or {}).items()}

    def forward(self, ids, mask, products):
        pooled, logits = [], []
        for k in range(len(self.groups) - 1):
            weights = {key: product[k] for key, product in products.items()}
            pooled.append(ref.pool(self.encoder(ids, mask, weights), mask, "mean"))
            rows = slice(self.groups[k], self.groups[k + 1])
            logits.append(F.linear(pooled[-1], self.concept.weight[rows], self.concept.bias[rows]))
            if not products:
                logits[-1:] = [F.linear(pooled[0], self.concept.weight, self.concept.bias)]
                break
        logits = torch.cat(logits, 1)
        return logits, self.label(logits), torch.stack(pooled)

    def loss(self, concepts, labels, logits, label_logits):
        losses = [F.cross_entropy(logits[:, self.groups[k]:self.groups[k + 1]], concepts[:, k], reduction="none")
                  for k in range(len(self.groups) - 1)]
        return F.cross_entropy(label_logits, labels) + 5.0 * torch.stack(losses).mean()


def put(parameter, part, value):
    """Writes a model file's tensor into its part of a parameter."""
    value = value.to(parameter.dtype)
    if part.padding >= 0:
        parameter[part.padding + 1:] = value[:-1]
        parameter[part.padding] = value[-1]
        return
    target = parameter.T if part.transposed else parameter
    rows = target.shape[0] // part.parts
    target[part.part * rows:(part.part + 1) * rows] = value.reshape(rows, *target.shape[1:])


def check_gradients(got, wanted):
    whole = np.sqrt(sum((g ** 2).sum() for g in wanted.values()))
    wrong = []
    for name, gradient in wanted.items():
        norm, error = np.linalg.norm(gradient), np.linalg.norm(got[name].reshape(gradient.shape) - gradient)
        if not error <= 1e-3 * max(norm, 1e-5 * whole):
            wrong.append(f"{name}: error {error:.3e}, gradient {norm:.3e}")
    assert not wrong, f"of all gradients' norm {whole:.3e}:\n" + "\n".join(wrong)


# --- the tests ------------------------------------------------------------------------------


def test_hidden_states(model):
    dumped = model.dump(model.dense)
    wanted = model.checkpoint.hidden(model.data.texts)
    for layer, state in enumerate(wanted):
        error = relative_error(dumped[f"hidden.{layer}"].reshape(state.shape), state)
        assert error <= 1e-4, f"hidden state {layer}: relative error {error:.2e}"
    assert f"hidden.{len(wanted)}" not in dumped


@pytest.mark.parametrize("which", ["dense", "sparse"])
def test_loss_and_gradients(model, which):
    path = getattr(model, which)
    dumped, reference = model.dump(path), Bottleneck(model, path)
    ids, mask, concepts, labels = model.batch()
    logits, label_logits, pooled = reference(ids, mask, reference.products())
    loss = reference.loss(concepts, labels, logits, label_logits)
    loss.backward()
    for name, wanted in (("pooled", pooled), ("concept_logits", logits), ("label_logits", label_logits),
                         ("loss", loss.reshape(1))):
        wanted = wanted.detach().numpy()
        assert relative_error(dumped[name].reshape(wanted.shape), wanted) <= 1e-4, name
    wanted = {key: to_numpy(part, reference.encoder.encoder.get_parameter(name).grad)
              for key, name, part in reference.encoder.parts}
    wanted |= {"sparsecbm." + name: parameter.grad.numpy() for name, parameter in reference.named_parameters()
               if name.startswith(("concept.", "label."))}
    got = {name.removeprefix("grad."): value for name, value in dumped.items() if name.startswith("grad.")}
    assert sorted(got) == sorted(wanted)
    check_gradients(got, wanted)


@pytest.mark.parametrize("kind", ["masked", "dense"])
def test_gradients_of_each_stream(model, kind):
    dumped, reference = model.dump(model.sparse, "--gradients", kind), Bottleneck(model, model.sparse)
    ids, mask, concepts, labels = model.batch()
    products = {key: product.detach().requires_grad_() for key, product in reference.products().items()}
    logits, label_logits, _ = reference(ids, mask, products)
    gradients = torch.autograd.grad(reference.loss(concepts, labels, logits, label_logits), list(products.values()))
    wanted = {key: gradient.numpy() for key, gradient in zip(products, gradients)}
    if kind == "masked":
        wanted = {key: gradient * reference.masks[key].numpy() for key, gradient in wanted.items()}
    check_gradients({key: dumped["grad." + key] for key in wanted}, wanted)


@pytest.mark.parametrize("type, bound", [("f32", 1e-4), ("q8_0", 1e-4), ("bf16", 2e-2)])
def test_embeddings(model, type, bound):
    """Of texts with padding tokens in them, too. Quantized weights are compared with PyTorch on what the file stores."""
    pad = " [PAD] "
    texts = [text for text in model.data.texts if "\n" not in text] + [pad, "the" + pad + "food", pad * 3 + "was great" + pad]
    path = write_lines(model.checkpoint.work / "texts.txt", texts)
    got = run_json("main", "embed", "--model", model.checkpoint.gguf(type), "--file", path, "--pool", "mean", "--normalize", "no")
    encoder = Encoder(model.checkpoint.encoder())
    if type == "q8_0":
        stored = ref.read_gguf(model.checkpoint.gguf(type))
        with torch.no_grad():
            for key, name, part in encoder.parts:
                put(encoder.encoder.get_parameter(name), part, torch.from_numpy(stored[key].copy()))
    ids, mask = model.checkpoint.pad(texts)
    with torch.no_grad():
        wanted = ref.pool(encoder(ids, mask), mask, "mean").numpy()
    error = relative_error([row["embedding"] for row in got], wanted)
    assert error <= bound, f"{error:.2e}"


def test_export(model):
    """The folder has the same weights, and converts to the same file."""
    folder = model.checkpoint.work / "exported"
    run("main", "export", model.checkpoint.gguf(), "-o", folder)
    exported = FamilyCheckpoint(folder, model.checkpoint.work / "again", model.family)
    exported.work.mkdir()
    wanted = dict(model.checkpoint.encoder().named_parameters())
    for name, parameter in exported.encoder().named_parameters():
        used = slice(parts_of(model.checkpoint.encoder(), name)[0].padding, None) if "position_emb" in name else slice(None)
        assert torch.equal(parameter[used], wanted[name][used]), name
    a, b = (sparse.read_tensors(c.gguf()) for c in (model.checkpoint, exported))
    assert sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_verify(model, tmp_path):
    run("convert", model.checkpoint.folder, "-o", tmp_path / "verified.gguf", "--verify")


def test_every_architecture_has_a_family():
    from conftest import ROOT

    source = (ROOT / "models/backbones/backbone.c").read_text()
    rows = re.findall(r"ROW\((\w+)\)", source[source.index("#define ARCHITECTURES"):source.index("#define DECLARE")])
    types = {re.sub("_", "-", row) for row in rows} - {"bert", "bilstm"}
    assert types <= {family.make_config(10).model_type for family in FAMILIES}
