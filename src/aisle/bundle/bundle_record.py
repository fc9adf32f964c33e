"""Contents of `bundle.json`: the towers, settings, source and gates of an exported encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from aisle.io.record_schema import Limits, Number, Positive, Sha256
from aisle.types.choices import PoolingMode
from aisle.types.encoder_settings import EncoderSettings

__all__ = [
    "Bundle",
    "BundlePrecision",
    "BundleSource",
    "BundledFile",
    "BundledTokenizer",
    "BundledTower",
    "GateResults",
    "Reads",
]

BundlePrecision = Literal["fp32", "int8"]
"""Number type that a bundle's graphs compute in."""
Side = Literal["query", "product"]
Reads = Literal["texts", "pairs"]
FileName: TypeAlias = Annotated[str, Limits(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]


@dataclass(frozen=True)
class BundledFile:
    """Checksum and size of a file."""

    sha256: Sha256
    """Checksum of the whole file."""
    bytes: Number
    """Size in bytes."""


@dataclass(frozen=True)
class BundledTower:
    """Graph of a tower."""

    sides: tuple[Side, ...]
    """Sides that the tower reads; a shared tower reads both."""
    graph: FileName
    """File of the graph."""
    dim: Positive
    """Components of an embedding."""
    fingerprint: str = ""
    """Hash of everything that determines the embeddings of this graph; `write_bundle_file` fills it in."""


@dataclass(frozen=True)
class BundledTokenizer:
    """Settings of the tokenizer that `tokenizer.json` leaves out."""

    pad_token_id: Number
    """Token of a text that has no token."""
    unk_token_id: Number | None = None
    """Token of text that the tokenizer does not know; None if it knows every text."""
    truncation_side: Literal["left", "right"] = "right"
    """End of a long text that is cut off."""


@dataclass(frozen=True)
class BundleSource:
    """Run or model that was exported."""

    model: str
    """Folder or Hub id of the model."""
    fingerprint: Sha256
    """Fingerprint of its product tower."""
    query_fingerprint: Sha256
    """Fingerprint of its query tower; the same if one tower reads both sides."""
    base_model: str | None = None
    """Base model of the run; None for a model that was not fine-tuned by aisle."""
    revision: str | None = None
    """Commit of the model on the Hub, if known."""


@dataclass(frozen=True)
class GateResults:
    """Measurements at the export that compare the bundle with its source."""

    passed: bool
    """Whether every figure is within its limit."""
    figures: dict[str, Any]
    """Name to measured value."""
    limits: dict[str, Any]
    """Name to limit of that figure."""
    failed: tuple[str, ...] = ()
    """Names of the figures outside their limits."""
    not_measured: tuple[str, ...] = ()
    """Figures that were not measured, with the reason."""


@dataclass(frozen=True)
class Bundle:
    """Contents of `bundle.json`."""

    precision: BundlePrecision
    """Number type that the graphs compute in."""
    towers: tuple[BundledTower, ...]
    """A shared tower, or a query tower and a product tower."""
    pooling: PoolingMode
    """Pooling of a text's token vectors, which is part of the graph."""
    query_prompt: str
    """Prompt before every query."""
    product_prompt: str
    """Prompt before every product."""
    max_length: Positive
    """Maximum length of a text in tokens, including prompt and special tokens."""
    normalize: bool
    """Whether embeddings have unit L2 norm."""
    tokenizer: BundledTokenizer
    """Settings of the tokenizer."""
    source: BundleSource
    """Run or model that was exported."""
    made_with: dict[str, Any]
    """Versions of the packages that made the bundle."""
    gates: GateResults
    """Measurements at the export."""
    accepted: bool
    """Whether a failed gate was accepted."""
    reads: Reads = "texts"
    """What the graph reads: texts to embed, or pairs to score; a score is an embedding of one component."""
    typed: Number = 0
    """Number to add to the ids of the tokens of a pair's second text; 0 if the model has no token types."""
    files: dict[FileName, BundledFile] = field(default_factory=dict)
    """Every other file of the bundle; `write_bundle_file` fills it in."""

    def tower(self, side: Side) -> BundledTower:
        """Return the tower that reads a side."""
        return next(tower for tower in self.towers if side in tower.sides)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines a product's embedding."""
        return self.tower("product").fingerprint

    @property
    def query_fingerprint(self) -> str:
        """Hash of everything that determines a query's embedding; the same with a shared tower."""
        return self.tower("query").fingerprint

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self.tower("product").dim

    @property
    def settings(self) -> EncoderSettings:
        """Pooling, prompts, maximum length, normalisation."""
        return EncoderSettings(
            self.pooling, self.query_prompt, self.product_prompt, self.max_length, self.normalize
        )

    @property
    def failed_gates(self) -> str | None:
        """The figures outside their limits, with the limits; None if every gate was passed."""
        if self.gates.passed:
            return None
        figures, limits = self.gates.figures, self.gates.limits
        return ", ".join(
            f"{name} {figures.get(name)} (limit {limits.get(name)})" for name in self.gates.failed
        )
