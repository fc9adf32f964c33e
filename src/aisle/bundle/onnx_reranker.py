"""Reranker that runs an exported bundle on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aisle.bundle.bundle_file import TOKENIZER_FILE, check_cpu, read_bundle, verify_checksums
from aisle.bundle.bundle_record import Bundle
from aisle.bundle.bundle_tokenizer import BundleTokenizer, load_tokenizer_file
from aisle.bundle.graph_session import TowerGraph, load_graph
from aisle.bundle.parallel_batches import batch_workers, fill_processors
from aisle.errors import ModelError
from aisle.extras import require_extra
from aisle.text.tokens import TokenizedTexts

__all__ = ["OnnxReranker", "load_reranker_bundle"]

BATCH_TOKENS = 1024
"""Most tokens in a call of the graph."""


@dataclass(frozen=True, eq=False)
class OnnxReranker:
    """Score pairs of a query and a text with a bundle; any number of threads may share it.

    Args:
        bundle: Contents of `bundle.json`.
        graph: Graph of joined pairs.
        tokenizer: Tokenizer of the bundle.
        name: Name of the bundle in messages.
    """

    bundle: Bundle
    graph: TowerGraph
    tokenizer: BundleTokenizer
    name: str

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the reranker that was exported."""
        return self.bundle.source.fingerprint

    @property
    def max_length(self) -> int:
        """Maximum length of a pair in tokens; the longer text of a longer pair is cut."""
        return self.bundle.max_length

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> TokenizedTexts:
        """Return the tokens of pairs."""
        return self.tokenizer.pairs(pairs, typed=self.bundle.typed > 0)

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the logit of each pair: (pairs,) float32. A pair that occurs twice is scored once.

        Raises:
            ModelError: A pair is not two texts.
        """
        places: dict[tuple[str, str], int] = {}
        numbers = [places.setdefault(_checked(pair, row), len(places)) for row, pair in enumerate(pairs)]
        scores = np.empty(len(places), np.float32)
        if not numbers:
            return scores
        tokens = self.tokenize(list(places))
        lengths = tokens.lengths()
        session = self.graph.for_batches() if fill_processors(lengths) else self.graph.single
        ids = tokens.ids.astype(np.int64)
        if tokens.types is not None:
            ids += tokens.types.astype(np.int64) * self.bundle.typed
        joined = TokenizedTexts(ids, tokens.offsets)

        def compute(rows: np.ndarray) -> np.ndarray:
            return session.embed(joined.take(rows).astype(np.int64).reshape(len(rows), -1))

        with batch_workers(lengths, BATCH_TOKENS, call_threads=session.threads) as (run_all, batches):
            for rows, found in zip(batches, run_all(compute, batches), strict=True):
                scores[rows] = found[:, 0]
        session.release(max(len(rows) * int(lengths[rows[0]]) for rows in batches))
        found_scores: np.ndarray = scores[numbers]
        return found_scores


def load_reranker_bundle(model: str | Path, *, unmeasured: bool = False) -> OnnxReranker:
    """Load the bundle of a reranker.

    Args:
        model: Folder of the bundle.
        unmeasured: Whether the export loads the bundle to measure its gates.

    Raises:
        ModelError: A file is missing or altered, the bundle is an encoder's, or it cannot be used, such as
            int8 on a CPU where its scores may be wrong.
        OptionalDependencyError: onnxruntime or tokenizers is not installed.
    """
    require_extra("onnx")
    folder = Path(model).expanduser().resolve()
    bundle = read_bundle(folder, unmeasured=unmeasured, reads="pairs")
    check_cpu(bundle.precision, name=str(model))
    verify_checksums(folder, bundle)
    tokenizer = load_tokenizer_file(folder / TOKENIZER_FILE, bundle.tokenizer, max_length=bundle.max_length)
    (tower,) = bundle.towers
    graph = load_graph(folder, bundle, tower, vocabulary_size=tokenizer.vocabulary_size)
    return OnnxReranker(bundle, graph, tokenizer, str(model))


def _checked(pair: tuple[str, str], row: int) -> tuple[str, str]:
    """Return a pair as a tuple of two texts.

    Raises:
        ModelError: It is not.
    """
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise ModelError(f"pairs[{row}] must be a query and a text; found {pair!r:.60}")
    return (pair[0], pair[1])
