"""Parse a row into a pair, and check its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from aisle.data.catalog_texts import ProductTexts
from aisle.data.labels import LabelReader
from aisle.data.pair_cells import read_hard_negatives, read_product_group, read_score, read_scores
from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, id_text, is_unicode, text_problem
from aisle.errors import DataError

__all__ = ["PairParser"]


class PairParser:
    """Parser from the values of a row to the tuple that is stored.

    Args:
        columns: Columns from `find_pair_columns`.
        label_map: Label to relevance in [0, 1]; None if the labels are numbers.
        products: Texts of products and hard negatives by id; None if the rows have the texts.
        most_hard_negatives: Hard negatives of a pair to keep, the first of its list; None keeps all.
        label_max: Highest label, by which labels are divided.

    Raises:
        DataError: There is a map but no label column, or the map is out of range.
    """

    def __init__(
        self,
        columns: PairColumns,
        label_map: Mapping[str, float] | None,
        products: ProductTexts | None = None,
        *,
        most_hard_negatives: int | None = None,
        label_max: float = 1,
    ) -> None:
        if label_map is not None and columns.label is None:
            raise DataError(
                "--label_map is given, but the data has no label column; name it with --label_column."
            )
        self.columns = columns
        self.labels = LabelReader(
            columns.label or "", label_map=label_map, highest=label_max, divisor=label_max
        )
        self._products = products
        self._most_negatives = most_hard_negatives
        roles = {
            "query": columns.query,
            "product": columns.product if products is None else columns.product_id,
            "query_id": columns.query_id,
            "product_id": columns.product_id,
            "group": columns.group if columns.texts_of_groups else None,
            "subgroup": columns.subgroup,
            "relevance": columns.label,
            "hard_negatives": columns.hard_negatives,
            "teacher_score": columns.teacher_score,
            "product_group": None if columns.texts_of_groups else columns.group,
            "negative_teacher_scores": columns.negative_scores,
        }
        self.roles = {role: column for role, column in roles.items() if column is not None}
        others = {
            **{"relevance": "float32", "hard_negatives": "list<string>", "teacher_score": "float32"},
            **{"product_group": "string", "negative_teacher_scores": "list<float32>"},
        }
        self.schema = {role: others.get(role, "string") for role in self.roles}
        self._texts = [column for role, column in self.roles.items() if role not in others]
        self._get_texts = itemgetter(*self._texts)
        readers: dict[str | None, Callable[[object, object], object]] = {
            columns.label: lambda value, _: self.labels.read(value),
            columns.hard_negatives: self._read_negatives,
            columns.teacher_score: self._read_score,
            self.roles.get("product_group"): lambda value, _: read_product_group(str(columns.group), value),
        }
        self._readers = {column: read for column, read in readers.items() if column is not None}

    def parse(self, values: Mapping[str, object]) -> tuple[object, ...] | Problem:
        """Return the pair in the order of `schema`, or the problem with the row."""
        try:
            texts: tuple[object, ...] = self._get_texts(values)
        except KeyError:
            texts = tuple(map(values.get, self._texts))
        if self._products is not None:
            text = self._products.text(self._texts[1], texts[1])
            if isinstance(text, Problem):
                return text
            texts = (texts[0], text, *texts[2:])
        if not _are_texts(texts):
            checked = self._check(texts)
            if isinstance(checked, Problem):
                return checked
            texts = checked
        pair = texts
        for column, read in self._readers.items():
            found = read(values.get(column), texts[1])
            if isinstance(found, Problem):
                return found
            pair = (*pair, found)
        if self.columns.negative_scores is None:
            return pair
        scores = self._read_negative_scores(self.columns.negative_scores, values)
        return scores if isinstance(scores, Problem) else (*pair, scores)

    def _read_negatives(self, value: object, product: object) -> list[str] | Problem:
        column = str(self.columns.hard_negatives)
        read = read_hard_negatives(column, value, product=product, catalog=self._products)
        return read if isinstance(read, Problem) else read[: self._most_negatives]

    def _read_negative_scores(self, column: str, values: Mapping[str, object]) -> list[float] | Problem:
        texts = values.get(self.columns.hard_negatives or "")
        read = read_scores(column, values.get(column), texts=texts)
        return read if isinstance(read, Problem) else read[: self._most_negatives]

    def _read_score(self, value: object, _product: object) -> float | Problem:
        return read_score(str(self.columns.teacher_score), value)

    def _check(self, values: tuple[object, ...]) -> tuple[object, ...] | Problem:
        """Return the texts, then the ids as texts, or the first problem."""
        for column, value in zip(self._texts[:2], values, strict=False):
            reason = text_problem(value)
            if reason is not None:
                return Problem(f"{column} {reason}", value)
        ids = [id_text(value) for value in values[2:]]
        for column, identity in zip(self._texts[2:], ids, strict=True):
            if isinstance(identity, Problem):
                return Problem(f"{column} {identity.reason}", identity.found)
        return (*values[:2], *ids)


def _are_texts(values: tuple[Any, ...]) -> bool:
    """Return whether `text_problem` accepts all values; fast, because nearly all rows pass."""
    try:
        return all(map(str.strip, values)) and is_unicode("".join(values))
    except TypeError:
        return False
