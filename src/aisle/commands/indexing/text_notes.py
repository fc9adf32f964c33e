"""Notes on texts that were cut off at the maximum length, or have no token in the model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aisle.commands.output import Output
from aisle.index import Manifest
from aisle.types.text_marks import CUT

if TYPE_CHECKING:
    from aisle.search.load_encoder import LoadedEncoder


def text_notes(manifest: Manifest) -> list[str]:
    """Return a line for each note on the texts of a version."""
    texts = f"of {manifest.count:,} texts of the catalogue"
    notes = []
    if manifest.truncated_texts:
        notes.append(cut_note(manifest.truncated_texts, texts))
    if manifest.unknown_texts:
        notes.append(
            f"warning: {manifest.unknown_texts:,} {texts} have no token in the model's vocabulary, so they "
            "match each other with 1.0; use a model for their language or script"
        )
    return notes


def log_texts(output: Output, manifest: Manifest) -> None:
    """Log the notes on the texts of a version."""
    for note in text_notes(manifest):
        output.log(note)


def query_notes(queries: Sequence[str], encoder: LoadedEncoder) -> list[str]:
    """Return a note if queries were cut off at the maximum length, otherwise an empty list."""
    tokens = encoder.tokenize(queries, prompt=encoder.settings.query_prompt, side="query", marked=True)
    cut = int(np.count_nonzero(tokens.marks & CUT))
    return [cut_note(cut, f"of {len(queries):,} queries")] if cut else []


def counted(manifest: Manifest) -> str:
    """Return the counts of cut-off and unknown texts of a version as text."""
    if manifest.truncated_texts is None or manifest.unknown_texts is None:
        return "not counted"
    return f"{manifest.truncated_texts:,} cut off at the maximum length, {manifest.unknown_texts:,} unknown"


def cut_note(cut: int, texts: str) -> str:
    """Return the note on cut-off texts: `cut_note(3, "of 10 queries")`."""
    return f"{cut:,} {texts} are longer than the encoder's maximum length: the ends were cut off"
