"""Layouts of training data besides aisle's own: DPR's json and simpletransformers' retrieval tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aisle.data.column_aliases import PAIR_HARD_NEGATIVES
from aisle.data.dpr_json import CONTEXTS, HARD_NEGATIVES, POSITIVES, QUESTION, context_text
from aisle.data.pair_rows import PairColumns
from aisle.data.pair_shapes import negative_columns
from aisle.data.rows import Problem, Row, find_column, require_columns
from aisle.data.templates import TextTemplate, parse_template
from aisle.data.unread_numbers import NO_LABELS
from aisle.errors import DataError
from aisle.types.choices import OWN_COLUMNS, TrainFormat

__all__ = ["RowFormat", "row_format"]

QUERY_TEXT, GOLD_PASSAGE, HARD_NEGATIVE, TITLE = "query_text", "gold_passage", "hard_negative", "title"
"""Columns of simpletransformers' RetrievalModel."""


@dataclass(frozen=True)
class RowFormat:
    """How rows of another layout become rows of pairs.

    Attributes:
        description: Name of the layout, for people.
        columns: Columns of the resulting pairs; None finds them by the flags and names for pairs.
        convert: Function from a row to the rows of its pairs; a row that cannot be used has its problem.
        joins_titles: Whether titles are joined to texts with the separator token of BERT.
    """

    description: str
    columns: PairColumns | None
    convert: Callable[[Row], Iterator[Row]]
    joins_titles: bool = False


def row_format(
    row: Row, train_format: TrainFormat, *, wanted: PairColumns, text_template: str | None = None
) -> RowFormat | None:
    """Return how to convert the rows of a source, or None for rows of pairs, which stay as they are.

    Args:
        row: First good row of the source.
        train_format: Format that the user named; `auto` finds it by the columns.
        wanted: Columns that the user named; `auto` then reads pairs.
        text_template: Template of a passage's text; None is the default of the format.

    Raises:
        DataError: A column of the named format is missing.
        ConfigError: The template is malformed.
    """
    if train_format == "auto":
        named = wanted.query is not None or wanted.product is not None
        found = [name for name, columns in _COLUMNS.items() if set(columns) <= row.values.keys()]
        train_format = "pairs" if named or not found else found[0]
    elif train_format in OWN_COLUMNS:
        require_columns(row, _COLUMNS[train_format], flag="another --train_format")
    if train_format == "triples":
        return _triples(row, wanted)
    if train_format not in OWN_COLUMNS:
        return None
    template = None if text_template is None else parse_template(text_template)
    return _dpr(template) if train_format == "dpr" else _simpletransformers(row, template)


_COLUMNS: Mapping[TrainFormat, tuple[str, ...]] = {
    "dpr": (QUESTION, POSITIVES),
    "simpletransformers": (QUERY_TEXT, GOLD_PASSAGE),
}


def _triples(row: Row, wanted: PairColumns) -> RowFormat:
    listed = find_column(row, wanted.hard_negatives, PAIR_HARD_NEGATIVES)
    names = negative_columns(row) if listed is None else (listed,)
    if not names:
        raise DataError(
            f"{row.source}: --train_format triples needs a column of negatives, and there is "
            f"none; its name is negative, negative_1, ..., or {', '.join(PAIR_HARD_NEGATIVES)}. Name another "
            f"with --hard_negatives_column. The columns are: {', '.join(row.values)}."
        )

    def convert(row: Row) -> Iterator[Row]:
        cells = [row.values.get(name) for name in names]
        if row.problem is None and all(_is_empty(cell) for cell in cells):
            reason = (
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} empty; a triple has a negative"
            )
            row = row._replace(values={}, problem=Problem(reason, cells))
        yield row

    return RowFormat("triples", None, convert)


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or cell in ([], "[]")


def _dpr(template: TextTemplate | None) -> RowFormat:
    columns = PairColumns(query=QUESTION, product=POSITIVES, label=NO_LABELS, hard_negatives=HARD_NEGATIVES)

    def convert(row: Row) -> Iterator[Row]:
        if row.problem is not None:
            yield row
            return
        texts: dict[str, list[str]] = {}
        for name in CONTEXTS:
            found = _texts(name, row.values.get(name), template)
            if isinstance(found, Problem):
                yield row._replace(values={}, problem=found)
                return
            texts[name] = found
        positives, negatives = texts[POSITIVES], texts[HARD_NEGATIVES]
        problem = _contradiction(positives, negatives, row.values.get(POSITIVES))
        if problem is not None:
            yield row._replace(values={}, problem=problem)
            return
        for positive in dict.fromkeys(positives):
            values = {QUESTION: row.values.get(QUESTION), POSITIVES: positive, HARD_NEGATIVES: negatives}
            yield row._replace(values=values, declared=None)

    return RowFormat("DPR's json", columns, convert, joins_titles=template is None)


def _contradiction(positives: Sequence[str], negatives: Sequence[str], found: object) -> Problem | None:
    if not positives:
        return Problem(f"{POSITIVES} is empty; a question needs a passage that answers it", found)
    both = next((text for text in negatives if text in positives), None)
    return None if both is None else Problem(f"{HARD_NEGATIVES} holds a positive of the question", both)


def _texts(name: str, contexts: object, template: TextTemplate | None) -> list[str] | Problem:
    """Return the texts of a list of contexts; a list that is missing is empty."""
    if contexts is None:
        return []
    if not isinstance(contexts, list):
        return Problem(f"{name} is not a list of contexts", contexts)
    texts = []
    for context in contexts:
        text = context_text(context, template)
        if isinstance(text, Problem):
            return Problem(f"{name} holds a context {text.reason}", text.found)
        texts.append(text)
    return texts


def _simpletransformers(row: Row, template: TextTemplate | None) -> RowFormat:
    if template is None:
        template = parse_template(
            f"{{{TITLE}}} {{{GOLD_PASSAGE}}}" if TITLE in row.values else f"{{{GOLD_PASSAGE}}}"
        )
    has_negatives = HARD_NEGATIVE in row.values
    columns = PairColumns(
        query=QUERY_TEXT,
        product=GOLD_PASSAGE,
        label=NO_LABELS,
        hard_negatives=HARD_NEGATIVE if has_negatives else None,
    )

    def convert(row: Row) -> Iterator[Row]:
        if row.problem is not None:
            yield row
            return
        passage, negative = row.values.get(GOLD_PASSAGE), row.values.get(HARD_NEGATIVE)
        # A title alone is no passage: a blank passage stays blank, and its row is bad.
        blank = not isinstance(passage, str) or not passage.strip()
        text = passage if blank else template.render(row.values)
        if isinstance(text, Problem):
            yield row._replace(values={}, problem=text)
            return
        values = {QUERY_TEXT: row.values.get(QUERY_TEXT), GOLD_PASSAGE: text}
        if has_negatives:
            is_blank = _is_empty(negative)
            values[HARD_NEGATIVE] = [] if is_blank else [negative]
            if not is_blank and negative == passage:
                problem = Problem(f"{HARD_NEGATIVE} equals the row's own {GOLD_PASSAGE}", negative)
                yield row._replace(values={}, problem=problem)
                return
        yield row._replace(values=values, declared=None)

    return RowFormat("simpletransformers' columns", columns, convert)
