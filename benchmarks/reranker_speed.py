"""Time a reranker's bundle beside sentence-transformers' CrossEncoder: 50 candidates of 64 tokens.

    python benchmarks/reranker_speed.py

The model has MiniLM's shape (6 layers, 384 dimensions) with a random head. All rank the same pairs in turns,
with two threads, and the median of the rounds counts. All pairs have 64 tokens, so CrossEncoder pads nothing.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from aisle.bundle.onnx_reranker import load_reranker_bundle
from aisle.export.sample_texts import sample_shop_texts
from aisle.export.write_reranker_bundle import write_reranker_bundle
from aisle.models.cross_encoder_loading import load_cross_encoder
from aisle.models.cross_encoder_persistence import save_cross_encoder
from aisle.models.model_source import find_model
from aisle.models.torch_reranker import load_torch_reranker

CANDIDATES, TOKENS, THREADS = 50, 64, 2


def main():
    """Print the median milliseconds of each contender as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    pairs, scorers, gates = pairs_of_64_tokens(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        loaded = load_cross_encoder(find_model(given.model), max_length=TOKENS, new_head_seed=1)
        save_cross_encoder(run, model=loaded.cross_encoder(), weights={}, loaded=loaded, lora=None)
        for precision in ("int8", "fp32"):
            bundle = Path(folder) / precision
            written = write_reranker_bundle(
                load_torch_reranker(run, device="cpu"),
                bundle,
                precision=precision,
                sample=sample_shop_texts(),
                accept=True,
            )
            gates[precision] = {"passed": written.gates.passed, **written.gates.figures}
            exported = load_reranker_bundle(bundle)
            scorers[precision] = exported.score
        model = CrossEncoder(str(run), device="cpu")
        scorers["sentence_transformers"] = partial(
            model.predict, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        lengths = sorted(set(exported.tokenize(pairs).lengths().tolist()))
        scores = {name: np.asarray(score(pairs)) for name, score in scorers.items()}  # also warms up
        seconds = {name: [] for name in scorers}
        for _ in range(given.rounds):
            for name, score in scorers.items():
                started = time.perf_counter()
                score(pairs)
                seconds[name].append(time.perf_counter() - started)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    theirs = "sentence_transformers"
    figures = {
        "candidates": len(pairs),
        "tokens": lengths,
        "median_ms": {name: round(value, 1) for name, value in medians.items()},
        "times_faster": {name: round(medians[theirs] / medians[name], 2) for name in ("int8", "fp32")},
        "fp32_difference": float(np.abs(scores["fp32"] - scores[theirs]).max()),
        "gates": gates,
    }
    print(json.dumps(figures, indent=2))


def pairs_of_64_tokens():
    """Return a query with texts that are cut to 64 tokens with it."""
    words = " ".join(sample_shop_texts().products[-4:]).split()
    texts = [" ".join(words[20 * row : 20 * row + 70]) for row in range(CANDIDATES)]
    return [("red sofa for the garden", text) for text in texts]


if __name__ == "__main__":
    main()
