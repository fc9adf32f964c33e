"""Rows, models and jobs for the speed benchmarks: real files, ESCI's text lengths, weights by geometry."""

from __future__ import annotations

import csv
import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from aisle.models.model_source import find_model

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data"))
DATA_SETS = ("faq", "walmart_amazon", "wdc", "esci_lengths")
GEOMETRIES = ("minilm", "bert_large", "tiny")
SHAPES = {
    "bert_large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
SPECIAL_TOKENS = 2
MAX_LENGTH = 70
ESCI_ROWS = 40_000
ESCI_QUERIES = 20_888  # in the release's small US training split, with about twenty products each
ESCI_POSITIVES = 0.44
# Mean and deviation of log(tokens), without special tokens, of the 1,199 real rows in the data folder: on
# average 5 per query and 27 per title. Fixed here, so that a machine without the data measures the same.
QUERY_LOG_TOKENS = (1.48, 0.55)
TITLE_LOG_TOKENS = (3.15, 0.58)
MOST_LOGGED_STEPS = 10


@dataclass(frozen=True)
class DataSet:
    """Files and columns of a data set; `test_file`, if present, is scored after training."""

    train_file: str
    query_column: str
    product_column: str
    label_column: str | None
    test_file: str | None


@dataclass(frozen=True)
class Job:
    """Settings that all contenders share.

    Args:
        model: Folder of the base model.
        data: Rows to train on.
        batch: Pairs per step.
        steps: Optimiser steps in all, over several epochs if the rows do not suffice.
        warmup_steps: Untimed first steps.
        learning_rate: Learning rate of the first step; it falls linearly to zero.
        device: cpu or cuda.
        our_flags: Further flags of train_peft.py, in a string.
        seconds: Contenders in one process stop when their timed steps took this long; None runs all steps.
    """

    model: str
    data: DataSet
    batch: int
    steps: int
    warmup_steps: int
    learning_rate: float
    device: str
    our_flags: str = ""
    seconds: float | None = None

    @property
    def logging_steps(self) -> int:
        """Steps per mean of the loss; they divide the run, so that the last means are comparable."""
        return max(size for size in range(1, MOST_LOGGED_STEPS + 1) if self.steps % size == 0)


def read_rows(data, path):
    """Return queries, products and labels of a csv or jsonl file; without labels, all are 1."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [json.loads(line) for line in file] if path.endswith(".jsonl") else list(csv.DictReader(file))
    labels = [1.0 if data.label_column is None else float(row[data.label_column]) for row in rows]
    return [row[data.query_column] for row in rows], [row[data.product_column] for row in rows], labels


def write_validation(data, folder, rows=200):
    """Write a few training rows as validation data; evaluation is not measured."""
    path = Path(folder) / f"validation{Path(data.train_file).suffix}"
    with Path(data.train_file).open(encoding="utf-8") as file:
        path.write_text("".join(line for line, _ in zip(file, range(rows), strict=False)), encoding="utf-8")
    return path


def make_data(name, folder):
    """Return a data set by name, or from a csv or jsonl file of positives with columns query and product."""
    if name == "faq":
        where = DATA / "cloud_faq"
        return DataSet(
            str(where / "train.jsonl"), "question", "answer", None, str(where / "validation.jsonl")
        )
    if name in ("walmart_amazon", "wdc"):
        stem = "wdc_all_small" if name == "wdc" else name
        files = [str(DATA / "product_pairs" / f"{stem}_{split}.csv") for split in ("train", "test")]
        return DataSet(files[0], "title_a", "title_b", "match", files[1])
    if name == "esci_lengths":
        return DataSet(str(esci_lengths(Path(folder))), "query", "product_title", "relevance", None)
    return DataSet(name, "query", "product", None, None)


def random_text(draw, words, log_tokens):
    """Return random words, as many as ESCI's texts have tokens; each word must be a single token.

    Args:
        draw: Python's random numbers.
        words: Words to draw from.
        log_tokens: Mean and deviation of the logarithm of the number of tokens.
    """
    tokens = min(max(1, round(draw.lognormvariate(*log_tokens))), MAX_LENGTH - SPECIAL_TOKENS)
    return " ".join(draw.choices(words, k=tokens))


def esci_lengths(folder, rows=ESCI_ROWS, words=None):
    """Write judged pairs of random words with ESCI's text lengths in tokens, and return the file.

    `words` are single tokens of the model's tokenizer; by default, of MiniLM's. The pairs are a random sample
    over as many queries as ESCI has, so that two pairs of a batch share a query as rarely as in ESCI. This
    matters to contenders that encode each text of a batch once.
    """
    draw = random.Random(0)
    words = words or single_token_words()
    queries = [random_text(draw, words, QUERY_LOG_TOKENS) for _ in range(ESCI_QUERIES)]
    path = folder / "esci_lengths.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "product_title", "relevance"])
        for _ in range(rows):
            relevance = int(draw.random() < ESCI_POSITIVES)
            title = random_text(draw, words, TITLE_LOG_TOKENS)
            writer.writerow([draw.choice(queries), title, relevance])
    return path


def single_token_words():
    """Return the words that are a single token for MiniLM's tokenizer, sorted."""
    tokenizer = json.loads((find_model("all-MiniLM-L6-v2").path / "tokenizer.json").read_text("utf-8"))
    return sorted(word for word in tokenizer["model"]["vocab"] if word.isascii() and word.isalpha())


def make_geometry(name, folder):
    """Return the folder of a model: MiniLM, or a BERT of the given shape with random weights."""
    if name == "minilm":
        return str(find_model("all-MiniLM-L6-v2").path)
    return in_own_process(_random_weights, name, str(folder))


def in_own_process(function, *arguments):
    """Call a function in a fresh process and return its result.

    Linux counts a parent's peak memory towards its children (getrusage(2), `ru_maxrss` outlives exec), so
    that a model in the parent would show in every contender's figure.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _random_weights(name, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_model("all-MiniLM-L6-v2").path)
    return write_random_model(name, tokenizer, Path(folder) / name)


def write_random_model(name, tokenizer, path, device="cpu"):
    """Write a BERT of a shape of `SHAPES` with random weights and the tokenizer, and return the folder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    with torch.device(device):
        model = BertModel(BertConfig(vocab_size=len(tokenizer), **SHAPES[name]), add_pooling_layer=False)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
