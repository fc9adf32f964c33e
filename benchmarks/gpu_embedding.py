"""Embedding titles on a GPU: sentence-transformers' `encode`, and aisle end to end and in its parts."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from gpu_flops import lengths_of
from throughput_data import MAX_LENGTH

ST_BATCH = 256
"""Texts per batch of sentence-transformers, which is faster on a GPU than its default of 32."""
WARMUP_TITLES = 8192
ST = "sentence-transformers encode"


def embedding_measures(model, titles, device):
    """Return a function for each library, by name; it returns the figures of each way to embed."""
    return {
        ST: lambda: sentence_transformers(model, titles, device),
        "aisle": lambda: aisle(model, titles, device),
    }


def figures(titles, seconds):
    return {
        "texts_per_second": len(titles) / seconds,
        "tokens_per_second": sum(lengths_of(titles)) / seconds,
        "seconds": seconds,
    }


def timed(function, *arguments, **options):
    """Return what a function returned, and its seconds; results are on the host, so the device is done."""
    started = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - started


def sentence_transformers(model, titles, device):
    """Embed with sentence-transformers, in bf16 on a GPU."""
    from sentence_transformers import SentenceTransformer

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    encoder = SentenceTransformer(model.path, device=device, model_kwargs={"dtype": dtype})
    encoder.max_seq_length = MAX_LENGTH
    options = {"batch_size": ST_BATCH, "normalize_embeddings": True}
    encoder.encode(titles[:WARMUP_TITLES], **options)
    return {ST: figures(titles, timed(encoder.encode, titles, **options)[1])}


def aisle(model, titles, device):
    """Embed with aisle: the build's way with its shards on disk, `encode_products`, and the two parts."""
    from aisle.models.loading import load_encoder
    from aisle.types.encoder_settings import Overrides

    encoder = load_encoder(model.path, device=device, overrides=Overrides(max_length=MAX_LENGTH))
    precision = "bf16" if device == "cuda" else "fp32"
    encoder.encode_products(titles[:WARMUP_TITLES], precision=precision)
    with tempfile.TemporaryDirectory() as folder:  # the first build imports its libraries
        build_shards(encoder, titles[:1], Path(folder), precision)
    with tempfile.TemporaryDirectory() as folder:
        build = timed(build_shards, encoder, titles, Path(folder), precision)[1]
    whole = timed(encoder.encode_products, titles, precision=precision)[1]
    tokens, tokenising = timed(encoder.tokenize_products, titles, marked=True)
    alone = timed(encoder.encode_tokens, tokens, precision=precision)[1]
    return {
        "aisle build, end to end": figures(titles, build),
        "aisle encode_products": figures(titles, whole),
        "aisle, tokenising alone": figures(titles, tokenising),
        "aisle, the model alone": figures(titles, alone),
    }


def build_shards(encoder, titles, folder, precision):
    """Embed the titles as `aisle build` does."""
    import pyarrow as pa

    from aisle.commands.indexing.embedding import embed_shards, plan_embeddings
    from aisle.types.columns import TEXT_COLUMN

    products = pa.table({TEXT_COLUMN: titles})
    plan = plan_embeddings(products, None, made_by="benchmark")
    embed_shards(plan, products, encoder, folder, precision=precision, max_tokens=None)
