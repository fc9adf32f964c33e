"""Embedding speed on CPU or GPU: sentence-transformers' `encode` and aisle's compute types, compared.

    python benchmarks/embed_throughput.py
    python benchmarks/embed_throughput.py --texts questions --rounds 9
    python benchmarks/embed_throughput.py --quality

All contenders share a process and a model, and take turns for several rounds; the figure is the median. The
texts are the distinct texts of the FAQ validation file. `--quality` adds the effect of each product precision
on the protocols of benchmarks/real_data.py; queries are in fp32, as in search. The data folder is
../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import real_data
import torch

from aisle.models.loading import load_encoder

ST = "sentence-transformers"
PRECISIONS = ("fp32", "bf16")


class EncodesProductsIn:
    """An encoder with products in a given precision and queries in fp32."""

    def __init__(self, encoder, precision):
        self.encoder, self.precision = encoder, precision

    def encode_queries(self, queries):
        """Return the embeddings of queries, in fp32."""
        return self.encoder.encode_queries(queries)

    def encode_products(self, products):
        """Return the embeddings of products, in the given precision."""
        return self.encoder.encode_products(products, precision=self.precision)


def faq_texts(kind):
    rows = real_data.rows_of(real_data.DATA / "cloud_faq" / "validation.jsonl")
    fields = {"answers": ("answer",), "questions": ("question",), "both": ("question", "answer")}[kind]
    return list(dict.fromkeys(row[field] for field in fields for row in rows))


def contenders_of(model, precisions):
    """Return the encoder, and each contender's function from texts to embeddings."""
    from sentence_transformers import SentenceTransformer

    from aisle.models.model_source import find_model

    encoder = load_encoder(model)
    peer = SentenceTransformer(str(find_model(model).path), device=encoder.device.type)
    peer.max_seq_length = encoder.settings.max_length
    prompt = encoder.settings.product_prompt
    contenders = {ST: lambda texts: peer.encode([prompt + text for text in texts], normalize_embeddings=True)}
    for precision in precisions:
        contenders[f"aisle {precision}"] = EncodesProductsIn(encoder, precision).encode_products
    return encoder, contenders


def time_in_turns(contenders, texts, rounds):
    """Return each contender's embeddings and its seconds per round, after a warm-up round."""
    embeddings = {name: encode(texts) for name, encode in contenders.items()}
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, encode in contenders.items():
            started = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - started)
    return embeddings, seconds


def speed_rows(contenders, texts, rounds):
    embeddings, seconds = time_in_turns(contenders, texts, rounds)
    peer = seconds[ST]
    rows = {}
    for name, taken in seconds.items():
        cosines = (embeddings[name] * embeddings[ST]).sum(axis=1)
        ratios = [theirs / ours for theirs, ours in zip(peer, taken, strict=True)]
        rows[name] = {
            "texts/s": len(texts) / statistics.median(taken),
            "times peer": statistics.median(ratios),
            "lowest ratio": min(ratios),
            "mean cosine": float(cosines.mean()),
            "min cosine": float(cosines.min()),
        }
    return rows


def quality_rows(encoder, precisions):
    rows = {}
    for precision in precisions:
        under_test = EncodesProductsIn(encoder, precision)
        rows[f"aisle {precision}"] = {
            f"{task} {metric}": value
            for task in ("faq", "scifact", "walmart_amazon", "esci")
            for metric, value in real_data.TASKS[task](under_test).items()
            if metric in ("mrr", "precision@1", "ndcg@10", "roc_auc", "all ndcg@10", "E against all others")
        }
    return rows


def show(rows):
    for name, values in rows.items():
        cells = (
            f"{metric} {value:.1f}" if value > 10 else f"{metric} {value:.4f}"
            for metric, value in values.items()
        )
        print(f"{name}: {', '.join(cells)}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=real_data.BASE)
    parser.add_argument("--texts", choices=("answers", "questions", "both"), default="answers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of lines")
    arguments = parser.parse_args()
    encoder, contenders = contenders_of(arguments.model, arguments.precisions)
    texts = faq_texts(arguments.texts)
    tables = {"speed": speed_rows(contenders, texts, arguments.rounds)}
    if arguments.quality:
        tables["quality"] = quality_rows(encoder, arguments.precisions)
    if arguments.json:
        print(json.dumps({"texts": len(texts), "threads": torch.get_num_threads()} | tables, indent=2))
        return
    print(f"{len(texts)} {arguments.texts}, {torch.get_num_threads()} threads, {encoder.device}")
    for rows in tables.values():
        show(rows)


if __name__ == "__main__":
    main()
