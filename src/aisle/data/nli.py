"""Join rows of natural language inference (SNLI, MNLI) into triples of anchor, positive and negatives.

A row has a premise, a hypothesis and a label: the premise entails the hypothesis, contradicts it, or neither
(neutral). Each hypothesis that a premise entails becomes a pair, with all hypotheses that contradict the
premise as hard negatives. So each entailment meets each contradiction of its premise, as in the NLI training
script of sentence-transformers, https://sbert.net/examples/sentence_transformer/training/nli/README.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, Row, require_columns, text_problem
from aisle.data.triple_rows import ANCHOR, NEGATIVES, POSITIVE
from aisle.errors import DataError

__all__ = ["find_nli_columns", "is_nli", "join_nli"]

_LAYOUTS = (
    PairColumns(query="premise", product="hypothesis", label="label"),
    PairColumns(query="sentence1", product="sentence2", label="gold_label"),
)
"""Columns on the Hub, and in the files of the original releases."""
ENTAILMENT, NEUTRAL, CONTRADICTION, UNLABELLED = "entailment", "neutral", "contradiction", "without a label"
_LABELS: Mapping[str, str] = {
    **{name: name for name in (ENTAILMENT, NEUTRAL, CONTRADICTION)},
    **{"0": ENTAILMENT, "1": NEUTRAL, "2": CONTRADICTION},
    **{"-1": UNLABELLED, "-": UNLABELLED},
}
"""Label, as a word or as the number of SNLI, MNLI and GLUE; annotators did not agree on -1 and -.

Numbers with names of their own, the classes of `datasets`, are read by their names instead.
"""
_NUMBERS = "0 entailment, 1 neutral, 2 contradiction or -1"


def is_nli(row: Row) -> bool:
    """Return whether a row has the columns of SNLI and MNLI, on the Hub or in their releases."""
    return _layout(row) is not None


def _layout(row: Row) -> PairColumns | None:
    return next((one for one in _LAYOUTS if _named(one) <= row.values.keys()), None)


def _named(columns: PairColumns) -> set[str]:
    return {name for name in (columns.query, columns.product, columns.label) if name is not None}


def find_nli_columns(row: Row, wanted: PairColumns) -> PairColumns:
    """Return the columns of premise (query), hypothesis (product) and label.

    Args:
        row: First good row.
        wanted: Columns that the user named; None for those to find by their names.

    Raises:
        DataError: A column is missing.
    """
    found = _layout(row) or PairColumns()
    columns = PairColumns(
        query=wanted.query or found.query,
        product=wanted.product or found.product,
        label=wanted.label or found.label,
    )
    if len(_named(columns)) < 3:
        usual = " or ".join(", ".join(map(str, (one.query, one.product, one.label))) for one in _LAYOUTS)
        raise DataError(
            f"{row.source}: there are no columns of premise, hypothesis and label; their names are {usual}. "
            "Name others with --query_column, --product_column and --label_column. The columns are: "
            f"{', '.join(row.values)}."
        )
    require_columns(row, sorted(_named(columns)))
    return columns


@dataclass
class _Premise:
    """Hypotheses of a premise, without duplicates and in the order of rows."""

    row: Row
    entailments: dict[str, None] = field(default_factory=dict)
    contradictions: dict[str, None] = field(default_factory=dict)


def join_nli(rows: Iterator[Row], *, wanted: PairColumns, log: Callable[[str], None]) -> Iterator[Row]:
    """Yield bad rows, then a row for each premise and entailment, with the premise's contradictions.

    The columns are those of `triple_rows.triple_columns`.

    Rows of several sources are joined by the text of the premise, whatever other columns each source has.
    The premises are held in memory: rows of the number and length of SNLI and MNLI take a third of a GB.

    Args:
        rows: Rows of one or more sources.
        wanted: Columns that the user named.
        log: Function called with the counts of labels, and of premises that make no triple.

    Raises:
        DataError: A column is missing, the classes of the labels have other names, or no premise has an
            entailment and a contradiction.
    """
    premises: dict[str, _Premise] = {}
    counts: Counter[str] = Counter()
    source, classes, columns, reading = None, None, wanted, _Reading(_LABELS, _NUMBERS)
    for row in rows:
        if row.problem is not None:
            yield row
            continue
        if row.source != source or row.class_names is not classes:
            columns, source, classes = find_nli_columns(row, wanted), row.source, row.class_names
            reading = _reading(row, str(columns.label))
        label = _read(row, columns, reading)
        if isinstance(label, Problem):
            yield row._replace(values={}, problem=label)
            continue
        counts[label] += 1
        if label in (ENTAILMENT, CONTRADICTION):
            text = str(row.values[str(columns.query)])
            premise = premises.setdefault(text, _Premise(row._replace(values={})))
            known = premise.entailments if label == ENTAILMENT else premise.contradictions
            known[str(row.values[str(columns.product)])] = None
    if counts:
        yield from _joined(premises, counts, log)


@dataclass(frozen=True)
class _Reading:
    """Meaning of each label of a source, and the numbers with their meanings for messages."""

    labels: Mapping[str, str]
    numbers: str


def _reading(row: Row, column: str) -> _Reading:
    """Return how to read the labels of a source: numbers by the names of its classes, if it has them.

    Raises:
        DataError: A class has an unknown name.
    """
    names = None if row.class_names is None else row.class_names.get(column)
    if names is None:
        return _Reading(_LABELS, _NUMBERS)
    meanings = [_LABELS.get(str(name).strip().lower()) for name in names]
    if None in meanings:
        raise DataError(
            f"{row.source}: the classes of {column} are named {', '.join(map(str, names))}; --train_format "
            f"nli reads {ENTAILMENT}, {NEUTRAL} and {CONTRADICTION}. Rename the classes with cast_column of "
            "datasets, or give the labels as these words."
        )
    words = {label: meaning for label, meaning in _LABELS.items() if not label.isdecimal()}
    numbers = {str(number): str(meaning) for number, meaning in enumerate(meanings)}
    return _Reading({**words, **numbers}, ", ".join(map(" ".join, numbers.items())) + " or -1")


def _read(row: Row, columns: PairColumns, reading: _Reading) -> str | Problem:
    """Return the label of a row, or the problem with its label or texts."""
    label = row.values.get(str(columns.label))
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    found = None if isinstance(label, bool) else reading.labels.get(str(label).strip().lower())
    if found is None:
        return Problem(f"{columns.label} is not {reading.numbers}", label)
    if found == UNLABELLED:
        return found
    for column in (columns.query, columns.product):
        text = row.values.get(str(column))
        reason = text_problem(text)
        if reason is not None:
            return Problem(f"{column} {reason}", text)
    return found


def _joined(
    premises: Mapping[str, _Premise], counts: Mapping[str, int], log: Callable[[str], None]
) -> Iterator[Row]:
    """Yield the joined rows. A hypothesis with both labels of the same premise is left out."""
    pairs = triples = lonely = disputed = 0
    for text, premise in premises.items():
        both = premise.entailments.keys() & premise.contradictions.keys()
        entailments = [one for one in premise.entailments if one not in both]
        contradictions = [one for one in premise.contradictions if one not in both]
        disputed += len(both)
        if not entailments or not contradictions:
            lonely += 1
            continue
        pairs += len(entailments)
        triples += len(entailments) * len(contradictions)
        for entailment in entailments:
            values: dict[str, object] = {
                ANCHOR: text,
                POSITIVE: entailment,
                NEGATIVES: contradictions,
            }
            yield premise.row._replace(values=values)
    read = ", ".join(f"{counts.get(name, 0):,} {name}" for name in (ENTAILMENT, NEUTRAL, CONTRADICTION))
    dropped = f"{counts.get(UNLABELLED, 0):,} {UNLABELLED} (-1), which are left out"
    if not pairs:
        raise DataError(
            "no premise has both an entailment and a contradiction, so there is no triple to learn from. The "
            f"rows are: {read}, and {dropped}. Give the rows of all three labels."
        )
    log(f"natural language inference: {read}, and {dropped}")
    log(
        f"natural language inference: {pairs:,} pairs of premise and entailment with their contradictions, "
        f"{triples:,} triples; {lonely:,} premises without an entailment or a contradiction are left out"
        + (f", and {disputed:,} hypotheses with both labels" if disputed else "")
    )
