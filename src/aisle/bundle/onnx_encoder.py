"""Encoder that runs an exported bundle on ONNX Runtime, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aisle.bundle.bundle_file import (
    TOKENIZER_FILE,
    check_cpu,
    check_precision,
    read_bundle,
    verify_checksums,
)
from aisle.bundle.bundle_record import Bundle
from aisle.bundle.bundle_tokenizer import BundleTokenizer, load_tokenizer_file
from aisle.bundle.graph_session import GraphSession, load_graph
from aisle.errors import ModelError
from aisle.extras import require_extra
from aisle.system.processors import available_processors, threads_chosen_by_user
from aisle.text.distinct_tokens import DistinctTexts, DistinctTokens, distinct_texts
from aisle.text.tokens import Side, tokenize
from aisle.types.encoder_protocol import Precision
from aisle.types.encoder_settings import EncoderSettings

__all__ = ["OnnxEncoder", "load_bundle"]

BATCH_TOKENS = 2048
"""Most tokens in a call of the graph."""
LEAST_TOKENS = 256
"""Calls are not made smaller than this to give every processor some."""


@dataclass(frozen=True)
class OnnxEncoder:
    """Turn queries and products into embeddings with a bundle; any number of threads may share it.

    Texts of equal length are computed together, so there is no padding. Several calls of the graph run at
    the same time, each on one thread.

    Args:
        bundle: Contents of `bundle.json`.
        query_graph: Graph of queries.
        product_graph: Graph of products; the same object with a shared tower.
        tokenizer: Tokenizer of the towers.
        name: Name of the bundle in messages.
        dimensions: Number of leading components of an embedding to keep; None keeps all.
        replaces_source: Whether the encoder has the fingerprints of the model that it was exported from, to
            search an index of that model. The export measured how close the embeddings are.
    """

    bundle: Bundle
    query_graph: GraphSession
    product_graph: GraphSession
    tokenizer: BundleTokenizer
    name: str
    dimensions: int | None = None
    replaces_source: bool = False

    def __repr__(self) -> str:
        settings, source = self.settings, self.bundle.source
        prompts = (
            f"query_prompt {settings.query_prompt[:30]!r}, product_prompt {settings.product_prompt[:30]!r}"
        )
        return (
            f"OnnxEncoder({self.name[-60:]}, {self.dim} dim, {settings.pooling} pooling, "
            f"max_length {settings.max_length},\n  {prompts},\n"
            f"  {self.bundle.precision}, exported from {source.model[-60:]}, "
            f"fingerprint {self.fingerprint[:12]})"
        )

    @property
    def settings(self) -> EncoderSettings:
        """Pooling, prompts, maximum length."""
        return self.bundle.settings

    @property
    def dim(self) -> int:
        """Number of components of an embedding."""
        return self.dimensions or self.bundle.dim

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines a product's embedding."""
        return self.bundle.source.fingerprint if self.replaces_source else self.bundle.fingerprint

    @property
    def query_fingerprint(self) -> str:
        """Hash of everything that determines a query's embedding; the same with one tower."""
        source = self.bundle.source
        return source.query_fingerprint if self.replaces_source else self.bundle.query_fingerprint

    @property
    def revision(self) -> None:
        """A bundle is a folder, so it has no commit of the Hub."""

    @property
    def device(self) -> str:
        """Type of the device that computes."""
        return "cpu"

    @property
    def note(self) -> str | None:
        """The failed gates, if the export accepted them; None without."""
        failed = self.bundle.failed_gates
        return failed and f"{self.name}: its export accepted a failed gate: {failed}"

    @property
    def texts_at_a_time(self) -> None:
        """Texts are not tokenised in parts: the tokenizer and the graph share processors."""

    def in_place_of_source(self) -> OnnxEncoder:
        """Return an encoder with the fingerprints of the exported model, to search an index of that model."""
        return replace(self, replaces_source=True)

    def truncated(self, dimensions: int | None) -> OnnxEncoder:
        """Return an encoder that keeps the first `dimensions` components, rescaled to unit norm.

        Raises:
            ModelError: The encoder has fewer components, or its embeddings are not unit vectors.
        """
        if dimensions is None:
            return self
        if not 1 <= dimensions <= self.dim or not self.settings.normalize:
            raise ModelError(
                f"--dimensions {dimensions}: {self.name} has {self.dim} dimensions, and its embeddings must "
                "be unit vectors"
            )
        return replace(self, dimensions=dimensions)

    def encode_queries(self, queries: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of queries; see `encode_texts` for the options.

        Returns:
            (queries, dim) float32, unit L2 norm.
        """
        return self.encode_texts(queries, prompt=self.settings.query_prompt, side="query", **options)

    def encode_products(self, products: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of products; see `encode_texts` for the options.

        Returns:
            (products, dim) float32, unit L2 norm.
        """
        return self.encode_texts(products, prompt=self.settings.product_prompt, side="product", **options)

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        prompt: str,
        side: Side = "product",
        max_tokens: int | None = None,
        precision: Precision | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the embeddings of texts, in the order given; a text that occurs twice is encoded once.

        Args:
            texts: Any iterable of texts; texts beyond the maximum length are cut off.
            prompt: Prompt before every text.
            side: Side of the texts, which selects the tower; with one tower it makes no difference.
            max_tokens: Most tokens in a call of the graph.
            precision: Precision of the bundle, or None.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Returns:
            (texts, dim) float32, unit L2 norm.

        Raises:
            ModelError: `texts` is a single text, an entry is not a text or not Unicode, or the bundle
                computes in another precision.
        """
        found: list[np.ndarray] = []
        self.encode_parts(
            [self._tokenize(distinct_texts(texts), prompt, side)],
            found.append,
            max_tokens=max_tokens,
            precision=precision,
            on_progress=on_progress,
        )
        return found[0]

    def tokenize(
        self, texts: Iterable[str], *, prompt: str, side: Side = "product", marked: bool = False
    ) -> DistinctTokens:
        """Tokenise texts, each distinct text once; safe while another thread encodes.

        Raises:
            ModelError: `texts` is a single text, or an entry is not a text or not Unicode.
        """
        return self._tokenize(distinct_texts(texts), prompt, side, marked=marked)

    def tokenize_products(self, products: Iterable[str], *, marked: bool = False) -> DistinctTokens:
        """Tokenise products with the products' prompt; see `tokenize`."""
        return self.tokenize(products, prompt=self.settings.product_prompt, marked=marked)

    def _tokenize(
        self, distinct: DistinctTexts, prompt: str, side: Side, *, marked: bool = False
    ) -> DistinctTokens:
        tokens = tokenize(
            self.tokenizer,
            distinct.texts,
            prompt=prompt,
            max_length=self.settings.max_length,
            marked=marked,
        )
        return DistinctTokens(tokens, distinct.place, side)

    def encode_parts(
        self,
        parts: Iterable[DistinctTokens],
        take: Callable[[np.ndarray], None],
        *,
        max_tokens: int | None = None,
        precision: Precision | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Embed parts of tokenised texts, and pass the embeddings of each part to `take`, in order.

        Args:
            parts: Tokenised texts.
            take: Function called with the embeddings of each part, (texts, dim) float32, unit L2 norm.
            max_tokens: Most tokens in a call of the graph.
            precision: Precision of the bundle, or None.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Raises:
            ModelError: The bundle computes in another precision.
        """
        check_precision(self.bundle, precision, name=self.name, flag="precision")
        for texts in parts:
            take(texts.in_order(self._embed(texts, max_tokens or BATCH_TOKENS, on_progress)))

    def _embed(
        self, texts: DistinctTokens, max_tokens: int, on_progress: Callable[[int], None] | None
    ) -> np.ndarray:
        """Return the embeddings of the distinct texts: (distinct texts, dim) float32."""
        tokens, repeats = texts.tokens, texts.repeats
        graph = self.query_graph if texts.side == "query" else self.product_graph
        embeddings = np.empty((len(tokens), self.dim), dtype=np.float32)

        def compute(rows: np.ndarray) -> np.ndarray:
            return self._cut(graph.embed(tokens.take(rows).reshape(len(rows), -1)))

        with _workers(tokens.lengths()) as (run_all, share):
            batches = equal_lengths(tokens.lengths(), min(max_tokens, max(share, LEAST_TOKENS)))
            for rows, found in zip(batches, run_all(compute, batches), strict=True):
                embeddings[rows] = found
                if on_progress is not None:
                    on_progress(int(repeats[rows].sum()))
        return embeddings

    def _cut(self, embeddings: np.ndarray) -> np.ndarray:
        if self.dimensions is None:
            return embeddings
        kept = embeddings[:, : self.dimensions]
        norms = np.linalg.norm(kept, axis=1, keepdims=True)
        return np.asarray(kept / np.maximum(norms, 1e-12))

    check_cpu(bundle.precision, name=str(model))

def load_bundle(model: str | Path) -> OnnxEncoder:
    """Load a bundle.

    While ONNX Runtime loads the graphs, a thread compares all files with their checksums.

    Raises:
        ModelError: A file is missing or altered, or the bundle cannot be used, such as int8 on a CPU where
            its embeddings may be wrong.
        OptionalDependencyError: onnxruntime or tokenizers is not installed.
    """
    require_extra("onnx")
    folder = Path(model).expanduser().resolve()
    bundle = read_bundle(folder)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checksums") as worker:
        checked = worker.submit(verify_checksums, folder, bundle)
        try:
            tokenizer = load_tokenizer_file(
                folder / TOKENIZER_FILE, bundle.tokenizer, max_length=bundle.max_length
            )
            graphs = {tower.graph: load_graph(folder, tower) for tower in bundle.towers}
        finally:
            checked.result()  # an altered file is the cause of any other error
    return OnnxEncoder(
        bundle=bundle,
        query_graph=graphs[bundle.tower("query").graph],
        product_graph=graphs[bundle.tower("product").graph],
        tokenizer=tokenizer,
        name=str(model),
    )


def equal_lengths(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Return the rows of batches of texts of equal length, longest first.

    Args:
        lengths: (texts,) number of tokens in each text.
        max_tokens: Most tokens in a batch; a longer text is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if len(order) else []
    batches = []
    for run in runs:
        size = max(max_tokens // max(int(lengths[run[0]]), 1), 1)
        batches += [run[start : start + size] for start in range(0, len(run), size)]
    return batches


RunAll = Callable[[Callable[[np.ndarray], np.ndarray], list[np.ndarray]], Iterator[np.ndarray]]


@contextmanager
def _workers(lengths: np.ndarray) -> Iterator[tuple[RunAll, int]]:
    """Yield a function that computes batches, on all processors if it is worth it, and each one's tokens."""
    total = int(lengths.sum())
    if total <= LEAST_TOKENS or len(lengths) == 1:  # a query must not wait for the start of threads
        yield map, total
        return
    threads = _threads()
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode") as pool:
        try:
            yield pool.map, -(-total // threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _threads() -> int:
    """Return the number of threads of a process: the user's OMP_NUM_THREADS, or its share of processors."""
    if threads_chosen_by_user():
        return max(1, int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))
    return max(1, available_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
