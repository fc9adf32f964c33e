"""Embed a catalogue in shards, each new text once; a killed build keeps its finished shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.commands.indexing.shard_queue import ShardPart, ShardQueue, parts_of
from aisle.data.digests import text_digests
from aisle.errors import IndexIntegrityError
from aisle.index import StoredProducts, open_stored
from aisle.index.layout import MANIFEST_FILE, version_numbers
from aisle.index.products import take_rows, text_of
from aisle.index.row_groups import first_of_equals
from aisle.io.durable import file_sha256, replace_text, sync
from aisle.search.load_encoder import LoadedEncoder
from aisle.system.memory import return_free_memory
from aisle.system.prefetch import prefetched
from aisle.text.distinct_tokens import DistinctTokens
from aisle.types.choices import StoreDtype
from aisle.types.columns import TEXT_COLUMN
from aisle.types.encoder_protocol import Precision

SHARD_TEXTS = 8192
"""Texts of a shard: they are tokenised, sorted by length, embedded and saved together."""
MARKS_SUFFIX = ".marks"
"""Suffix of the file with the marks of a shard's texts."""
OPEN_SHARDS = 64
SHARDS_PER_TRIM = 4
PRECISION_SAMPLE = 640

Rows = npt.NDArray[np.int64]
Digests = npt.NDArray[np.void]


@dataclass(frozen=True)
class EmbeddingPlan:
    """Texts to embed, and the source of every product's embedding.

    Args:
        rows: First row in the catalogue of each text to embed, (texts,).
        keys: Name of each shard of `SHARD_TEXTS` texts: equal for equal texts, encoder and settings.
        source: Position of each product's text in `rows`, (products,); if negative, -1 minus the row of the
            version before with the same text.
    """

    rows: Rows
    keys: tuple[str, ...]
    source: Rows

    @property
    def texts_reused(self) -> int:
        """Number of products that reuse an embedding of the version before."""
        return int(np.count_nonzero(self.source < 0))


def product_digests(products: pa.Table) -> Digests:
    """Return the (products,) 128-bit BLAKE2b digests of the texts: 16 bytes a product in memory."""
    return text_digests(text_of(products)).view("V16")[:, 0]


def plan_embeddings(products: pa.Table, known: StoredProducts | None, *, made_by: str) -> EmbeddingPlan:
    """Return the plan for a catalogue: the texts that the version before does not have.

    Args:
        products: Products of the catalogue, with their texts.
        known: Version before, if it has the same encoder and settings.
        made_by: Encoder, compute type and dimensions: everything besides the texts that changes embeddings.
    """
    old = np.empty(0, "V16") if known is None else product_digests(known.products)
    new = product_digests(products)
    first = first_of_equals(np.concatenate([old, new]))[len(old) :] - len(old)
    is_first = first == np.arange(len(new))
    rows = np.flatnonzero(is_first)
    number = np.cumsum(is_first) - 1
    # A negative number stands for a row of the version before.
    source = np.where(first < 0, -1 - (first + len(old)), number[np.maximum(first, 0)])
    keys = [
        blake2b(made_by.encode() + new[rows[start : start + SHARD_TEXTS]].tobytes(), digest_size=16)
        for start in range(0, len(rows), SHARD_TEXTS)
    ]
    return EmbeddingPlan(rows, tuple(key.hexdigest() for key in keys), source)


def embed_shards(
    plan: EmbeddingPlan,
    products: pa.Table,
    encoder: LoadedEncoder,
    folder: Path,
    *,
    precision: Precision,
    max_tokens: int | None,
    process_index: int = 0,
    num_processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Embed the missing shards of this process.

    At the same time, the next texts are tokenised, and the shard before is written.

    Args:
        plan: Texts to embed.
        products: Products of the catalogue, with their texts.
        encoder: Encoder of the texts.
        folder: Folder of the shards.
        precision: Compute type.
        max_tokens: Tokens to encode at a time.
        process_index: Index of this process.
        num_processes: Number of processes that share the shards.
        on_progress: Function that is called with the number of texts embedded since the last call.

    Raises:
        OSError: A shard cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts_only = products.select([TEXT_COLUMN])
    own = range(process_index, len(plan.keys), num_processes)
    missing = []
    for number in own:
        if _whole(folder / f"{plan.keys[number]}.npy"):
            _report_progress(on_progress, len(_rows_of(plan, number)))
        else:
            missing.append(number)

    finished = count(1)

    def tokenise(part: ShardPart) -> DistinctTokens:
        texts = take_rows(texts_only, part.rows).column(0).to_pylist()
        return encoder.tokenize_products(texts, marked=True)

    def write(number: int, embeddings: npt.NDArray[np.float32], marks: npt.NDArray[np.uint8]) -> None:
        _write_shard(folder / f"{plan.keys[number]}.npy", embeddings, marks)
        if next(finished) % SHARDS_PER_TRIM == 0:
            return_free_memory()

    parts = parts_of({number: _rows_of(plan, number) for number in missing}, encoder.texts_at_a_time)
    with ShardQueue(write) as shards, closing(prefetched(parts, tokenise)) as tokenised:
        encoder.encode_parts(
            shards.noted(tokenised),
            shards.add,
            max_tokens=max_tokens,
            precision=precision,
            on_progress=on_progress,
        )


def embeddings_in_order(
    plan: EmbeddingPlan, known: StoredProducts | None, folder: Path, *, dim: int
) -> Iterator[npt.NDArray[np.floating]]:
    """Yield the (n, dim) embeddings of all products, in order, a chunk at a time.

    Args:
        plan: Plan with all its shards in the folder.
        known: Version before.
        folder: Folder of the shards.
        dim: Components of an embedding.
    """

    @lru_cache(maxsize=OPEN_SHARDS)
    def shard(number: int) -> npt.NDArray[np.float32]:
        return np.asarray(np.load(folder / f"{plan.keys[number]}.npy", mmap_mode="r", allow_pickle=False))

    for start in range(0, len(plan.source), SHARD_TEXTS):
        source = plan.source[start : start + SHARD_TEXTS]
        chunk = np.empty((len(source), dim), np.float32)
        reused = source < 0
        if known is not None:
            chunk[reused] = known.embeddings[-1 - source[reused]]
        shards = np.where(reused, -1, source // SHARD_TEXTS)
        for number in np.unique(shards[~reused]).tolist():
            mine = shards == number
            chunk[mine] = shard(number)[source[mine] % SHARD_TEXTS]
        yield chunk


@dataclass(frozen=True)
class VersionBefore:
    """Version before a build, if the build can reuse its embeddings.

    Args:
        known: Products of that version, if this build would compute and store the same embeddings; else None.
        refused: Reason why the embeddings cannot be reused; None if they are, or without a version before.
    """

    known: StoredProducts | None
    refused: str | None = None


def version_before(
    index_dir: Path,
    encoder: LoadedEncoder,
    *,
    precision: Precision | None,
    store_dtype: StoreDtype,
) -> VersionBefore:
    """Return the current version if the build would store the same embeddings.

    Args:
        index_dir: Index directory.
        encoder: Encoder of the build; its fingerprint covers weights, prompts, pooling and maximum length.
        precision: Compute type of the build; None means the compute type of the version before.
        store_dtype: Number format of the stored embeddings.
    """
    if not (index_dir / MANIFEST_FILE).exists() and not version_numbers(index_dir):
        return VersionBefore(None)
    try:
        known = open_stored(index_dir)
    except IndexIntegrityError as error:
        return VersionBefore(None, f"the version before cannot be used: {error}")
    refused = _why_not(known, encoder, precision=precision, store_dtype=store_dtype)
    if refused is not None:
        return VersionBefore(None, f"those of version {known.manifest.version} {refused}")
    return VersionBefore(known)


def _why_not(
    known: StoredProducts, encoder: LoadedEncoder, *, precision: Precision | None, store_dtype: str
) -> str | None:
    """Return how the embeddings of a version differ from those of a build, or None."""
    manifest = known.manifest
    recorded = manifest.encoder.get("precision")
    if manifest.fingerprint != encoder.fingerprint:
        return (
            f"are of another encoder or other settings: fingerprint {manifest.fingerprint[:12]}, found "
            f"{str(encoder.fingerprint)[:12]}"
        )
    if manifest.dim != encoder.dim:
        return f"have {manifest.dim} components, this build has {encoder.dim}"
    if recorded is None:
        return "have no compute type on record"
    if recorded == "int8" and not isinstance(encoder, OnnxEncoder):
        return "were computed in int8, which needs a bundle now"
    if precision is not None and recorded != precision:
        return f"were computed in {recorded}, this build computes in {precision}"
    if manifest.store_dtype == "float16" and store_dtype == "float32":
        return "are rounded to float16, this build stores float32; --store_dtype float16 takes them over"
    if TEXT_COLUMN not in known.products.column_names:
        return "are without their texts"
    return None


def precision_for(encoder: LoadedEncoder, products: pa.Table, known: StoredProducts | None) -> Precision:
    """Return the compute type of the version before if its embeddings are reused, otherwise the fastest.

    A bundle computes in one compute type only.
    """
    if isinstance(encoder, OnnxEncoder):
        return encoder.bundle.precision
    if known is not None:
        kept: Precision = known.manifest.encoder["precision"]
        return kept
    from aisle.models.precision import fastest_precision  # imports torch

    rows = np.linspace(0, products.num_rows - 1, min(PRECISION_SAMPLE, products.num_rows)).astype(np.int64)
    return fastest_precision(encoder, take_rows(products.select([TEXT_COLUMN]), rows).column(0).to_pylist())


def _rows_of(plan: EmbeddingPlan, number: int) -> Rows:
    return plan.rows[number * SHARD_TEXTS : (number + 1) * SHARD_TEXTS]


def _write_shard(path: Path, embeddings: npt.NDArray[np.float32], marks: npt.NDArray[np.uint8]) -> None:
    """Write a shard and the marks of its texts, then its checksum; a shard without a checksum is ignored."""
    for part, values in ((path.with_suffix(MARKS_SUFFIX), marks), (path, embeddings)):
        with part.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        sync(part)
    replace_text(path.with_suffix(".sha256"), file_sha256(path))


def _whole(path: Path) -> bool:
    checksum = path.with_suffix(".sha256")
    if not path.is_file() or not checksum.is_file() or not path.with_suffix(MARKS_SUFFIX).is_file():
        return False
    return checksum.read_text(encoding="utf-8", errors="replace") == file_sha256(path)


def _report_progress(on_progress: Callable[[int], None] | None, texts: int) -> None:
    if on_progress is not None:
        on_progress(texts)
