"""Which library computes an exported model best on a CPU: ONNX Runtime, OpenVINO or torchao.

    aisle export all-MiniLM-L6-v2 --output_dir runs/fp32
    aisle export all-MiniLM-L6-v2 --output_dir runs/int8 --precision int8
    pip install --no-deps openvino nncf torchao   # and what they require, in an environment for this purpose
    python benchmarks/int8_libraries.py --model all-MiniLM-L6-v2 --fp32 runs/fp32 --int8 runs/int8

All contenders run in one process and take turns, on the token ids of the FAQ validation file in batches of
equal length, without padding. Every processor computes a batch with a thread; a query, and everything of
torchao, has all threads (`aisle`: as many as it chooses). Prints a row for each: the median and least seconds
for the batches, the median milliseconds for a query (at most 14 tokens), the lowest and the mean cosine to
fp32, and the greatest difference between a text's embedding alone and in its batch. `aisle int8` is the int8
bundle; the others are

- `openvino fp32`: the fp32 bundle's graph.
- `openvino static`: nncf's static quantisation with its settings for transformers, calibrated on other texts.
- `openvino dynamic G`: 8-bit weights, and activations quantised at run time in groups of G.
- `torchao`: 8-bit weights and activations quantised at run time for each token, compiled by inductor.

The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from runtime import faq_texts

import aisle
from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.bundle.parallel_batches import equal_lengths
from aisle.export.onnx_graph import TextGraph

BATCH_TOKENS = 2048
QUERY_TOKENS, QUERIES = 14, 150
GROUPS = (32, 128, 384)
Embed = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="run or model folder that the bundles came from")
    parser.add_argument("--fp32", type=Path, required=True, help="its bundle in fp32")
    parser.add_argument("--int8", type=Path, required=True, help="its bundle in int8")
    parser.add_argument("--every", type=int, default=4, help="compute every so manieth batch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--processors", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.processors)
    fp32, int8 = aisle.load_encoder(given.fp32), aisle.load_encoder(given.int8)
    tokens = fp32.tokenize_products(faq_texts()).tokens
    all_batches = [
        tokens.take(rows).reshape(len(rows), -1) for rows in equal_lengths(tokens.lengths(), BATCH_TOKENS)
    ]
    batches, calibration = all_batches[:: given.every], all_batches[1 :: given.every]
    queries = [row[None] for batch in all_batches if batch.shape[1] <= QUERY_TOKENS for row in batch]
    with ThreadPoolExecutor(given.processors) as pool:
        contenders = {
            "aisle fp32": of_bundle(pool, fp32),
            "aisle int8": of_bundle(pool, int8),
            **openvino_contenders(given.fp32, calibration, pool, given.processors),
            "torchao": in_turn(torchao_contender(given.model)),
        }
        print_rows(contenders, batches, queries[:: max(1, len(queries) // QUERIES)], given.rounds)


class Contender:
    """A way to compute batches.

    Args:
        embed: Function that computes a batch.
        embed_all: Function that computes many batches.
    """

    def __init__(self, embed: Embed, embed_all: Callable[[list[np.ndarray]], list[np.ndarray]]) -> None:
        self.embed = embed
        self.embed_all = embed_all


def side_by_side(pool: ThreadPoolExecutor, embed: Embed) -> Contender:
    return Contender(embed, lambda batches: list(pool.map(embed, batches)))


def of_bundle(pool: ThreadPoolExecutor, encoder: OnnxEncoder) -> Contender:
    graph = encoder.product_graph
    batches = graph.for_batches()
    return Contender(graph.single.embed, side_by_side(pool, batches.embed).embed_all)


def in_turn(embed: Embed) -> Contender:
    return Contender(embed, lambda batches: [embed(batch) for batch in batches])


def openvino_contenders(
    bundle: Path, calibration: list[np.ndarray], pool: ThreadPoolExecutor, processors: int
) -> dict[str, Contender]:
    """Return the contenders of OpenVINO, which read the graph of a bundle."""
    import nncf
    import openvino

    core = openvino.Core()
    [graph] = bundle.glob("*.onnx")

    def compiled(model: openvino.Model, *, streams: int, **options: int) -> Embed:
        settings = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": processors, **options}
        program = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
        requests = threading.local()

        def embed(input_ids: np.ndarray) -> np.ndarray:
            if not hasattr(requests, "own"):
                requests.own = program.create_infer_request()
            return np.array(requests.own.infer({0: input_ids})[0])

        return embed

    def contender(model: openvino.Model, **options: int) -> Contender:
        batches = side_by_side(pool, compiled(model, streams=processors, **options))
        return Contender(compiled(model, streams=1, **options), batches.embed_all)

    static = nncf.quantize(
        core.read_model(graph),
        nncf.Dataset(calibration, lambda batch: {0: batch}),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(calibration),
    )
    weights = nncf.compress_weights(core.read_model(graph), mode=nncf.CompressWeightsMode.INT8_SYM)
    return {
        "openvino fp32": contender(core.read_model(graph)),
        "openvino static": contender(static),
        **{
            f"openvino dynamic {group}": contender(weights, DYNAMIC_QUANTIZATION_GROUP_SIZE=group)
            for group in GROUPS
        },
    }


def torchao_contender(model: str) -> Embed:
    """Return a contender that computes the linear layers of a model in 8 bits with torchao."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    graph = TextGraph(copy.deepcopy(aisle.load_encoder(model).model.product_tower).eval())
    graph.backbone.config._attn_implementation = "sdpa"
    quantize_(graph, Int8DynamicActivationInt8WeightConfig())
    torch._inductor.config.freezing = True
    program = torch.compile(graph, dynamic=True)

    def embed(input_ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(input_ids)).numpy()

    return embed


def print_rows(
    contenders: dict[str, Contender], batches: list[np.ndarray], queries: list[np.ndarray], rounds: int
) -> None:
    """Measure the contenders in turns, and print a row for each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    milliseconds: dict[str, list[float]] = {name: [] for name in contenders}
    found = {}
    for contender in contenders.values():  # what compiles on the first call is not measured
        contender.embed_all(batches)
        contender.embed(queries[0])
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            found[name] = np.concatenate(contender.embed_all(batches))
            seconds[name].append(time.perf_counter() - started)
            for query in queries:
                started = time.perf_counter()
                contender.embed(query)
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
    largest = max(batches, key=len)
    print(f"{sum(map(len, batches))} texts, {len(queries)} queries, {rounds} rounds")
    print("| | batches, s (least) | query, ms | cosine, lowest and mean | alone beside in a batch |")
    print("|---|---|---|---|---|")
    for name, contender in contenders.items():
        cosine = (found[name] * found["aisle fp32"]).sum(axis=1)
        alone = np.concatenate([contender.embed(row[None]) for row in largest])
        difference = np.abs(alone - contender.embed(largest)).max()
        print(
            f"| {name} | {np.median(seconds[name]):.2f} ({min(seconds[name]):.2f}) "
            f"| {np.median(milliseconds[name]):.2f} | {cosine.min():.4f}, {cosine.mean():.5f} "
            f"| {difference:.1e} |"
        )


if __name__ == "__main__":
    main()
