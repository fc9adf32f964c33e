"""Choose the weight of hybrid search for a new version: tuned now, or kept from the version before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aisle.commands.build.settings import BuildSettings
from aisle.commands.indexing.analysers import analyser_before
from aisle.commands.indexing.version_changes import manifest_before, what_changed
from aisle.data.text_files import TextFormat
from aisle.index import Manifest
from aisle.index.analyser import Analyser
from aisle.index.fusion import DEFAULT_WEIGHT
from aisle.index.query_adapter import QueryAdapter
from aisle.search.load_encoder import LoadedEncoder


@dataclass(frozen=True)
class ChosenWeight:
    """Weight of hybrid search in a version.

    Args:
        value: Weight of embeddings in [0, 1]; None means the default weight.
        lost: Reason why the weight of the version before is not kept; None if it is, or if it had none.
    """

    value: float | None
    lost: str | None = None


def choose_weight(
    settings: BuildSettings,
    *,
    index_dir: Path,
    folder: Path,
    manifest: Manifest,
    encoder: LoadedEncoder,
    adapter: QueryAdapter | None,
    analyser: Analyser,
    log: Callable[[str], None],
) -> ChosenWeight:
    """Return the weight tuned on --tune_queries, or the weight of the version before; log which it is.

    Args:
        settings: Settings of the build.
        index_dir: Index directory; its current version is the version before.
        folder: Folder of the new version, with all its files.
        manifest: Manifest of the new version, without the weight.
        encoder: Encoder of the embeddings.
        adapter: Query adapter of the new version; None without.
        analyser: Analyser of the new version.
        log: Function that prints a line.

    Raises:
        AisleError: The tuning queries cannot be used.
    """
    if settings.tune_queries is not None and settings.tune_qrels is not None:
        from aisle.commands.indexing.hybrid_tuning import tuned_weight  # needs the extra `eval`

        weight = tuned_weight(
            folder,
            manifest,
            encoder,
            adapter=adapter,
            queries_file=settings.tune_queries,
            qrels_file=settings.tune_qrels,
            label_map=settings.tune_label_map,
            text_format=TextFormat.of(settings.delimiter, settings.encoding),
        )
        log(f"hybrid search: weight {_shares(weight)}, tuned on {settings.tune_queries}")
        return ChosenWeight(weight)
    before = manifest_before(index_dir)
    if before is None or before.hybrid_weight is None:
        return ChosenWeight(None)
    lost = what_changed(before, manifest, analyser_before(index_dir), analyser)
    tuned = f"weight {_shares(before.hybrid_weight)}"
    if lost is None:
        log(f"hybrid search: {tuned}, kept from version {before.version}")
        return ChosenWeight(before.hybrid_weight)
    log(
        f"hybrid search: {tuned}, of version {before.version}, is not kept, because {lost}; the default is "
        f"{_shares(DEFAULT_WEIGHT)}: tune it again with --tune_queries and --tune_qrels"
    )
    return ChosenWeight(None, lost)


def _shares(weight: float) -> str:
    return f"{weight:.2f} for embeddings, {1 - weight:.2f} for words"
