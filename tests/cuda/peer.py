#!/usr/bin/env python3
"""tests/cuda/peer.py - what the CUDA backend is measured against: PyTorch's best case for the same encoders, and floors

    peer.py check          packed and padded sequences give the same here, on the CPU in f32
    peer.py rates          the GPU's rates: copies, matrix products in bf16, an empty node of a CUDA graph
    peer.py floors         the least that a batch can take: max(bytes over the copy rate, operations over the matrix rate) and the nodes
    peer.py pytorch        bf16, packed sequences, compiled, in CUDA graphs: batches of 1, 8, 32, 256 texts, a step of training with 16

Lengths of texts are those of tests/cuda/lengths.txt, weights are random. Status 77: PyTorch, or a GPU for it, is not here.
"""
import os
import statistics
import sys

SHAPES = {"minilm": (6, 384, 12, 1536), "bert-base": (12, 768, 12, 3072)}  # layers, width, heads, inner width
SUBNETWORKS, BATCHES, TRAIN_BATCH = (1, 4, 10), (1, 8, 32, 256), 16
VOCABULARY, POSITIONS, NODES_A_LAYER, OTHER_NODES = 30522, 512, 7, 6


def skip(why):
    print(why)
    sys.exit(77)


def lengths(n):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lengths.txt")) as file:
        return [int(number) for number in file.read().split()][:n]


def torch_with_gpu():
    if not torch.cuda.is_available():
        skip("PyTorch is here, and no GPU that it can use")


def milliseconds(run, repeats=20):
    """The median of the GPU's time for a call."""
    times = []
    for i in range(repeats + 5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i >= 5:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def graph_of(run):
    """run() as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class Batch:
    """Texts that lie end to end: where they begin, and where each token is among texts of one length."""

    def __init__(self, sizes, device):
        self.n, self.longest, self.tokens = len(sizes), max(sizes), sum(sizes)
        self.offsets = torch.tensor([sum(sizes[:i]) for i in range(len(sizes) + 1)], dtype=torch.int32, device=device)
        self.text = torch.repeat_interleave(torch.arange(self.n), torch.tensor(sizes)).to(device)
        self.position = torch.cat([torch.arange(size) for size in sizes]).to(device)
        self.place = self.text * self.longest + self.position
        self.seen = (torch.arange(self.longest) < torch.tensor(sizes)[:, None])[:, None, None, :].to(device)
        self.sizes = torch.tensor(sizes, dtype=torch.float32, device=device)[:, None]
        self.ids = torch.randint(0, VOCABULARY, (self.tokens,), generator=torch.Generator().manual_seed(1)).to(device)


def padded_attention(q, k, v, batch):
    """The linear layers stay packed; queries, keys and values [tokens, heads, size] are spread over texts of one length."""

    def spread(x):
        wide = x.new_zeros((batch.n * batch.longest, *x.shape[1:]))
        return wide.index_copy(0, batch.place, x).view(batch.n, batch.longest, *x.shape[1:]).transpose(1, 2)

    y = F.scaled_dot_product_attention(spread(q), spread(k), spread(v), attn_mask=batch.seen)
    return y.transpose(1, 2).flatten(0, 1).index_select(0, batch.place)


def packed_attention(q, k, v, batch):
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, batch.offsets, batch.offsets, batch.longest, batch.longest)


def text_by_text_attention(q, k, v, batch):
    parts = []
    for n in range(batch.n):
        one = slice(int(batch.offsets[n]), int(batch.offsets[n + 1]))
        parts.append(F.scaled_dot_product_attention(*(x[one].transpose(0, 1) for x in (q, k, v))).transpose(0, 1))
    return torch.cat(parts)


def best_attention():
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return padded_attention, "SDPA on padded texts"
    return packed_attention, "varlen attention"


def make_encoder(shape, device, dtype, attend):
    layers, width, heads, inner = SHAPES[shape]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x, batch):
            q, k, v = self.qkv(x).view(-1, 3, heads, width // heads).unbind(1)
            x = self.first(x + self.out(attend(q, k, v, batch).flatten(1)))
            return self.second(x + self.down(F.gelu(self.up(x))))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(POSITIONS, width)
            self.norm = nn.LayerNorm(width)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))

        def forward(self, batch):
            x = self.norm(self.words(batch.ids) + self.positions(batch.position))
            for layer in self.layers:
                x = layer(x, batch)
            return x.new_zeros((batch.n, width)).index_add(0, batch.text, x) / batch.sizes.to(x.dtype)

    torch.manual_seed(7)
    return Encoder().to(device=device, dtype=dtype)


def check():
    batch = Batch(lengths(8), "cpu")
    with torch.no_grad():
        results = [make_encoder("minilm", "cpu", torch.float32, attend)(batch)
                   for attend in (padded_attention, text_by_text_attention)]
    off = (results[0] - results[1]).abs().max().item()
    print(f"texts that are padded and texts alone are at most {off:.2g} apart (1e-4 is the bound)")
    sys.exit(off > 1e-4)


def measured_rates():
    a = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    b = torch.empty_like(a)
    x, y = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    one, nodes = torch.zeros(1, device="cuda"), 1000

    def many():
        for _ in range(nodes):
            one.zero_()

    copied = 2 * a.numel() * 4 / milliseconds(lambda: b.copy_(a)) * 1e-6
    multiplied = 2 * 8192**3 / milliseconds(lambda: torch.mm(x, y)) * 1e-9
    return copied, multiplied, milliseconds(graph_of(many)) / nodes


def rates():
    torch_with_gpu()
    copied, multiplied, node = measured_rates()
    print(f"copies {copied:.0f} GB/s, bf16 products {multiplied:.0f} Tflop/s, an empty node {node * 1e3:.2f} us")


def floors():
    torch_with_gpu()
    copied, multiplied, node = measured_rates()
    for shape, (layers, width, _, inner) in SHAPES.items():
        weights = layers * (4 * width * width + 2 * width * inner)
        for k in SUBNETWORKS:
            for n in BATCHES:
                sizes = lengths(n)
                bytes_read = 4 * weights + k * weights / 8
                operations = 2 * k * sum(sizes) * weights + 4 * k * layers * width * sum(size * size for size in sizes)
                read, computed = bytes_read / copied * 1e-6, operations / multiplied * 1e-9
                waited = (NODES_A_LAYER * layers + OTHER_NODES) * node
                print(f"{shape}, K = {k}, {n} texts, {sum(sizes)} tokens: floor {max(read, computed) + waited:.3f} ms "
                      f"(weights {read:.3f}, operations {computed:.3f}, nodes {waited:.3f})", flush=True)


def pytorch():
    torch_with_gpu()
    attend, name = best_attention()
    for shape in SHAPES:
        model = torch.compile(make_encoder(shape, "cuda", torch.bfloat16, attend).eval(), dynamic=False)
        for n in BATCHES:
            batch = Batch(lengths(n), "cuda")
            with torch.no_grad():
                took = milliseconds(graph_of(lambda: model(batch)))
            print(f"{shape}, {n} texts, {batch.tokens} tokens: {took:.3f} ms a pass, K = 4: {4 * took:.3f}, K = 10: "
                  f"{10 * took:.3f} (bf16, {name}, compiled, CUDA graph; "
                  "the GPU's time, ids there already)", flush=True)
        model = torch.compile(make_encoder(shape, "cuda", torch.float32, attend), dynamic=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True, capturable=True)
        batch = Batch(lengths(TRAIN_BATCH), "cuda")

        def step():
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        took = milliseconds(step)
        print(f"{shape}, a step of training with {TRAIN_BATCH} texts: {took:.3f} ms (bf16, {name}, compiled, no graph, "
              "no subnetworks)", flush=True)


PARTS = {"check": check, "rates": rates, "floors": floors, "pytorch": pytorch}
if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
    print("usage: peer.py " + "|".join(PARTS))
    sys.exit(2)
try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    skip("PyTorch is not on this machine")
try:
    PARTS[sys.argv[1]]()
except (RuntimeError, NotImplementedError) as error:
    print(f"peer.py {sys.argv[1]}: {str(error).splitlines()[0]}")
    sys.exit(1)
