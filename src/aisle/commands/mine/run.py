"""Run `mine`: read pairs and products, exclude what is right, write the pairs with their hard negatives."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aisle.commands.mine.dpr_questions import (
    good_questions,
    passages_of,
    questions_of_pairs,
    with_negatives,
)
from aisle.commands.mine.report import find_positives, show_report
from aisle.commands.mine.searched_catalog import open_catalog
from aisle.commands.mine.settings import MineSettings, OutputFormat, output_problem
from aisle.commands.mine.training_data import TrainingFiles
from aisle.commands.mine.write_pairs import write_pairs
from aisle.commands.output import Output
from aisle.data.dpr_json import write_dpr
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.mining.hard_negatives import Mined, bm25_ranking, mine_negatives
from aisle.mining.known_products import KnownProducts
from aisle.mining.mined_catalog import MinedCatalog


def mine(settings: MineSettings) -> Path:
    """Write the training data with mined hard negatives, report what was excluded, and return the file.

    Raises:
        AisleError: The pairs, the catalogue or the index cannot be used, or the file cannot be written.
    """
    output = Output(json_only=settings.json)
    training = TrainingFiles.of(settings)
    output_format = _output_format(settings, training)
    with tempfile.TemporaryDirectory(prefix="aisle-mine-") as folder:
        catalog = open_catalog(settings, Path(folder), output)
        pairs = training.pairs(catalog, output.log)
        texts = catalog.texts_of(pairs.product_ids or ())
        positives = find_positives(pairs, catalog, texts)
        passages = passages_of(good_questions(training)) if training.is_dpr else {}
        known = KnownProducts.of(pairs, texts, passages=passages)
        queries = list(dict.fromkeys(pairs.queries))
        with output.progress("mining", len(queries)) as bar:
            mined = mine_negatives(
                queries,
                catalog=catalog,
                known=known,
                ranking=bm25_ranking(catalog, depth=settings.depth),
                per_query=settings.per_query,
                on_progress=bar.advance,
            )
        _write(Path(settings.output_file), output_format, training, pairs, mined, catalog)
    show_report(settings, pairs, positives, mined, output)
    return Path(settings.output_file)


def _output_format(settings: MineSettings, training: TrainingFiles) -> OutputFormat:
    """Return the format of the output, and refuse a format that does not fit the data or the file's name."""
    if training.is_dpr and settings.output_format == "pairs":
        raise ConfigError(
            "--output_format pairs: the training data are DPR's json, which keeps titles and answers; leave "
            "out --output_format"
        )
    output_format = settings.output_format or ("dpr" if training.is_dpr else "pairs")
    problems = output_problem(settings.output_file, output_format)
    if problems:
        raise ConfigError("\n".join(problems))
    return output_format


def _write(
    path: Path,
    output_format: OutputFormat,
    training: TrainingFiles,
    pairs: Pairs,
    mined: Mined,
    catalog: MinedCatalog,
) -> None:
    if output_format == "pairs":
        write_pairs(pairs, mined, path)
    elif training.is_dpr:
        write_dpr(with_negatives(good_questions(training), mined, catalog), path)
    else:
        write_dpr(questions_of_pairs(pairs, mined, catalog), path)
