"""Find out whether scores of a new version mean the same as in the version before."""

from __future__ import annotations

from pathlib import Path

from aisle.errors import AisleError
from aisle.index import Manifest, read_manifest
from aisle.index.analyser import Analyser

__all__ = ["manifest_before", "what_changed"]


def what_changed(before: Manifest, now: Manifest, words: Analyser | None, new_words: Analyser) -> str | None:
    """Return what changed in the scores since a version, or None.

    Args:
        before: Manifest of the version before.
        now: Manifest of the new version.
        words: Analyser of the version before; None if it is unknown.
        new_words: Analyser of the new version.
    """
    if (before.fingerprint, before.dim) != (now.fingerprint, now.dim):
        return "another encoder makes the embeddings"
    if words != new_words:
        return "another analyser splits the words"
    if before.text_template != now.text_template:
        return f"the texts had another template, {before.text_template!r}"
    if before.query_adapter != now.query_adapter:
        return "its query adapter is not kept"
    return None


def manifest_before(index_dir: Path) -> Manifest | None:
    """Return the manifest of an index's current version; None if it cannot be read."""
    try:
        return read_manifest(index_dir)
    except (AisleError, OSError):
        return None
