"""Run `mine`: read pairs and products, exclude what is right, write the pairs with their hard negatives."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aisle.commands.mine.catalog_search import cache_folder, product_search
from aisle.commands.mine.dpr_questions import good_questions, questions_of_pairs, with_negatives
from aisle.commands.mine.judged_data import JudgedData, find_positives, judged_data
from aisle.commands.mine.mining_teacher import teacher_named
from aisle.commands.mine.report import MiningReport
from aisle.commands.mine.searched_catalog import group_columns, open_catalog
from aisle.commands.mine.settings import MineSettings, OutputFormat, output_problem
from aisle.commands.mine.training_data import TrainingFiles
from aisle.commands.mine.write_pairs import write_pairs
from aisle.commands.output import Output
from aisle.data.dpr_json import write_dpr
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.mining.exclusions import Exclusions, NearDuplicates
from aisle.mining.hard_negatives import mine_negatives
from aisle.mining.known_products import KnownProducts
from aisle.mining.mined import Mined, MinedNegative
from aisle.mining.mined_catalog import MinedCatalog
from aisle.mining.mining_anchors import Anchor, anchors_of_pairs, anchors_of_queries
from aisle.mining.mining_figures import FalseNegatives, false_negatives
from aisle.mining.product_groups import ProductGroups


def mine(settings: MineSettings) -> Path:
    """Write the training data with mined hard negatives, report what was excluded, and return the file.

    Raises:
        AisleError: The pairs, the catalogue, the index or the model cannot be used, or the file cannot be
            written.
    """
    output = Output(json_only=settings.json)
    training = TrainingFiles.of(settings)
    output_format = _output_format(settings, training)
    with tempfile.TemporaryDirectory(prefix="aisle-mine-") as folder:
        searched = open_catalog(settings, Path(folder), output)
        catalog = searched.catalog
        columns = group_columns(settings, catalog, training.settings)
        data = judged_data(training, catalog, output.log)
        positives = find_positives(data)
        held_out = _held_out_pairs(settings, catalog, output)
        search = product_search(settings, searched, output)
        exclusions = Exclusions(
            data.known,
            ProductGroups.of(data.pairs, data.known, columns),
            None if search.embeddings is None else NearDuplicates(search.embeddings, settings.near_duplicate),
            settings.chosen_margin,
        )
        anchors = _anchors(settings, output_format, data)
        distinct = list(dict.fromkeys(anchor for anchor in anchors if anchor is not None))
        with output.progress("mining", len({anchor.query for anchor in distinct})) as bar:
            mined = mine_negatives(
                distinct,
                catalog=catalog,
                rows=data.rows,
                exclusions=exclusions,
                ranking=search.ranking,
                per_query=settings.per_query,
                on_progress=bar.advance,
                teacher=None if settings.teacher is None else teacher_named(settings.teacher),
            )
        path = Path(settings.output_file)
        if output_format == "pairs":
            found = [[] if anchor is None else mined.negatives[anchor] for anchor in anchors]
            write_pairs(data.pairs, found, path)
        else:
            by_query = {anchor.query: negatives for anchor, negatives in mined.negatives.items()}
            _write_questions(training, data.pairs, by_query, catalog, path)
        false = None if held_out is None else _false_negatives(mined, held_out, catalog)
    if settings.embedding_cache is None:
        shutil.rmtree(cache_folder(settings), ignore_errors=True)
    report = MiningReport(settings, len(data.pairs), positives, mined, search, false)
    report.write(path)
    report.show(output)
    return path


def _held_out_pairs(settings: MineSettings, catalog: MinedCatalog, output: Output) -> Pairs | None:
    """Return the held-out pairs, which are read before anything is written; None if there are none."""
    if settings.held_out_file is None:
        return None
    held_out = TrainingFiles.of(replace(settings, train_file=settings.held_out_file))
    return held_out.pairs(catalog, output.log, name="held out")


def _false_negatives(mined: Mined, held_out: Pairs, catalog: MinedCatalog) -> FalseNegatives:
    """Return how many negatives the held-out pairs judge relevant."""
    known = KnownProducts.of(held_out, catalog.texts_of(held_out.product_ids or ()))
    return false_negatives(mined, held_out, known)


def _output_format(settings: MineSettings, training: TrainingFiles) -> OutputFormat:
    """Return the format of the output, and refuse a format that does not fit the data or the file's name."""
    if training.is_dpr and settings.output_format == "pairs":
        raise ConfigError(
            "--output_format pairs: the training data are DPR's json, which keeps titles and answers; leave "
            "out --output_format"
        )
    output_format = settings.output_format or ("dpr" if training.is_dpr else "pairs")
    if settings.graded and output_format == "dpr":
        raise ConfigError(
            "--graded: DPR's json has no levels of relevance, only one list of hard negatives for all "
            "positives of a question; leave it out, or write pairs"
        )
    problems = output_problem(settings.output_file, output_format)
    if problems:
        raise ConfigError("\n".join(problems))
    return output_format


def _anchors(
    settings: MineSettings, output_format: OutputFormat, data: JudgedData
) -> Sequence[Anchor | None]:
    """Return the anchor of each pair; for DPR's json, which has a list for all positives, of each query."""
    if output_format == "dpr":
        return anchors_of_queries(data.pairs, data.known, data.rows)
    by_product = settings.chosen_margin is not None
    return anchors_of_pairs(data.pairs, data.known, data.rows, graded=settings.graded, by_product=by_product)


def _write_questions(
    training: TrainingFiles,
    pairs: Pairs,
    negatives: Mapping[str, Sequence[MinedNegative]],
    catalog: MinedCatalog,
    path: Path,
) -> None:
    if training.is_dpr:
        write_dpr(with_negatives(good_questions(training), negatives, catalog), path)
    else:
        write_dpr(questions_of_pairs(pairs, negatives, catalog), path)
