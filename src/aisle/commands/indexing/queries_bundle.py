"""The bundle that embeds the queries of an index, if it is a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aisle.bundle.bundle_file import is_bundle, read_bundle
from aisle.errors import ModelError
from aisle.index.manifest import Manifest
from aisle.search.encoders import may_stand_in


@dataclass(frozen=True)
class QueriesBundle:
    """A bundle beside an index.

    Args:
        path: Folder of the bundle.
        answers: Whether it may search the index, and why: it made the index ("own"), or it was exported from
            the encoder that made it, or from the model of the bundle that made it ("source"); otherwise "no".
        precision: Number type that it computes in.
        fingerprint: Fingerprint of its query tower.
        source: Model that it was exported from.
        source_fingerprint: Fingerprint of the query tower of that model.
        gates: Figures that compare the bundle with that model.
        failed_gates: Failed figures that the export accepted; None without.
    """

    path: str
    answers: Literal["own", "source", "no"]
    precision: str
    fingerprint: str
    source: str
    source_fingerprint: str
    gates: dict[str, Any]
    failed_gates: str | None

    def describe(self) -> str:
        """Return a line for people."""
        made_the_index = {
            "own": "made this index",
            "source": "exported from the encoder of this index",
            "no": "cannot search this index, because another encoder made it",
        }
        gates = ", ".join(f"{name} {value}" for name, value in self.gates.items())
        failed = "" if self.failed_gates is None else f"; accepted although it failed: {self.failed_gates}"
        return (
            f"bundle {self.path}, {self.precision} on ONNX Runtime, fingerprint {self.fingerprint[:12]}, "
            f"exported from {self.source}: {made_the_index[self.answers]}"
            f"{f'; compared with its source: {gates}' if gates else ''}{failed}"
        )


def queries_bundle(manifest: Manifest, model: str | None) -> QueriesBundle | None:
    """Return the bundle of --model, or the bundle that made an index; None if that is no bundle.

    A bundle that the manifest records may be gone or damaged; `query` reports that.

    Raises:
        ModelError: The bundle of --model is damaged.
    """
    path = model or str(manifest.encoder.get("model"))
    if not is_bundle(path):
        return None
    try:
        bundle = read_bundle(Path(path).expanduser())
    except ModelError:
        if model is not None:
            raise
        return None
    answers: Literal["own", "source", "no"] = "no"
    if bundle.fingerprint == manifest.fingerprint:
        answers = "own"
    elif may_stand_in(bundle.source, manifest):
        answers = "source"
    return QueriesBundle(
        path,
        answers,
        bundle.precision,
        bundle.query_fingerprint,
        bundle.source.model,
        bundle.source.query_fingerprint,
        bundle.gates.figures,
        bundle.failed_gates,
    )
