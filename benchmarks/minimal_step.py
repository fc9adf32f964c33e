"""What a GPU allows: a LoRA training step of BERT's shape with nothing around it, eager or as a CUDA graph.

Random weights and tokens, the arithmetic of a real step: embeddings, post-norm layers, LoRA on query, key and
value as one low-rank product, Flash Attention over packed texts, mean pooling, cosine-target, AdamW on the
adapters. Shapes are static: tokens are rounded up to a multiple of 256 and the surplus is a dummy text, so
that the step can be captured. No dropout, no clipping, no data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from throughput_contenders import LEAST_STEPS, LORA_RANK, cosine_target, peak_memory_gib
from throughput_data import (
    ESCI_POSITIVES,
    MAX_LENGTH,
    QUERY_LOG_TOKENS,
    SHAPES,
    SPECIAL_TOKENS,
    TITLE_LOG_TOKENS,
)
from torch.nn.functional import (
    embedding,
    gelu,
    layer_norm,
    linear,
    normalize,
    scaled_dot_product_attention,
)

VOCABULARY = 30_522
POSITIONS = 512
CAPACITY = 256
SCALE = 2.0
WARMUP_STEPS = 3


@dataclass(frozen=True)
class PackedTexts:
    """Random texts of pairs, longest first, and a dummy text that fills up the capacity.

    Args:
        real: Number of tokens without the dummy text.
        longest: Tokens of the longest text, the dummy text included.
        ids, positions, text: (capacity,) token, its position in its text, and its text.
        offsets: (texts + 2,) int32 start of each text, and the end.
        share: (capacity,) 1 / length of the token's text, for mean pooling.
        queries, titles: (pairs,) number of each pair's query and title among the texts.
        relevance: (pairs,) 0 or 1.
    """

    real: int
    longest: int
    ids: torch.Tensor
    positions: torch.Tensor
    text: torch.Tensor
    offsets: torch.Tensor
    share: torch.Tensor
    queries: torch.Tensor
    titles: torch.Tensor
    relevance: torch.Tensor


def packed_texts(pairs, device):
    draw = np.random.default_rng(0)
    logs = (QUERY_LOG_TOKENS, TITLE_LOG_TOKENS)
    drawn = np.concatenate([np.round(draw.lognormal(*log_tokens, pairs)) for log_tokens in logs])
    lengths = np.clip(drawn, 1, MAX_LENGTH - SPECIAL_TOKENS).astype(int) + SPECIAL_TOKENS
    order = np.argsort(-lengths)
    place, lengths = np.argsort(order), lengths[order]
    real = int(lengths.sum())
    lengths = np.append(lengths, -real % CAPACITY)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    text = np.repeat(np.arange(len(lengths)), lengths)

    def there(array, dtype=None):
        return torch.from_numpy(array).to(device, dtype)

    return PackedTexts(
        real=real,
        longest=int(lengths.max()),
        ids=there(draw.integers(5, VOCABULARY, len(text))),
        positions=there(np.arange(len(text)) - starts[text]),
        text=there(text),
        offsets=there(starts, torch.int32),
        share=there(1 / lengths[text], torch.float32),
        queries=there(place[:pairs]),
        titles=there(place[pairs:]),
        relevance=there(draw.random(pairs) < ESCI_POSITIVES, torch.float32),
    )


def attention(query, key, value, texts):
    """Return self-attention within each text: (tokens, heads, size)."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(query, key, value, texts.offsets, texts.offsets, texts.longest, texts.longest)
    lengths = texts.offsets.diff().tolist()
    parts = zip(*(heads.transpose(0, 1).split(lengths, 1) for heads in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part) for part in parts], 1).transpose(0, 1)


class MinimalStep:
    """A training step of static shape; a call computes it and returns the loss, still on the device.

    Args:
        pairs: Pairs of the batch.
        shape: Name of a shape of `SHAPES`.
        device: cuda computes in bf16, cpu in float32.
    """

    def __init__(self, pairs, shape, device):
        sizes = SHAPES[shape]
        self.width, self.heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.draw = torch.Generator(device).manual_seed(0)
        self.device = device
        self.words, self.places = self._frozen(VOCABULARY, self.width), self._frozen(POSITIONS, self.width)
        inner = sizes["intermediate_size"]
        self.layers = [self._layer_weights(inner) for _ in range(sizes["num_hidden_layers"])]
        self.trained = [weight for layer in self.layers for weight in layer[:2]]
        for weight in self.trained:
            weight.grad = torch.zeros_like(weight)
        gpu = device == "cuda"
        self.optimizer = torch.optim.AdamW(self.trained, lr=5e-4, capturable=gpu, fused=gpu)
        self.texts = packed_texts(pairs, device)

    def _frozen(self, *shape):
        return torch.randn(*shape, generator=self.draw, device=self.device).mul_(0.02).to(self.dtype)

    def _layer_weights(self, inner):
        width = self.width
        down = torch.randn(3 * LORA_RANK, width, generator=self.draw, device=self.device).mul_(0.02)
        up = torch.zeros(3, width, LORA_RANK, device=self.device)
        qkv, out = (self._frozen(rows, width) for rows in (3 * width, width))
        wide, narrow = self._frozen(inner, width), self._frozen(width, inner)
        biases = [self._frozen(rows) for rows in (3 * width, width, inner, width)]
        norms = [torch.ones(width, device=self.device, dtype=self.dtype) for _ in range(2)]
        return down.requires_grad_(), up.requires_grad_(), qkv, out, wide, narrow, *biases, *norms

    def _layer(self, hidden, weights):
        down, up, qkv, out, wide, narrow, qkv_bias, out_bias, wide_bias, narrow_bias, *norms = weights
        low = linear(hidden, down.to(self.dtype))  # one product for query, key and value
        block = torch.block_diag(*up.to(self.dtype).unbind(0))
        three = torch.addmm(linear(hidden, qkv, qkv_bias), low, block.t(), alpha=SCALE)
        heads = (
            part.reshape(len(hidden), self.heads, -1).contiguous() for part in three.split(self.width, 1)
        )
        attended = attention(*heads, self.texts).reshape(len(hidden), self.width)
        hidden = layer_norm(hidden + linear(attended, out, out_bias), (self.width,), norms[0])
        inner = linear(gelu(linear(hidden, wide, wide_bias)), narrow, narrow_bias)
        return layer_norm(hidden + inner, (self.width,), norms[1])

    def __call__(self):
        """Take a step and return its loss."""
        texts = self.texts
        hidden = embedding(texts.ids, self.words) + embedding(texts.positions, self.places)
        for weights in self.layers:
            hidden = self._layer(hidden, weights)
        sums = torch.zeros(len(texts.offsets) - 1, self.width, device=self.device)
        pooled = sums.index_add_(0, texts.text, hidden.float() * texts.share[:, None])
        embeddings = normalize(pooled, dim=1)
        loss = cosine_target(embeddings[texts.queries], embeddings[texts.titles], texts.relevance)
        for weight, gradient in zip(self.trained, torch.autograd.grad(loss, self.trained), strict=True):
            weight.grad.copy_(gradient)
        self.optimizer.step()
        return loss.detach()


def captured(step):
    """Return a step's CUDA graph, to be replayed; the step must have run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def minimal_step(job, shape, *, graph):
    """Return the figures of the minimal step at the job's batch."""
    step = MinimalStep(job.batch, shape, job.device)
    side = torch.cuda.Stream() if job.device == "cuda" else None
    if side is not None:
        side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture needs steps on another stream before it
        for _ in range(WARMUP_STEPS):
            loss = step()
    if side is not None:
        torch.cuda.current_stream().wait_stream(side)
    run = captured(step) if graph else step
    run()
    return {**rates(run, step, job), "final_loss": float(loss)}


def rates(run, step, job):
    def wait():
        if job.device == "cuda":
            torch.cuda.synchronize()

    wait()
    started, steps = time.perf_counter(), 0
    while steps < job.steps - job.warmup_steps:
        run()
        steps += 1
        if steps >= LEAST_STEPS and job.seconds and time.perf_counter() - started > job.seconds:
            break
    wait()
    seconds = time.perf_counter() - started
    return {
        "pairs_per_second": steps * job.batch / seconds,
        "tokens_per_second": steps * step.texts.real / seconds,
        "padding_share": 1 - step.texts.real / len(step.texts.ids),
        "peak_memory_gib": peak_memory_gib(job.device),
        "timed_steps": steps,
    }
