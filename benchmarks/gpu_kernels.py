"""The Triton kernels compared with Flash Attention and with torch's operations, on texts of ESCI's lengths.

    python benchmarks/gpu_kernels.py                # e5-large-v2's shape; 64, 256 and 1,024 pairs of texts
    python benchmarks/gpu_kernels.py --sweep        # also other tiles, warps, heads and rows
    TRITON_INTERPRET=1 python benchmarks/gpu_kernels.py --tiny   # on a CPU: shows that it runs

Prints microseconds of a forward pass, and of a forward and backward pass, and the traffic of the second in
GB/s: what must be read and written once. Each is captured as a CUDA graph of several calls, so that the host
does not count. The first minute compiles the kernels.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from aisle.kernels.flash_attention import AttentionOptions, flash_attention
from aisle.text.token_batches import PackedBatch

try:
    from aisle.kernels import add_norm as norms
    from aisle.kernels import short_attention as attention
except ModuleNotFoundError:  # Triton is missing, see main()
    norms = attention = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16
CALLS, REPLAYS = 10, 5
RATE = 0.1
Pass = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="a shape for the interpreter")
    parser.add_argument("--sweep", action="store_true", help="try other numbers of warps, heads and rows")
    options = parser.parse_args()
    if attention is None:
        raise SystemExit(
            "Triton is not installed: torch for CUDA brings it; without a GPU, pip install triton"
        )
    if options.tiny:
        options.pairs, options.heads, options.head_dim = [3], 2, 32
    print(torch.cuda.get_device_name() if not INTERPRETED else "interpreted", torch.__version__)
    for pairs in options.pairs:
        lengths = esci_lengths(pairs)
        print(f"\n{pairs} pairs, {lengths.sum():,} tokens, longest {lengths.max()}")
        compare_attention(lengths, options.heads, options.head_dim)
        compare_norms(int(lengths.sum()), options.heads * options.head_dim)
    if options.sweep:
        sweep_attention(esci_lengths(max(options.pairs)), options.heads, options.head_dim)
        for pairs in options.pairs:
            sweep_tiles(esci_lengths(pairs), options.heads, options.head_dim)
        sweep_norms(int(esci_lengths(max(options.pairs)).sum()), options.heads * options.head_dim)


def esci_lengths(pairs: int) -> np.ndarray:
    """Return tokens of the queries and titles of pairs, longest first."""
    draw = np.random.default_rng(0)
    logarithms = ((1.48, 0.55), (3.15, 0.58))
    sides = [np.clip(np.round(draw.lognormal(*each, pairs)), 1, 68).astype(int) + 2 for each in logarithms]
    return -np.sort(-np.concatenate(sides))


def batch_of(lengths: np.ndarray) -> PackedBatch:
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    tokens = torch.zeros(int(lengths.sum()), dtype=torch.long)
    runs = tuple((1, int(length)) for length in lengths)
    batch = PackedBatch(tokens, tokens, offsets, runs, longest=int(lengths.max()), texts=len(lengths))
    return batch.to(DEVICE)


def random_heads(tokens: int, heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a joint projection, (tokens, 3, heads, head_dim), and a gradient of the attention."""
    joint = torch.randn(tokens, 3, heads, head_dim, device=DEVICE).to(DTYPE).requires_grad_()
    return joint, torch.randn(tokens, heads, head_dim, device=DEVICE).to(DTYPE)


def compare_attention(lengths: np.ndarray, heads: int, head_dim: int) -> None:
    batch = batch_of(lengths)
    joint, gradient = random_heads(batch.read_tokens, heads, head_dim)
    # Leaves, so that gradients are not copied into those of the joint projection.
    parts = [one.detach().requires_grad_() for one in joint.unbind(1)]
    once = gradient.numel() * gradient.element_size()
    for rate in (0.0, RATE):
        ours = partial(
            attention.short_attention,
            *parts,
            batch.offsets,
            longest=batch.longest,
            scaling=head_dim**-0.5,
            dropout=rate,
        )
        flash = partial(flash_attention, *parts, batch, AttentionOptions(dropout=rate))
        contenders = {"short_attention": ours} if INTERPRETED else {"short_attention": ours, "flash": flash}
        for name, forward in contenders.items():
            report(f"{name}, dropout {rate}", forward, parts, gradient, 11 * once)


def compare_norms(tokens: int, width: int) -> None:
    hidden, residual, gradient = (torch.randn(tokens, width, device=DEVICE).to(DTYPE) for _ in range(3))
    weight, bias = (torch.randn(width, device=DEVICE).to(DTYPE) for _ in range(2))
    inputs = [hidden.requires_grad_(), residual.requires_grad_()]
    once = gradient.numel() * gradient.element_size()
    for rate in (0.0, RATE):
        ours = partial(norms.add_norm, *inputs, weight, bias, epsilon=1e-12, dropout=rate)

        def separate(rate: float = rate) -> torch.Tensor:
            total = functional.dropout(hidden, rate) + residual
            return functional.layer_norm(total, (width,), weight, bias, 1e-12)

        for name, forward in (("add_norm", ours), ("separate", separate)):
            report(f"{name}, dropout {rate}", forward, inputs, gradient, (8 if rate else 7) * once)


def report(
    name: str,
    forward: Callable[[], torch.Tensor],
    inputs: list[torch.Tensor],
    gradient: torch.Tensor,
    traffic: int,
) -> None:
    alone = microseconds(forward)
    both = microseconds(lambda: torch.autograd.grad(forward(), inputs, gradient))
    print(
        f"  {name:<32} {alone:9.1f} us forward {both:9.1f} us both {traffic / both / 1e3:8.0f} GB/s",
        flush=True,
    )


def microseconds(function: Pass) -> float:
    """Return the microseconds of a call: the least of some replays of a CUDA graph of several calls."""
    if INTERPRETED:
        started = time.perf_counter()
        function()
        return (time.perf_counter() - started) * 1e6
    replay = captured(function)
    replay()
    took = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay()
        end.record()
        end.synchronize()
        took.append(start.elapsed_time(end) * 1e3 / CALLS)
    return min(took)


def captured(function: Pass) -> Pass:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            function()
    return graph.replay


def sweep_attention(lengths: np.ndarray, heads: int, head_dim: int) -> None:
    """Print the time of each tile's texts by the warps and the heads of a program."""
    usual, enough = dict(attention.WARPS), attention.ENOUGH_PROGRAMS
    shorter = 0
    for tile in usual:
        texts = lengths[(lengths > shorter) & (lengths <= tile)]
        shorter = tile
        if not len(texts):
            continue
        batch = batch_of(texts)
        joint, gradient = random_heads(batch.read_tokens, heads, head_dim)
        parts = [one.detach().requires_grad_() for one in joint.unbind(1)]
        for each, name in ((1 << 40, "1 head"), (1, "4 heads")):
            attention.ENOUGH_PROGRAMS = each
            for warps in sorted({max(1, usual[tile][1] // 2), usual[tile][1], 2 * usual[tile][1]}):
                # Without the smaller tiles, which have no texts here.
                attention.WARPS = {tile: (warps, warps)}
                forward = partial(
                    attention.short_attention, *parts, batch.offsets, longest=tile, scaling=head_dim**-0.5
                )
                traffic = 11 * gradient.numel() * gradient.element_size()
                report(f"tile {tile}, {name}, {warps} warps", forward, parts, gradient, traffic)
    attention.WARPS, attention.ENOUGH_PROGRAMS = usual, enough


def sweep_tiles(lengths: np.ndarray, heads: int, head_dim: int) -> None:
    """Print the time of all texts with fewer sizes of tiles, each of which is a kernel."""
    usual = attention.WARPS
    batch = batch_of(lengths)
    joint, gradient = random_heads(batch.read_tokens, heads, head_dim)
    parts = [one.detach().requires_grad_() for one in joint.unbind(1)]
    for tiles in (tuple(usual), (32, 64, 128), (16, 64, 128), (32, 128), (64, 128)):
        attention.WARPS = {tile: usual[tile] for tile in tiles}
        forward = partial(
            attention.short_attention,
            *parts,
            batch.offsets,
            longest=batch.longest,
            scaling=head_dim**-0.5,
        )
        traffic = 11 * gradient.numel() * gradient.element_size()
        report(f"{len(lengths):,} texts, tiles {tiles}", forward, parts, gradient, traffic)
    attention.WARPS = usual


def sweep_norms(tokens: int, width: int) -> None:
    """Print the time by the values of a warp and the rows of a program."""
    usual = norms.WARP_VALUES, norms.ROWS
    for values in (256, 512, 1024):
        for rows in (1, 4, 8):
            norms.WARP_VALUES, norms.ROWS = values, rows
            print(f"{values} values a warp, {rows} rows a program")
            compare_norms(tokens, width)
    norms.WARP_VALUES, norms.ROWS = usual


if __name__ == "__main__":
    main()
