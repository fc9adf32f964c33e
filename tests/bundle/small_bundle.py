"""A bundle with a small graph whose embeddings can be computed by hand."""

import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aisle.bundle import parallel_batches
from aisle.bundle.bundle_file import write_bundle_file
from aisle.bundle.bundle_record import Bundle, BundledTokenizer, BundledTower, BundleSource, GateResults

TOKENS = 30_522
"""Tokens of MiniLM's tokenizer."""
SOURCE = "a" * 64
OPSET = 20


def weights(dim, *, seed=0):
    """Return a random vector for each token, (tokens, dim), and the step between positions, (dim,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(TOKENS, dim)).astype(np.float32), rng.normal(size=dim).astype(np.float32)


def embedding(ids, dim, *, seed=0):
    """Return the embedding of a text: the unit vector of the mean of the tokens, each turned by its place."""
    table, step = weights(dim, seed=seed)
    places = np.arange(len(ids), dtype=np.float64)[:, None]
    found = (table[np.asarray(ids)] * np.cos(places * step)).astype(np.float64).mean(axis=0)
    return found / np.linalg.norm(found)


def write_graph(path, dim, *, seed=0, input_name="input_ids", output_name="embeddings"):
    """Write the graph of `embedding`."""
    table, step = weights(dim, seed=seed)
    constants = {
        "table": table,
        "step": step,
        "zero": np.int64(0),
        "one": np.int64(1),
        "column": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", input_name], ["vectors"]),
        helper.make_node("Shape", [input_name], ["length"], start=1, end=2),
        helper.make_node("Squeeze", ["length"], ["tokens"]),
        helper.make_node("Range", ["zero", "tokens", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["places"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["places", "column"], ["rows"]),
        helper.make_node("Mul", ["rows", "step"], ["angles"]),
        helper.make_node("Cos", ["angles"], ["turns"]),
        helper.make_node("Mul", ["vectors", "turns"], ["turned"]),
        helper.make_node("ReduceMean", ["turned", "column"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], [output_name], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info(input_name, TensorProto.INT64, ["texts", "tokens"])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["texts", dim])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_small_bundle(folder, tokenizer_dir, *, dim=8, seed=0, fingerprint=SOURCE, **changes):
    """Write a bundle with MiniLM's tokenizer, and return its contents.

    Args:
        folder: Folder to make.
        tokenizer_dir: Folder with `tokenizer.json`.
        dim: Components of an embedding.
        seed: Seed of the weights.
        fingerprint: Fingerprint of the model that it was exported from.
        **changes: Fields of `Bundle`.
    """
    folder.mkdir(parents=True)
    write_graph(folder / "tower.onnx", dim, seed=seed)
    shutil.copy(tokenizer_dir / "tokenizer.json", folder)
    described = {
        "precision": "fp32",
        "towers": (BundledTower(sides=("query", "product"), graph="tower.onnx", dim=dim),),
        "pooling": "mean",
        "query_prompt": "",
        "product_prompt": "",
        "max_length": 32,
        "normalize": True,
        "tokenizer": BundledTokenizer(pad_token_id=0, unk_token_id=100),
        "source": BundleSource("runs/shop", fingerprint, fingerprint),
        "made_with": {},
        "gates": GateResults(passed=True, figures={}, limits={}),
        "accepted": False,
    }
    return write_bundle_file(folder, Bundle(**{**described, **changes}))


def open_twice(monkeypatch):
    """Let a small bundle have a session of two threads for single texts, and another for batches."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(parallel_batches, "BYTES_PER_THREAD", 1)
