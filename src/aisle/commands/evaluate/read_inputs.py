"""Read everything that an evaluation needs from files, before anything is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aisle.commands.evaluate.caveats import pair_caveats
from aisle.commands.evaluate.compare_pairs import positive_pairs, read_judged_pairs
from aisle.commands.evaluate.engine_run import EngineRun, read_engine_run
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.data.judged_queries import JudgedQueries, check_judged_products, read_judged_queries
from aisle.data.pairs import Pairs
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError
from aisle.index import Manifest, SearchIndex, open_index
from aisle.index.backends import effort_problem
from aisle.reporting.product_labels import ProductLabels, product_labels
from aisle.types.columns import ID_COLUMN


@dataclass(frozen=True)
class Inputs:
    """Inputs of an evaluation; None where the user gave none.

    Args:
        judged: Queries and judgements of --queries and --qrels.
        pairs: Judged pairs of --pairs.
        index: Index of --index_dir.
        labels: Titles and groups of the index's products.
        engine: Rankings of --run.
        pair_notes: Remarks on --pairs, for people.
    """

    judged: JudgedQueries | None
    pairs: Pairs | None
    index: SearchIndex | None
    labels: ProductLabels | None
    engine: EngineRun | None = None
    pair_notes: tuple[str, ...] = ()

    @property
    def manifest(self) -> Manifest | None:
        """Manifest of the index."""
        return None if self.index is None else self.index.manifest


def read_inputs(settings: EvaluateSettings) -> Inputs:
    """Read queries, judgements, pairs, index and the present engine's rankings.

    Raises:
        AisleError: A file cannot be read, its ids do not fit the others, or the index has no --ef_search.
    """
    judged = _judged_queries(settings)
    notes: list[str] = []
    pairs = read_judged_pairs(settings, log=notes.append) if settings.pairs else None
    if pairs is not None and settings.protocol == "joint_pool":
        pairs = positive_pairs(pairs, settings, log=notes.append)
    notes += [] if pairs is None else pair_caveats(pairs, settings)
    if settings.index_dir is None:
        return Inputs(judged, pairs, None, None, pair_notes=tuple(notes))
    index = open_index(Path(settings.index_dir))
    problem = effort_problem(type(index.graph.backend), settings.ef_search)
    if problem is not None:
        raise ConfigError(f"--{problem}")
    engine = None
    if judged is not None:
        ids = index.products.column(ID_COLUMN)
        check_judged_products(judged, ids, catalogue="the index")
        if settings.run is not None:
            engine = read_engine_run(Path(settings.run), judged, ids, cutoffs=settings.cutoffs)
    labels = product_labels(index, title_column=settings.title_column, slice_columns=settings.slice_column)
    return Inputs(judged, pairs, index, labels, engine, tuple(notes))


def _judged_queries(settings: EvaluateSettings) -> JudgedQueries | None:
    if settings.queries is None or settings.qrels is None:
        return None
    return read_judged_queries(
        settings.queries,
        settings.qrels,
        settings.label_map,
        id_column=settings.id_column,
        query_id_column=settings.query_id_column,
        text_format=TextFormat.of(settings.delimiter, settings.encoding),
    )
