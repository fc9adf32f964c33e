"""Choose the BM25 analyser of a build: --language, the version before, or the language of the texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from aisle.commands.build.settings import BuildSettings
from aisle.errors import AisleError
from aisle.index import read_manifest
from aisle.index.analyser import Analyser
from aisle.index.languages import detect_language
from aisle.index.layout import version_directory
from aisle.index.lexical import analyser_of
from aisle.index.manifest import MANIFEST_FILE
from aisle.index.products import take_rows
from aisle.types.columns import TEXT_COLUMN

SAMPLED_TEXTS = 2000


def choose_analyser(
    settings: BuildSettings, index_dir: Path, products: pa.Table, *, log: Callable[[str], None]
) -> Analyser:
    """Return the BM25 analyser for --language, and log which analyser it is and why.

    Args:
        settings: Settings of the build.
        index_dir: Index directory; `auto` keeps the language of its current version.
        products: Products of the catalogue, with their texts.
        log: Function that prints a line.
    """
    if settings.language != "auto":
        analyser, why = Analyser.of(settings.language), "by --language"
    elif (known := analyser_before(index_dir)) is not None:
        analyser, why = Analyser.of(known.language), "as in the version before"
    else:
        analyser, why = detected_analyser(products), "by the texts; --language sets another"
    log(f"words (BM25): {analyser.describe()} ({why})")
    return analyser


def detected_analyser(products: pa.Table) -> Analyser:
    """Return the analyser for the language of the products' texts."""
    count = min(SAMPLED_TEXTS, products.num_rows)
    rows = np.linspace(0, products.num_rows - 1, count).astype(np.int64)
    texts = take_rows(products.select([TEXT_COLUMN]), rows).column(0).to_pylist()
    return Analyser.of(detect_language(texts))


def analyser_before(index_dir: Path) -> Analyser | None:
    """Return the analyser of an index's current version; None if it cannot be read."""
    if not (index_dir / MANIFEST_FILE).exists():
        return None
    try:
        manifest = read_manifest(index_dir)
        return analyser_of(version_directory(index_dir, manifest.version), manifest)
    except (AisleError, OSError):
        return None
