#!/usr/bin/env python3
"""Trains and measures SparseCBM's settings on CEBaB, one CSV row a setting and seed.

    python3 tests/sweep/sweep.py --model minilm.gguf --data DIR --out DIR [--only PATTERN ...] [--table]

DIR (of --data) holds the CEBaB files. A row that stands in OUT/results.csv is not run again, and a training
that was cut off goes on from its checkpoint: start the same command again. A model that stands in OUT and whose row is
gone is measured anew, not trained: remove both after a setting has changed. Rows come in order of importance.
tests/sweep/results.csv has the rows that the README shows: copy it to OUT to add to them.
--table prints what is there as Markdown and runs nothing. Only Python's own library is needed.
"""

import argparse
import csv
import fnmatch
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / os.environ.get("MAIN", "models/main")
CONCEPTS = ["food", "ambiance", "service", "noise"]
FILES = {part: f"{part}_cebab_new_concept_single.csv" for part in ("train", "dev", "test")}
# At equal epochs: the dense models train as long as the pruned ones. Pruning ends early, so that there are epochs to
# recover in, at twice the learning rate, and the dense model of the same seed is the teacher. It was the best
# on the validation file of what had been tried then; the ablations show what each part gave.
EPOCHS, START, END, RATE = 12, 1, 3, "2e-4"
DENSE = "{out}/dense-joint-{seed}.gguf"
TEACHER = ["--teacher", DENSE]


def pruned(method, sparsity, *more, start=START, end=END, rate=RATE, teacher=True):
    return ["--prune", method, "--sparsity", str(sparsity), "--prune-start", str(start), "--prune-end", str(end),
            "--lr", rate, *(TEACHER if teacher else []), *more]


# name: (mode, options of `train`, seeds, texts of the interventions: 0 is all, None is no interventions)
SETTINGS = {
    "dense joint": ("joint", [], (42, 43, 44), None),
    "obert 0.7": ("joint", pruned("obert", 0.7), (42, 43, 44), 0),
    "vanilla": ("vanilla", [], (42, 43, 44), None),
    "magnitude 0.7": ("joint", pruned("magnitude", 0.7), (42,), 200),
    "obert 0.9": ("joint", pruned("obert", 0.9), (42,), 200),
    "obert 0.5": ("joint", pruned("obert", 0.5), (42,), 200),
    "obert 0.7 published Fisher": ("joint", pruned("obert", 0.7, "--fisher-gradients", "20", "--fisher-block", "50",
                                                   "--damping-absolute", "1e-7"), (42,), 200),
    "random 0.7": ("joint", pruned("random", 0.7), (42,), 200),
    "popup 0.7": ("joint", pruned("popup", 0.7), (42,), 200),
    "popup-structured 0.7": ("joint", pruned("popup-structured", 0.7), (42,), 200),
    "independent obert 0.7": ("independent", pruned("obert", 0.7), (42,), 200),
    "sequential obert 0.7": ("sequential", pruned("obert", 0.7), (42,), 200),
}
# What each part of the recipe gave, one seed.
ABLATIONS = {
    "dense joint, twice the rate": ("joint", ["--lr", RATE], (42,), None),
    "dense joint, with the teacher": ("joint", TEACHER, (42,), None),
    "obert 0.7, half the rate": ("joint", pruned("obert", 0.7, rate="1e-4"), (42,), None),
    "obert 0.7, pruned in epochs 2 to 5": ("joint", pruned("obert", 0.7, start=2, end=5), (42, 43, 44), None),
    "obert 0.7, no teacher": ("joint", pruned("obert", 0.7, teacher=False), (42,), None),
    "obert 0.7, label refit": ("joint", pruned("obert", 0.7, "--refit-label"), (42,), None),
    "obert 0.7, a tenth of the damping": ("joint", pruned("obert", 0.7, "--damping", "0.01"), (42,), None),
    "obert 0.7, half the rate, pruned in epochs 2 to 5": (
        "joint", pruned("obert", 0.7, start=2, end=5, rate="1e-4"), (42,), None),
    "obert 0.7, half the rate, pruned in epochs 2 to 5, no teacher": (
        "joint", pruned("obert", 0.7, start=2, end=5, rate="1e-4", teacher=False), (42,), None),
    "obert 0.7, half the rate, pruned in epochs 2 to 8, no teacher": (
        "joint", pruned("obert", 0.7, start=2, end=8, rate="1e-4", teacher=False), (42,), None),
    "obert 0.7, half the rate, pruned in epochs 1 to 4, from the dense model": (
        "joint", pruned("obert", 0.7, "--init", DENSE, start=1, end=4, rate="1e-4"), (42,), None),
}
INTERVENTIONS = [("mask signed", ["--intervene", "mask", "--select", "signed"]),
                 ("mask whole", ["--intervene", "mask", "--select", "signed", "--whole-steps"]),
                 ("mask abs", ["--intervene", "mask", "--select", "abs"]),
                 ("edit", ["--intervene", "edit"])]
COLUMNS = ["setting", "seed", "label_accuracy", "label_f1", "concept_accuracy", "concept_f1", "best_epoch",
           "valid_label_accuracy", "valid_concept_accuracy"]
for rule, _ in INTERVENTIONS:
    COLUMNS += [f"{rule}: {what}" for what in ("label_before", "label_after", "concepts_wrong", "concepts_fixed",
                                               "labels_fixed", "labels_broken", "moved_bits", "seconds")]
COLUMNS += ["train_seconds", "peak_mib"]


def run(arguments, log, output=subprocess.PIPE):
    """Runs models/main, its messages into `log`; returns what it printed and its peak memory in MiB."""
    with open(log, "a", encoding="utf-8") as messages:
        done = subprocess.Popen([str(MAIN), *arguments], stdout=output, stderr=messages, text=True)
        printed = done.stdout.read() if done.stdout else None
        _, status, usage = os.wait4(done.pid, 0)
    if status:
        sys.exit(f"models/main {' '.join(arguments)} failed; see {log}")
    return printed, usage.ru_maxrss / 1024


def train(args, name, mode, options, seed, model, log):
    files = [str(Path(args.data) / FILES[part]) for part in ("train", "dev")]
    concepts = [] if mode == "vanilla" else [word for c in CONCEPTS for word in ("--concept", f"{c}={c}_aspect_majority")]
    options = [option.format(out=args.out, seed=seed) for option in options]
    done = Path(log).with_suffix(".trained.json")
    if done.exists() and Path(model).exists():  # then only measured anew
        return json.loads(done.read_text(encoding="utf-8"))
    started = time.monotonic()
    # A run that goes on from a checkpoint prints the epochs that it does itself.
    with open(Path(log).with_suffix(".epochs.jsonl"), "a", encoding="utf-8") as epochs:
        _, peak = run(["train", "--encoder", args.model, "--data", files[0], "--validation", files[1], "--text", "description",
                       "--label", "review_majority", *concepts, "--mode", mode, "--epochs", str(EPOCHS), *options,
                       "--seed", str(seed), "--threads", str(args.threads), "--resume", "--json", "-o", model],
                      log, epochs)
    cost = {"train_seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak)}
    done.write_text(json.dumps(cost), encoding="utf-8")
    Path(f"{model}.checkpoint").unlink(missing_ok=True)
    return cost


def best_epoch(log):
    """The epoch whose model was kept, as the training reported it."""
    with open(Path(log).with_suffix(".epochs.jsonl"), encoding="utf-8") as epochs:
        return [epoch for epoch in map(json.loads, epochs) if epoch["best"]][-1]


def paths(args, name, seed):
    stem = Path(args.out) / (re.sub(r"[ ,]+", "-", name) + f"-{seed}")
    return f"{stem}.gguf", f"{stem}.log"


def measure(args, name, seed):
    mode, options, _, texts = {**SETTINGS, **ABLATIONS}[name]
    teacher, teacher_log = paths(args, "dense joint", seed)
    if "--teacher" in options and not Path(teacher).exists():  # its row may be another machine's
        train(args, "dense joint", "joint", [], seed, teacher, teacher_log)
    model, log, test = *paths(args, name, seed), str(Path(args.data) / FILES["test"])
    row = {"setting": name, "seed": seed, **train(args, name, mode, options, seed, model, log)}
    if args.train_only:
        return None
    best = best_epoch(log)
    row |= {"best_epoch": best["epoch"], "valid_label_accuracy": best["label_accuracy"]}
    if mode != "vanilla":
        row["valid_concept_accuracy"] = best["concept_accuracy"]
    evaluate = ["eval", "--model", model, "--data", test, "--threads", str(args.threads), "--json"]
    result = json.loads(run(evaluate, log)[0])
    row["label_accuracy"], row["label_f1"] = result["label"]["accuracy"], result["label"]["macro_f1"]
    if mode != "vanilla":
        row["concept_accuracy"], row["concept_f1"] = result["concepts"]["accuracy"], result["concepts"]["macro_f1"]
    for rule, how in INTERVENTIONS if texts is not None else []:
        started = time.monotonic()
        limit = ["--intervene-texts", str(texts)] if texts else []
        result = json.loads(run([*evaluate, *how, *limit], log)[0])
        row[f"{rule}: label_before"] = result["before"]["label"]["accuracy"]
        row[f"{rule}: label_after"] = result["after"]["label"]["accuracy"]
        for key in ("concepts_wrong", "concepts_fixed", "labels_fixed", "labels_broken", "moved_bits"):
            row[f"{rule}: {key}"] = result[key]
        row[f"{rule}: seconds"] = round(time.monotonic() - started, 1)
    return row


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """All rows anew, then renamed: a run that is killed leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def percent(values):
    values = [100 * float(v) for v in values if v != ""]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def outcome(ours, *what):
    """"label % (F1)" and the like, for each of the columns' prefixes."""
    cells = []
    for w in what:
        accuracy, f1 = (percent([row[f"{w}_{measure}"] for row in ours]) for measure in ("accuracy", "f1"))
        cells.append(f"{accuracy} ({f1})" if accuracy else "–")
    return " | ".join(cells)


def corrected(ours):
    """What each rule did: misread concepts corrected, bits moved for each, labels fixed and broken; label % after it."""
    cells = []
    for rule, _ in INTERVENTIONS:
        total = {key: sum(int(row.get(f"{rule}: {key}") or 0) for row in ours)
                 for key in ("concepts_wrong", "concepts_fixed", "labels_fixed", "labels_broken", "moved_bits")}
        if not total["concepts_wrong"]:
            cells.append("")
            continue
        bits = round(total["moved_bits"] / total["concepts_wrong"])
        cells.append(f"{total['concepts_fixed']} of {total['concepts_wrong']}" + (f", {bits:,} bits" if bits else "") +
                     f"; +{total['labels_fixed']} −{total['labels_broken']}: "
                     f"{percent([row.get(f'{rule}: label_after', '') for row in ours])}")
    return " | ".join(cells)


def cost(ours):
    seconds = statistics.mean(float(row["train_seconds"]) for row in ours)
    return f"{seconds:.0f} s, {max(float(row['peak_mib']) for row in ours):.0f} MiB"


def table(rows):
    rows_of = {name: [row for row in rows if row["setting"] == name] for name in {**SETTINGS, **ABLATIONS}}
    print("| setting | seeds | label % (F1) | concepts % (F1) | training |\n" + "| --- " * 5 + "|")
    for name in SETTINGS:
        if ours := rows_of[name]:
            print(f"| {name} | {len(ours)} | {outcome(ours, 'label', 'concept')} | {cost(ours)} |")
    print("\n| misread concepts set right: how many, mask bits for each; labels fixed and broken: label % | before | "
          + " | ".join(rule for rule, _ in INTERVENTIONS) + " |\n" + "| --- " * (2 + len(INTERVENTIONS)) + "|")
    for name in SETTINGS:
        if ours := [row for row in rows_of[name] if row["mask signed: label_before"]]:
            print(f"| {name} | {percent([row['mask signed: label_before'] for row in ours])} | {corrected(ours)} |")
    print("\n| seed 42 | best epoch | validation: label % | concepts % | test: label % (F1) | concepts % (F1) | training |\n"
          + "| --- " * 7 + "|")
    for name in ["dense joint", "obert 0.7", *ABLATIONS]:
        if ours := [row for row in rows_of[name] if row["seed"] == "42"]:
            valid = " | ".join(percent([row[f"valid_{w}_accuracy"] for row in ours]) for w in ("label", "concept"))
            print(f"| {name} | {ours[0]['best_epoch']} | {valid} | {outcome(ours, 'label', 'concept')} | {cost(ours)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the encoder, a model file")
    parser.add_argument("--data", help="the folder with the CEBaB files")
    parser.add_argument("--out", required=True, help="the folder for models, logs and results.csv")
    parser.add_argument("--only", nargs="+", default=["*"], help="settings, by shell patterns")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="these seeds alone")
    parser.add_argument("--threads", type=int, default=0, help="of each training and evaluation; 0: all cores")
    parser.add_argument("--train-only", action="store_true", help="train the models; their rows come in another run")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    args = parser.parse_args()
    path = Path(args.out) / "results.csv"
    rows = read_rows(path)
    if args.table:
        return table(rows)
    if not args.model or not args.data:
        parser.error("--model and --data are needed to run anything")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for name, (_, _, seeds, _) in {**SETTINGS, **ABLATIONS}.items():
        for seed in seeds:
            known = any(row["setting"] == name and row["seed"] == str(seed) for row in rows)
            if known or seed not in args.seeds or not any(fnmatch.fnmatch(name, pattern) for pattern in args.only):
                continue
            print(f"{name}, seed {seed} …", flush=True)
            if row := measure(args, name, seed):
                rows.append({key: str(value) for key, value in row.items()})
                write_rows(path, rows)


if __name__ == "__main__":
    main()
