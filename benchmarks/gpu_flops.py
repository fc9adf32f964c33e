"""Floating-point operations of training and embedding, and the rate of a large matrix product.

Operations per real token, from the model's shape; 2 per weight, token and pass, after
https://arxiv.org/abs/2001.08361, section 2.1. Padding does not count.

    LoRA training   4 N + 6 A + 12 L h s
    embedding       2 N +        4 L h s

N: frozen weights outside the embeddings; 2 N forward and 2 N backward, because only activations get gradients
(counted for the first layer's inputs too, which need no gradients: half a percent too much in 24 layers).
A: the adapter's weights; their gradients take another 2 A.
L layers of width h: attention is 4 h per pair of tokens and layer forward (scores and weighted sum), twice
that backward; s is the mean of the texts' squared lengths over their mean length.
"""

from __future__ import annotations

import statistics
import time

import torch
from throughput_contenders import LORA_RANK
from throughput_data import MAX_LENGTH, SHAPES, SPECIAL_TOKENS

MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}
ROUNDS = 30
LORA_MODULES = 3


def matmul_flops_per_second(device, dtype):
    """Return the median rate of large square matrix products of random numbers."""
    size, seconds = MATRIX_SIZE[device], []
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(ROUNDS):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[ROUNDS // 3 :])


def training_flops(shape, texts):
    """Return the operations per real token of LoRA training; words are tokens."""
    layers, width, frozen = _sizes(shape)
    adapter = layers * LORA_MODULES * 2 * width * LORA_RANK
    return 4 * frozen + 6 * adapter + 12 * layers * width * _attended(texts)


def embedding_flops(shape, texts):
    """Return the operations per real token of embedding; words are tokens."""
    layers, width, frozen = _sizes(shape)
    return 2 * frozen + 4 * layers * width * _attended(texts)


def lengths_of(texts):
    """Return the lengths of texts in tokens; words are tokens."""
    return [min(len(text.split()) + SPECIAL_TOKENS, MAX_LENGTH) for text in texts]


def _sizes(shape):
    sizes = SHAPES[shape]
    layers, width = sizes["num_hidden_layers"], sizes["hidden_size"]
    return layers, width, layers * (4 * width**2 + 2 * width * sizes["intermediate_size"])


def _attended(texts):
    lengths = lengths_of(texts)
    return sum(length**2 for length in lengths) / sum(lengths)
