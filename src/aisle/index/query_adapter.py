"""Query adapter: a small trained function of query embeddings, applied in NumPy before a search.

An adapter belongs to a version of an index. Its kinds that are such functions, for an embedding q of the base
encoder:

    linear     W q
    low_rank   q + U (D q)
    mlp        q + O relu(H q + h) + o

The result is scaled to unit norm. The kind lora is a query tower in place of the encoder's, in a folder of
the version.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aisle.errors import IndexIntegrityError
from aisle.index.manifest import ADAPTER_FILE, TOWER_FOLDER, AdapterRecord, Manifest
from aisle.types.choices import FunctionKind

__all__ = ["QueryAdapter", "read_adapter", "write_adapter"]

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

SHAPES: dict[FunctionKind, dict[str, str]] = {
    "linear": {"weight": "dd"},
    "low_rank": {"down": "rd", "up": "dr"},
    "mlp": {"hidden_weight": "rd", "hidden_bias": "r", "output_weight": "dr", "output_bias": "d"},
}
"""Shape of each weight by kind: d is the dimension of embeddings, r the rank or the hidden layer's size."""


@dataclass(frozen=True, eq=False)
class QueryAdapter:
    """A trained function of query embeddings; any thread may use it.

    Args:
        kind: Kind of the function.
        weights: Weights by name, float32; `SHAPES` has their shapes.
    """

    kind: FunctionKind
    weights: Weights

    @property
    def size(self) -> int:
        """Rank or size of the hidden layer; the dimension of embeddings for "linear"."""
        return len(self.weights[{"linear": "weight", "low_rank": "down", "mlp": "hidden_bias"}[self.kind]])

    def apply(self, query_embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the adapted embeddings of queries: (queries, dim) float32, unit L2 norm.

        Each query is computed alone, so that its result does not depend on the other queries, to the bit.

        Args:
            query_embeddings: (queries, dim) float32 of the base encoder, unit L2 norm.
        """
        adapted = np.empty_like(query_embeddings, dtype=np.float32)
        for row, query in zip(adapted, query_embeddings, strict=True):
            row[:] = self._adapted(query)
            row /= max(float(np.linalg.norm(row)), 1e-12)
        return adapted

    def _adapted(self, query: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        weights = self.weights
        adapted: npt.NDArray[np.float32]
        if self.kind == "linear":
            adapted = weights["weight"] @ query
        elif self.kind == "low_rank":
            adapted = query + weights["up"] @ (weights["down"] @ query)
        else:
            hidden = np.maximum(weights["hidden_weight"] @ query + weights["hidden_bias"], 0)
            adapted = query + weights["output_weight"] @ hidden + weights["output_bias"]
        return adapted

    def fingerprint(self, *, base: str, index: str) -> str:
        """Return the fingerprint of the query embeddings: of the adapter on top of its base encoder.

        Args:
            base: Fingerprint of the query tower that the adapter takes embeddings of.
            index: Fingerprint of the encoder that made the index.
        """
        digest = hashlib.sha256(f"aisle query adapter 1\n{self.kind}\n{base}\n{index}\n".encode())
        for name, weight in sorted(self.weights.items()):
            digest.update(f"{name} {weight.shape}\n".encode())
            digest.update(np.ascontiguousarray(weight, dtype="<f4").tobytes())
        return digest.hexdigest()


def write_adapter(folder: Path, adapter: QueryAdapter) -> None:
    """Write an adapter into the folder of a staged version.

    Raises:
        OSError: The file cannot be written.
    """
    with (folder / ADAPTER_FILE).open("wb") as file:
        weights: dict[str, Any] = {name: np.asarray(one, "<f4") for name, one in adapter.weights.items()}
        np.savez(file, **weights)


def read_adapter(folder: Path, manifest: Manifest) -> QueryAdapter | None:
    """Return the query adapter of a version; None if the version has none, or has a query tower.

    Raises:
        IndexIntegrityError: The file is damaged, or holds another adapter than the manifest records, or the
            manifest records an adapter of another encoder, or its files are not those of the adapter.
    """
    record = manifest.query_adapter
    has_tower = any(name.startswith(f"{TOWER_FOLDER}/") for name in manifest.files)
    is_tower = record is not None and record.kind == "lora"
    if (record is not None, is_tower) != (ADAPTER_FILE in manifest.files or has_tower, has_tower):
        raise IndexIntegrityError(
            f"{folder}: the manifest must list {ADAPTER_FILE} or files of {TOWER_FOLDER}/ if and only if it "
            "describes a query adapter of that kind; go back to another version with rollback"
        )
    if record is None or record.kind == "lora":
        return None
    adapter = QueryAdapter(record.kind, _read_weights(folder / ADAPTER_FILE, record, manifest.dim))
    found = adapter.fingerprint(base=record.base_fingerprint, index=manifest.fingerprint)
    if found != record.fingerprint:
        raise IndexIntegrityError(
            f"{folder / ADAPTER_FILE}: has other weights than the adapter of the manifest, or that adapter "
            f"is of another encoder: the manifest records fingerprint {record.fingerprint[:12]}, found "
            f"{found[:12]}; go back to another version with rollback, or train an adapter for this index "
            "with aisle adapt"
        )
    return adapter


def _read_weights(path: Path, record: AdapterRecord, dim: int) -> Weights:
    """Return the weights in a file, in the shapes of the kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IndexIntegrityError(
            f"{path}: cannot be read as a query adapter: {error}; go back to another version with rollback"
        ) from None
    sizes = {"d": dim, "r": record.size}
    assert record.kind != "lora"  # its weights are in a folder
    wanted = {name: tuple(sizes[axis] for axis in axes) for name, axes in SHAPES[record.kind].items()}
    found = {name: weight.shape for name, weight in weights.items()}
    if found != wanted or any(weight.dtype != np.float32 for weight in weights.values()):
        raise IndexIntegrityError(
            f"{path}: a query adapter of kind {record.kind} for this index has the float32 weights {wanted}, "
            f"found {found}; go back to another version with rollback"
        )
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise IndexIntegrityError(f"{path}: has weights that are not finite; go back to another version")
    return weights
