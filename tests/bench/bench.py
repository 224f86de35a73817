#!/usr/bin/env python3
"""Speed of sparsecbm beside PyTorch, ONNX Runtime, OpenVINO and OpenBLAS, in one run: `make bench-peers`; in f32, but for
the task int8.

Programs take turns: in every round each one measures once, alone, and the report has the medians over the rounds. What
the peers do, and how they are given their best case, stands in peers.py. Tasks:

  linear         GFLOP/s of y = x Wᵀ
  texts          all-MiniLM-L6-v2: texts a second on CEBaB's test file, milliseconds of one text, memory
  int8           the same in integers: our q8_0 file with --precision int8, and ONNX Runtime's dynamic quantization
  start          from starting the process to the first text's vector
  train          a step of joint training on 16 texts
  sparse-minilm  K subnetworks, K = 4 and 10, with 50, 70 and 90 % zeros, on texts of CEBaB's test file
  sparse-bert    the same in BERT-base's shape
  sparse-train   a training step with K = 4 subnetworks

Results are kept in build/bench; --resume goes on from there. First of all the outputs of the sparse MiniLM are compared
with PyTorch's.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import peers
from peers import CONCEPTS, ROOT, TEXT, WORK

HERE = Path(__file__).resolve().parent
PREPARED = WORK / "prepared.json"
OURS = "sparsecbm"
INFERENCE = ("torch", "onnxruntime", "openvino")
SHAPES = {"sparse-minilm": "minilm", "sparse-bert": "bert-base"}
NAMES = {"minilm": "MiniLM", "bert-base": "BERT-base"}
SPARSITIES = (0.5, 0.7, 0.9)
SUBNETWORKS = (4, 10)
# Minutes of the default 12, and the rounds at most.
TASKS = {"linear": 1.1, "texts": 1.6, "int8": 0.8, "start": 0.4, "train": 0.9, "sparse-minilm": 2.4, "sparse-bert": 4.6,
         "sparse-train": 1.0}
MOST_ROUNDS = 5
BUSY = 0.5  # the load from which numbers are not to be trusted
# Of a sparse model's texts: batches of 32 for texts a second, and texts for the time of one, by shape and K.
SAMPLES = {("minilm", 4): (6, 32), ("minilm", 10): (2, 16), ("bert-base", 4): (1, 8), ("bert-base", 10): (1, 4)}
TRAIN_STEPS, SPARSE_TRAIN_STEPS = 12, 6
TITLES = {
    "linear": "One linear layer: y = x Wᵀ",
    "texts": "MiniLM, dense",
    "int8": "MiniLM, dense, in int8",
    "sparse-minilm": "MiniLM, K subnetworks of random masks; the peers take K dense passes",
    "sparse-bert": "BERT-base's shape, K subnetworks of random masks; the peers take K dense passes",
    "sparse-train": "Training with subnetworks, K = 4",
    "sparse-memory": "sparsecbm: a sparse model beside the dense one, K = 4",
}
AIMS = {0.7: {"texts/s": 2.5, "ms": 3}, 0.9: {"texts/s": 6, "ms": 3}}


# --- processes ------------------------------------------------------------------------------


def environment(args):
    """Two threads for everybody; and, with --tier avx2, no AVX-512 where that can be asked for."""
    threads = str(args.threads)
    set_here = dict(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, MKL_NUM_THREADS=threads,
                    RAYON_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="true", TMPDIR=str(WORK / "tmp"))
    if args.tier == "avx2":
        set_here.update(SCBM_CPU="avx2", ATEN_CPU_CAPABILITY="avx2", MKL_ENABLE_INSTRUCTIONS="AVX2",
                        ONEDNN_MAX_CPU_ISA="AVX2", DNNL_MAX_CPU_ISA="AVX2", OPENBLAS_CORETYPE="Haswell")
    return dict(os.environ, **set_here)


class Failed(Exception):
    """A program that ended badly; the report does without it."""


class Process:
    """A program that was started; its standard error is kept for when it fails."""

    def __init__(self, line, args, extra=None):
        self.line, self.errors = [str(word) for word in line], []
        self.started = time.perf_counter()
        self.process = subprocess.Popen(self.line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=dict(environment(args), **(extra or {})), text=True)
        self.reader = threading.Thread(target=lambda: self.errors.append(self.process.stderr.read()), daemon=True)
        self.reader.start()

    def read_line(self):
        """The next JSON object; libraries may print something else before it."""
        row = self.process.stdout.readline()
        while row and not row.startswith("{"):
            row = self.process.stdout.readline()
        if not row:
            self.close()
            raise Failed(f"{' '.join(self.line)} ended with {self.process.returncode}: {''.join(self.errors)[-2000:]}")
        return json.loads(row)

    def ask(self, what):
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read_line says why
        return self.read_line()

    def close(self):
        """Lets it end; returns its peak memory in MB."""
        self.process.stdin.close()
        self.process.stdout.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.reader.join()
        return usage.ru_maxrss / 1024


def run_all(line, args, extra=None):
    """Every JSON object that a program prints."""
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True,
                          env=dict(environment(args), **(extra or {})))
    if done.returncode:
        raise Failed(f"{' '.join(map(str, line))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(row) for row in done.stdout.splitlines()]


def ours(args, *words):
    return run_all([args.main, "bench", *words, "--threads", args.threads, "--json"], args)


def peer_line(name, work, args, *words):
    return [sys.executable, HERE / "peers.py", name, work, "--threads", args.threads, *words]


# --- programs: each has a name and measure() → [(section, (row, unit, aim), column, value)] -----


class Once:
    """Whatever a function starts and ends."""

    def __init__(self, args, function, name=OURS):
        self.args, self.function, self.name = args, function, name

    def measure(self):
        return self.function(self.args)

    def close(self):
        pass


class Peer:
    """A process of peers.py, started for the first measurement; `questions`: what is asked for → a function from the
    answer to values."""

    def __init__(self, name, work, args, questions, *words):
        self.name, self.args, self.questions = name, args, questions
        self.line, self.process = peer_line(name, work, args, *words), None

    def measure(self):
        self.process = self.process or Process(self.line, self.args)
        values = []
        for what, read in self.questions:
            values += read(self.name, self.process.ask(list(what)))
        return values

    def close(self):
        if self.process and self.process.process.returncode is None:
            self.process.close()


# --- linear, texts, start, train --------------------------------------------------------------


def linear_values(name, objects):
    values = []
    for o in sorted(objects, key=lambda o: (o["in"] * o["out"], o["in"], o["tokens"])):
        row = (f"{o['tokens']} tokens, {o['in']} → {o['out']}", "GFLOP/s", 1 if o["tokens"] >= 128 else None)
        values.append(("linear", row, name, o["gflops"]))
        if "peak_gflops" in o:
            values.append(("linear", row, "of peak, %", 100 * o["gflops"] / o["peak_gflops"]))
    return values


def measure_openblas(args):
    """OpenBLAS does not know every processor that has AVX-512 (Debian's takes new ones for a Haswell): it is also told."""
    shapes = [f"{t}:{n_in}:{n_out}" for t in peers.TOKENS for n_out, n_in in peers.MATRICES]
    values = linear_values("openblas", run_all([WORK / "openblas", *shapes], args))
    if has_avx512() and args.tier != "avx2":
        objects = run_all([WORK / "openblas", *shapes], args, {"OPENBLAS_CORETYPE": "SkylakeX"})
        values += linear_values("openblas-skylakex", objects)
    return values


def linear_programs(args):
    found = [Once(args, lambda args: linear_values(OURS, ours(args, "linear")))]
    if (WORK / "openblas").exists():
        found.append(Once(args, measure_openblas, "openblas"))
    return found + [Peer("torch", "linear", args, [((), lambda name, answer: linear_values(name, answer["linear"]))])]


def text_values(name, answer):
    return [("texts", ("test file", "texts/s", 1.3), name, answer["texts_per_s"]),
            ("texts", ("one text", "ms", 1.3), name, answer["ms_median"]),
            ("texts", ("peak memory, test file", "MB", None), name, answer["peak_mb"])]


def test_file(args):
    return sample_file("minilm", 4) if args.quick else args.texts


def measure_texts(args):
    encoder, latency = ours(args, "encoder", "latency", "--model", gguf("minilm"), "--data", test_file(args), "--text",
                            "description", "--repeats", 1, "--texts", args.latency_texts)
    return text_values(OURS, dict(encoder, ms_median=latency["ms_median"]))


def text_programs(args):
    questions = [((1, str(test_file(args)), args.latency_texts), text_values)]
    return [Once(args, measure_texts), *(Peer(name, "encode", args, questions) for name in INFERENCE)]


def int8_values(name, answer):
    return [("int8", ("test file", "texts/s", 1), name, answer["texts_per_s"]),
            ("int8", ("one text", "ms", 1), name, answer["ms_median"])]


def measure_int8(args):
    model = gguf("minilm-q8_0")
    if not model.exists():
        subprocess.run([args.main, "quantize", gguf("minilm"), "--type", "q8_0", "-o", model], check=True,
                       stdout=subprocess.DEVNULL)
    encoder, latency = ours(args, "encoder", "latency", "--model", model, "--precision", "int8", "--data",
                            test_file(args), "--text", "description", "--repeats", 1, "--texts", args.latency_texts)
    return int8_values(OURS, dict(encoder, ms_median=latency["ms_median"]))


def int8_programs(args):
    questions = [((1, str(test_file(args)), args.latency_texts), int8_values)]
    return [Once(args, measure_int8), Peer("onnxruntime-int8", "encode", args, questions)]


def start_values(name, args, line):
    process = Process(line, args)
    process.read_line()
    seconds = time.perf_counter() - process.started
    return [("texts", ("start to first text", "s", "0.1 s"), name, seconds),
            ("texts", ("peak memory, one text", "MB", None), name, process.close())]


def start_programs(args):
    lines = {OURS: [args.main, "embed", "--model", gguf("minilm"), "--threads", args.threads, "--json", TEXT]}
    lines.update({name: peer_line(name, "start", args) for name in INFERENCE})
    return [Once(args, lambda args, name=name, line=line: start_values(name, args, line), name)
            for name, line in lines.items()]


def train_values(section, row, aim):
    return lambda name, answer: [(section, (row, "ms", aim), name, answer["ms_per_step"]),
                                 (section, (f"peak memory, {row}", "MB", None), name, answer["peak_mb"])]


def our_train(args, steps, *words):
    concepts = [word for name in CONCEPTS for word in ("--concept", f"{name}={name}_aspect_majority")]
    return ours(args, "train", "--model", gguf("minilm"), "--data", args.texts, "--text", "description", "--label",
                "review_majority", *concepts, "--repeats", 1, "--texts", 16 * steps, *words)[0]


def train_programs(args):
    values = train_values("texts", "training step, 16 texts", 2)
    return [Once(args, lambda args: values(OURS, our_train(args, TRAIN_STEPS))),
            Peer("torch", "train", args, [((TRAIN_STEPS,), values)], "--texts", args.texts)]


def sparse_train_programs(args):
    rows = {s: train_values("sparse-train", f"training step, 16 texts, {100 * s:.0f} % zeros", 3) for s in args.sparsities}

    def measure(args):
        return [value for s, values in rows.items() for value in
                values(OURS, our_train(args, SPARSE_TRAIN_STEPS, "--sparsity", s))]

    def all_rows(name, answer):
        return [value for values in rows.values() for value in values(name, answer)]
    return [Once(args, measure),
            Peer("torch-masking", "train", args, [((SPARSE_TRAIN_STEPS,), all_rows)], "--texts", args.texts,
                 "--subnetworks")]


# --- sparse models ----------------------------------------------------------------------------


def gguf(shape, k=0, sparsity=0.0):
    return WORK / (f"{shape}-k{k}-{100 * sparsity:.0f}.gguf" if k else f"{shape}.gguf")


def make_sparse(args, shape, k, sparsity):
    path = gguf(shape, k, sparsity)
    if not path.exists():
        ours(args, "model", "--model", gguf(shape), "--subnetworks", k, "--sparsity", sparsity, "-o", path)
    return path


def sample_file(shape, k):
    return WORK / f"texts-{shape}-k{k}.csv"


def write_samples(args):
    """Whole batches of the test file sorted by length, at even distances, so that the peers pad as little as with all of
    it; where there is one batch, the one whose mean length is nearest to all texts'. In a random order."""
    texts, tokenizer = peers.read_texts(args.texts), peers.load_tokenizer()
    lengths = [len(e.ids) for e in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda i: lengths[i])
    size = 8 if args.quick else peers.BATCH
    batches = [order[i:i + size] for i in range(0, len(order) - size + 1, size)]
    mean = lambda batch: sum(lengths[i] for i in batch) / len(batch)
    for (shape, k), (n, _) in SAMPLES.items():
        n = 1 if args.quick else n
        chosen = [batches[int((j + 0.5) * len(batches) / n)] for j in range(n)]
        if n == 1:
            chosen = [min(batches, key=lambda batch: abs(mean(batch) - mean(order)))]
        rows = [i for batch in chosen for i in batch]
        random.Random(0).shuffle(rows)
        with open(sample_file(shape, k), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["description"])
            writer.writerows([texts[i]] for i in rows)


def sparse_values(task, k, sparsities):
    def values(name, answer):
        found = []
        for unit, key, what in (("texts/s", "texts_per_s", ""), ("ms", "ms_median", "one text, ")):
            for s in sparsities:
                row = (f"{what}K = {k}, {100 * s:.0f} % zeros", unit, AIMS.get(s, {}).get(unit))
                found.append((task, row, name, answer[key]))
        return found
    return values


def memory_values(shape, sparsity, encoder, start, model):
    column = f"{100 * sparsity:.0f} % zeros" if sparsity else "dense"
    name = NAMES[shape]
    rows = {(f"{name}, start to first prediction", "ms", None): start["ms_median"],
            (f"{name}, peak memory, one text", "MB", None): start["peak_mb"],
            (f"{name}, peak memory, batches", "MB", None): encoder["peak_mb"],
            (f"{name}, weights and masks in the file", "MB", None): model["tensor_mb"],
            (f"{name}, of these the masks", "MB", None): model["masks_mb"]}
    if sparsity:
        rows[f"{name}, masks / masked f32 weights (K / 32 = 0.125)", "", None] = \
            model["masks_mb"] / model["masked_weights_mb"]
    return [("sparse-memory", row, column, value) for row, value in rows.items()]


def measure_sparse(args, task, k, sparsity):
    shape = SHAPES[task]
    words = ["--model", make_sparse(args, shape, k, sparsity), "--data", sample_file(shape, k), "--text", "description",
             "--repeats", 1, "--texts", SAMPLES[shape, k][1]]
    if k != SUBNETWORKS[0]:
        encoder, latency = ours(args, "encoder", "latency", *words)
        return sparse_values(task, k, [sparsity])(OURS, dict(encoder, ms_median=latency["ms_median"]))
    start, encoder, latency, model = ours(args, "start", "encoder", "latency", "model", *words)
    values = memory_values(shape, sparsity, encoder, start, model)
    if sparsity:
        values = sparse_values(task, k, [sparsity])(OURS, dict(encoder, ms_median=latency["ms_median"])) + values
    return values


def sparse_programs(task, args):
    shape = SHAPES[task]

    def measure(args):
        found = [value for k in args.subnetworks for s in args.sparsities for value in measure_sparse(args, task, k, s)]
        return found + (measure_sparse(args, task, 4, 0.0) if 4 in args.subnetworks else [])

    def questions(subnetworks):
        return [((k, str(sample_file(shape, k)), SAMPLES[shape, k][1]), sparse_values(task, k, args.sparsities))
                for k in subnetworks]
    found = [Once(args, measure)]
    for name in ("torch", "onnxruntime", "openvino", "torch-masking"):
        # Multiplying at every pass was never the fastest: K = 4 is enough to show it.
        asked = questions(args.subnetworks[:1] if name == "torch-masking" else args.subnetworks)
        found.append(Peer(name, "encode", args, asked, "--subnetworks", "--shape", shape))
    return found


def remove_sparse(shape):
    for path in WORK.glob(f"{shape}-k*.gguf"):
        path.unlink()


def check_outputs(args):
    """The largest difference between our concept logits and PyTorch's, of a sparse MiniLM in f64, to the largest logit."""
    import numpy as np
    import torch
    import reference as ref
    import sparse_reference

    path, texts = make_sparse(args, "minilm", 4, 0.7), peers.read_texts(args.texts)[:8]
    tensors, tokenizer = sparse_reference.read_tensors(path), peers.load_tokenizer()
    groups = [3 * k for k in range(5)]
    model = sparse_reference.SparseBottleneck(peers.load_encoder("minilm"), groups, 5, sparse_reference.masks_of(tensors))
    ref.load_weights(model, ref.read_gguf(path))
    objects = run_all([args.main, "predict", "--model", path, "--json", *texts], args)
    got = np.array([[x for c in o["concepts"] for x in c["logits"]] for o in objects])
    with torch.inference_mode():
        wanted = model.eval()(*map(torch.from_numpy, peers.arrays(tokenizer.encode_batch(texts))))[0].numpy()
    difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    if not difference < 1e-4:
        sys.exit(f"our sparse outputs differ from PyTorch's by {difference:.1e}: there is no use in measuring them")
    return difference


# --- preparation, in a process of its own: a child's peak memory is at least its parent's ------


def prepare(args):
    """Models in every format, sample files, and the comparison of outputs, which is written to a file."""
    shapes = {"minilm"} | {SHAPES.get(task, "minilm") for task in args.tasks}
    masked = [SHAPES[task] for task in args.tasks if task in SHAPES]
    for shape in SHAPES.values():
        remove_sparse(shape)
    if "bert-base" in shapes:
        peers.make_bert_base()
    for shape in shapes:
        subprocess.run([args.convert, peers.model_folder(shape), "-o", gguf(shape)], check=True,
                       stdout=subprocess.DEVNULL)
    if {"texts", "int8", "start"} & set(args.tasks):
        peers.export_onnx("minilm", 0.0)
    if "int8" in args.tasks:
        peers.quantize_onnx("minilm", 0.0)
    for shape in masked:
        peers.export_onnx(shape, 0.7)
    write_samples(args)
    sparse = any(task.startswith("sparse") for task in args.tasks)
    PREPARED.write_text(json.dumps({"outputs": check_outputs(args)} if sparse else {}))


def prepare_elsewhere(args):
    print("preparing models (a minute or two the first time)", file=sys.stderr)
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--prepare"], text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"the preparation failed:\n{done.stderr[-3000:]}")
    return json.loads(PREPARED.read_text())


# --- results ----------------------------------------------------------------------------------


def processor():
    try:
        text = Path("/proc/cpuinfo").read_text()
        return re.search(r"model name\s*: (.*)", text).group(1)
    except (OSError, AttributeError):
        import platform
        return platform.processor() or platform.machine()


def has_avx512():
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def describe(args):
    """What the numbers belong to; a run that goes on must have the same, but for load and revision."""
    line = ours(args, "model", "--model", gguf("minilm"))[0]
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    packages = ("torch", "transformers", "onnxruntime", "openvino")
    return {"processor": processor(), "cores": os.cpu_count(), "threads": args.threads, "tier": line["tier"],
            "quick": args.quick, "program": hashlib.sha256(Path(args.main).read_bytes()).hexdigest()[:12],
            "revision": revision.stdout.strip(),
            "peers": ", ".join(f"{name} {version(name).split('-')[0]}" for name in packages),
            "load": round(os.getloadavg()[0], 1)}


class Results:
    """Values by section, row and column; a line of the file is what one program measured in one round."""

    def __init__(self, path, description, resume):
        self.path, self.description, self.values, self.done = path, description, {}, set()
        if resume and path.exists():
            self.read()
        else:
            path.write_text(json.dumps(description) + "\n")

    def read(self):
        lines = self.path.read_text().splitlines()
        for key, value in json.loads(lines[0]).items():
            if key == "revision" or key not in self.description:
                self.description[key] = value
            elif key in ("outputs", "load"):
                self.description[key] = max(value, self.description[key])
            elif self.description[key] != value:
                sys.exit(f"{self.path} is of another run ({key}: {value}, now {self.description[key]}); "
                         "start anew without --resume")
        for line in lines[1:]:
            self.add(**json.loads(line))

    def add(self, task, program, round, values):
        self.done.add((task, program, round))
        for section, row, column, value in values:
            rows = self.values.setdefault(section, {})
            rows.setdefault(tuple(row), {}).setdefault(column, []).append(value)

    def keep(self, **line):
        self.add(**line)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def rounds(self, task):
        return max((round for t, _, round in self.done if t == task), default=0)


def measure_task(task, programs, results, args):
    """Rounds until there are enough of them, or the task's time is up."""
    started, most = time.perf_counter(), 1 if args.quick else MOST_ROUNDS
    limit, failed = 60 * TASKS[task] * args.minutes / 12, set()
    before = results.rounds(task)
    for round in range(1, most + 1):
        for program in programs:
            if program.name in failed or (task, program.name, round) in results.done:
                continue
            time.sleep(0.3)  # other programs' threads stop spinning
            begin = time.perf_counter()
            try:
                values = program.measure()
            except Failed as failure:
                failed.add(program.name)
                print(f"{task}: {program.name} is left out: {failure}", file=sys.stderr)
                continue
            results.keep(task=task, program=program.name, round=round, values=values)
            print(f"{task}, round {round}: {program.name}, {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        spent, rounds = time.perf_counter() - started, round - before
        if rounds > 0 and spent + 0.5 * spent / rounds > limit:
            break
    for program in programs:
        program.close()


# --- the report -------------------------------------------------------------------------------


def number(value):
    if value is None:
        return "–"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ratio_and_aim(row, medians):
    """How many times better than the best peer (in `linear`, than OpenBLAS), and whether that is what was aimed for."""
    _, unit, aim = row
    rivals = {name: value for name, value in medians.items() if name not in (OURS, "of peak, %")}
    if "openblas" in rivals:
        rivals.pop("torch", None)
    if OURS not in medians or not rivals or not unit:
        return "", ""
    mine = medians[OURS]
    ratio = mine / max(rivals.values()) if unit.endswith("/s") else min(rivals.values()) / mine
    if aim is None:
        return f"{ratio:.2f}×", ""
    if isinstance(aim, str):
        return f"{ratio:.2f}×", f"{aim}: {'yes' if mine <= float(aim.split()[0]) else 'no'}"
    return f"{ratio:.2f}×", f"{aim:g}×: {'yes' if ratio >= aim else 'no'}"


def table(section, rows):
    """Heading cells and rows of cells."""
    units = list(dict.fromkeys(unit for _, unit, _ in rows))
    rows = dict(sorted(rows.items(), key=lambda item: units.index(item[0][1])))
    order = [OURS, "openblas", "openblas-skylakex", "torch", "onnxruntime", "onnxruntime-int8", "openvino",
             "torch-masking", "of peak, %", "dense"]
    present = {column for columns in rows.values() for column in columns}
    columns = [c for c in order if c in present] + sorted(present - set(order))
    compared = OURS in present
    heads = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "onnxruntime-int8": "ONNX Runtime, int8",
             "openvino": "OpenVINO", "openblas": "OpenBLAS",
             "openblas-skylakex": "OpenBLAS, SkylakeX", "torch-masking": "PyTorch, masking"}
    best = "to OpenBLAS" if "openblas" in present else "to the best"
    head = ["", *(heads.get(c, c) for c in columns), *([best, "aim"] if compared else [])]
    body = []
    for row, found in rows.items():
        medians = {c: statistics.median(v) for c, v in found.items()}
        cells = [", ".join(filter(None, row[:2])), *(number(medians.get(c)) for c in columns)]
        body.append(cells + (list(ratio_and_aim(row, medians)) if compared else []))
    return head, body


def plain(head, body):
    widths = [max(len(cells[i]) for cells in [head, *body]) for i in range(len(head))]
    return ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
            for cells in [head, *body]]


def markdown(head, body):
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in [head, rule, *body]]


def report(results, as_markdown=False):
    d = results.description
    lines = [f"{d['processor']}, {d['threads']} threads of {d['cores']} cores, kernels: {d['tier']}; "
             f"sparsecbm {d['revision']}; {d['peers']}."]
    if "outputs" in d:
        lines.append(f"The outputs of a sparse MiniLM differ from PyTorch's (f64) by {d['outputs']:.0e} of the largest.")
    if d["load"] > BUSY:
        lines.append(f"Other programs were running (load {d['load']}): the numbers are not good.")
    if d["tier"] == "avx2" and has_avx512():
        lines.append("PyTorch and OpenBLAS were kept to AVX2 too; ONNX Runtime and OpenVINO choose for themselves.")
    if d["quick"]:
        lines.append("A quick try: these numbers mean nothing.")
    for section in [s for s in TITLES if s in results.values]:
        rows = results.values[section]
        rounds = {len(v) for columns in rows.values() for v in columns.values()}
        title = f"{TITLES[section]} (medians of {'–'.join(map(str, sorted({min(rounds), max(rounds)})))} rounds)"
        head, body = table(section, rows)
        lines += ["", f"**{title}**" if as_markdown else title, ""]
        lines += markdown(head, body) if as_markdown else plain(head, body)
    return "\n".join(lines) + "\n"


# --- the program ------------------------------------------------------------------------------


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, with commas")
    parser.add_argument("--minutes", type=float, default=12, help="how long the measurements may take, all tasks together")
    parser.add_argument("--resume", action="store_true", help="go on with the results that are there")
    parser.add_argument("--markdown", metavar="FILE", help="write the report as Markdown too")
    parser.add_argument("--tier", choices=("best", "avx2"), default="best", help="avx2: without AVX-512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round and few texts, to see whether everything runs")
    parser.add_argument("--texts", default=os.environ.get("SPARSECBM_DATA", ROOT / ".." / "shared" / "data" / "cebab"),
                        help="CEBaB's test file, or the folder of the CEBaB files (default: SPARSECBM_DATA)")
    parser.add_argument("--main", default=ROOT / os.environ.get("MAIN", "models/main"))
    parser.add_argument("--convert", default=ROOT / os.environ.get("CONVERT", "convert/convert-hf"))
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.tasks = [task for task in TASKS if task in args.only.split(",")]
    unknown = set(args.only.split(",")) - set(TASKS)
    if unknown:
        sys.exit(f"there is no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    args.texts = Path(args.texts)
    if args.texts.is_dir():
        args.texts = args.texts / "test_cebab_new_concept_single.csv"
    if not args.texts.exists():
        sys.exit(f"no texts at {args.texts}: give --texts FILE.csv or set SPARSECBM_DATA")
    args.sparsities = SPARSITIES[1:2] if args.quick else SPARSITIES
    args.subnetworks = SUBNETWORKS[:1] if args.quick else SUBNETWORKS
    args.latency_texts = 20 if args.quick else 200
    return args


def main():
    args = options()
    (WORK / "tmp").mkdir(parents=True, exist_ok=True)
    programs = {"linear": linear_programs, "texts": text_programs, "int8": int8_programs, "start": start_programs,
                "train": train_programs,
                "sparse-minilm": lambda args: sparse_programs("sparse-minilm", args),
                "sparse-bert": lambda args: sparse_programs("sparse-bert", args), "sparse-train": sparse_train_programs}
    if args.prepare:
        return prepare(args)
    prepared = prepare_elsewhere(args)
    description = dict(describe(args), **prepared)
    if description["load"] > BUSY:
        print(f"warning: other programs are running (load {description['load']}); the numbers will not be good",
              file=sys.stderr)
    results = Results(WORK / f"results-{'quick' if args.quick else args.tier}.jsonl", description, args.resume)
    started = time.perf_counter()
    for task in args.tasks:
        measure_task(task, programs[task](args), results, args)
    for shape in SHAPES.values():
        remove_sparse(shape)
    print(f"measured in {(time.perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)
    print(report(results), end="")
    if args.markdown:
        Path(args.markdown).write_text(report(results, as_markdown=True), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(str(failure))
