"""Write a reranker as a bundle: export its graph, compare its scores, put the folder in place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from aisle.bundle.bundle_file import TOKENIZER_FILE, check_cpu, write_bundle_file
from aisle.bundle.bundle_record import Bundle, BundledTower, BundlePrecision, BundleSource, GateResults
from aisle.bundle.onnx_reranker import OnnxReranker, load_reranker_bundle
from aisle.errors import ModelError
from aisle.export.gates import Limit
from aisle.export.int8_onnx import int8_copy
from aisle.export.onnx_graph import OPSET, traceable_copy, write_graph
from aisle.export.pair_tower import PairTower
from aisle.export.sample_texts import SampleTexts, tokenizer_texts
from aisle.export.write_bundle import (
    NOT_MEASURED,
    PACKAGES,
    bundle_staging,
    check_bundle_dir,
    check_space,
    write_tokenizer,
)
from aisle.io.durable import apply_umask, sync
from aisle.io.folder_swap import put_in_place
from aisle.models.torch_reranker import TorchReranker
from aisle.text.tokens import TokenizedTexts
from aisle.types.rerank_blend import BLEND_FILE
from aisle.version import __version__

GRAPH = "pairs.onnx"
PAIRS_PER_QUERY = 3
ALONE = 32
"""Pairs that are also scored alone, and compared with their scores in a batch."""
LIMITS: dict[BundlePrecision, dict[str, Limit]] = {
    "fp32": {
        "greatest_difference": Limit(1e-4, highest=True),
        "greatest_difference_in_a_batch": Limit(1e-5, highest=True),
    },
    "int8": {
        "correlation": Limit(0.99),
        "mean_probability_difference": Limit(0.02, highest=True),
        "greatest_difference_in_a_batch": Limit(0, highest=True),
    },
}
"""By precision, the figures that have a limit. Differences of logits are relative to the largest above 1."""


def write_reranker_bundle(
    reranker: TorchReranker,
    folder: Path,
    *,
    precision: BundlePrecision,
    sample: SampleTexts,
    accept: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Export a reranker, compare the bundle's scores with its, and return the contents of `bundle.json`.

    Args:
        reranker: Reranker on CPU; its backbone loses BERT's pooler once it is compared.
        folder: Folder of the bundle.
        precision: Number type of the graph.
        sample: Texts of queries and products to compare.
        accept: Whether to write a bundle that fails a gate.
        overwrite: Whether to replace a bundle.

    Raises:
        ConfigError: The folder cannot take the bundle, or cannot be written.
        ModelError: The reranker cannot be exported, or the bundle fails a gate that is not accepted.
    """
    check_bundle_dir(folder, overwrite=overwrite)
    check_cpu(precision, name="--precision int8")
    pairs = sample_pairs(sample)
    expected = reranker.score(pairs)
    typed = reranker.tokenizer.typed
    model: Any = reranker.model.model
    with bundle_staging(folder) as staging:
        tokenizer = write_tokenizer(reranker.name, reranker.tokenizer.tokenizer, staging / TOKENIZER_FILE)
        tower = PairTower(model, typed=typed).eval()
        length = reranker.max_length
        copied = int8_copy(tower, max_length=length) if precision == "int8" else traceable_copy(tower)
        check_space(copied, staging)
        write_graph(copied, staging / GRAPH, max_length=length)
        local = Path(reranker.name).expanduser()
        bundle = Bundle(
            precision=precision,
            towers=(BundledTower(sides=("query", "product"), graph=GRAPH, dim=1),),
            pooling=tower.pooling.mode,
            query_prompt="",
            product_prompt="",
            max_length=length,
            normalize=False,
            tokenizer=tokenizer,
            source=BundleSource(
                model=str(local.resolve()) if local.exists() else reranker.name,
                fingerprint=reranker.fingerprint,
                query_fingerprint=reranker.fingerprint,
            ),
            made_with={"aisle": __version__, "opset": OPSET, **{name: version(name) for name in PACKAGES}},
            gates=NOT_MEASURED,
            accepted=False,
            reads="pairs",
            typed=int(model.config.vocab_size) if typed else 0,
        )
        if (local / BLEND_FILE).is_file():
            shutil.copyfile(local / BLEND_FILE, staging / BLEND_FILE)
        write_bundle_file(staging, bundle)
        exported = load_reranker_bundle(staging, unmeasured=True)
        texts = tokenizer_texts(sample, reranker.tokenizer.tokenizer)
        _check_tokens(reranker, exported, list(zip(texts, [*texts[1:], texts[0]], strict=True)))
        gates = measure_scores(expected, exported, pairs, precision)
        if not accept:
            check_gates(reranker.name, gates, precision)
        bundle = write_bundle_file(staging, replace(bundle, gates=gates, accepted=not gates.passed))
        apply_umask(staging)
        for path in staging.iterdir():
            sync(path)
        check_bundle_dir(folder, overwrite=overwrite)  # it may have changed since
        put_in_place(staging, folder)
    return bundle


def sample_pairs(sample: SampleTexts) -> list[tuple[str, str]]:
    """Return pairs of each query with a few products; every product occurs, the long ones included."""
    queries = [*sample.queries, *sample.added_queries]
    products = [*sample.products, *sample.added_products]
    count = max(len(queries) * PAIRS_PER_QUERY, len(products))
    pairs = [(queries[row % len(queries)], products[row % len(products)]) for row in range(count)]
    return list(dict.fromkeys(pairs))


def measure_scores(
    expected: np.ndarray, exported: OnnxReranker, pairs: list[tuple[str, str]], precision: BundlePrecision
) -> GateResults:
    """Return the figures of a bundle's scores compared with its source's.

    Args:
        expected: (pairs,) logits of the source.
        exported: The bundle.
        pairs: The pairs.
        precision: Precision of the bundle.

    Raises:
        ModelError: A score of the bundle is not finite.
    """
    found = exported.score(pairs)
    if not np.isfinite(found).all():
        raise ModelError("the bundle's scores are not finite for some pairs; the model cannot be exported")
    rows = np.unique(np.linspace(0, len(pairs) - 1, ALONE).round().astype(int))
    alone = np.concatenate([exported.score([pairs[row]]) for row in rows])
    unit = max(1.0, float(np.abs(expected).max()))
    one, other = (1 / (1 + np.exp(-scores.astype(np.float64))) for scores in (expected, found))
    figures = {
        "pairs": len(pairs),
        "greatest_difference": float(np.abs(expected - found).max()) / unit,
        "greatest_difference_in_a_batch": float(np.abs(alone - found[rows]).max()) / unit,
        "mean_probability_difference": float(np.abs(one - other).mean()),
        "correlation": float(np.corrcoef(expected, found)[0, 1]),
    }
    limits = LIMITS[precision]
    failed = tuple(name for name, limit in limits.items() if not limit.holds(figures[name]))
    return GateResults(
        passed=not failed,
        figures=figures,
        limits={name: limit.value for name, limit in limits.items()},
        failed=failed,
    )


def check_gates(name: str, gates: GateResults, precision: BundlePrecision) -> None:
    """Refuse a bundle with a figure outside its limit.

    Raises:
        ModelError: There is such a figure; the message names all.
    """
    figures = ", ".join(
        f"{failed} is {gates.figures[failed]:.3g} and must be {LIMITS[precision][failed]}"
        for failed in gates.failed
    )
    if figures:
        raise ModelError(
            f"{name}: the {precision} bundle differs too much from the reranker: {figures}. Give --accept to "
            "write it nevertheless, which bundle.json records"
        )


def _check_tokens(source: TorchReranker, exported: OnnxReranker, pairs: list[tuple[str, str]]) -> None:
    """Compare the tokens of both, types and truncation included.

    Raises:
        ModelError: A pair has other tokens; the message shows it.
    """
    expected, found = source.tokenizer.tokenize(pairs), exported.tokenize(pairs)
    for row, pair in enumerate(pairs):
        if expected[row].tolist() != found[row].tolist() or _types(expected, row) != _types(found, row):
            raise ModelError(
                f"{source.name}: its tokenizer.json gives other tokens than its tokenizer for the pair "
                f"{pair!r:.80}; the tokenizer has a setting or Python code that a bundle cannot contain. "
                "Serve the model with torch"
            )


def _types(tokens: TokenizedTexts, row: int) -> list[int] | None:
    """Return the token types of a pair; None if it has none."""
    types = None if tokens.types is None else tokens.take_types(np.array([row]))
    return None if types is None else [int(one) for one in types]
