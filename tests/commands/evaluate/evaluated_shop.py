"""A tiny shop with figures that can be worked out by hand; functions that build and evaluate its index."""

import csv
import json

from aisle.cli import index_main

PRODUCTS = [
    ("a", "red sofa", "living"),
    ("b", "blue lamp", "light"),
    ("c", "oak table", "living"),
    ("d", "oak bed", "sleep"),
    ("e", "garden chair", "outside"),
    ("f", "wool rug", "living"),
]
QUERIES = [("1", "red sofa"), ("2", "blue lamp"), ("3", "zeppelin"), ("4", "oak bed for two people")]
QRELS = [("1", "a", 1), ("2", "b", 1), ("3", "c", 1), ("4", "d", 1), ("4", "c", 0.1)]


def write_table(path, header, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_shop(folder):
    """Write catalogue, queries and judgements; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "catalog": write_table(folder / "products.csv", ["product_id", "title", "department"], PRODUCTS),
        "queries": write_table(folder / "queries.csv", ["query_id", "query"], QUERIES),
        "qrels": write_table(folder / "qrels.tsv", ["query-id", "corpus-id", "score"], QRELS, "\t"),
    }


def write_adapter(folder, base):
    """Write a LoRA adapter of random weights over a base model, as PEFT's example saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], init_lora_weights=False)
        model = get_peft_model(AutoModel.from_pretrained(base), config)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def build(model, catalog, index_dir, *flags):
    given = ["--model", model, "--catalog", catalog, "--index_dir", index_dir, "--threads", 1]
    assert index_main(["build", *map(str, [*given, *flags])]) == 0
    return index_dir


def evaluate(capfd, *flags):
    """Run `evaluate --json`; return its exit code, its JSON document and its log."""
    capfd.readouterr()
    code = index_main(["evaluate", *map(str, flags), "--json"])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    return code, json.loads(said.out) if said.out else None, said.err
