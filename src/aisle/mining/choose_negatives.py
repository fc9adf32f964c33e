"""Choose the negatives of anchors among the products that the rules leave, with or without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aisle.mining.mined import Mined, MinedNegative
from aisle.mining.mined_catalog import MinedCatalog
from aisle.mining.mining_anchors import Anchor

__all__ = ["Choice", "Teacher", "TeacherTexts", "choose"]

Teacher: TypeAlias = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""Function of pairs of a query and a text that returns a logit for each: (pairs,) float32."""


@dataclass(eq=False)
class Choice:
    """An anchor, the products that the rules leave for it, and those that are chosen.

    Attributes:
        anchor: Anchor.
        left: Products that the rules leave, best ranked first; drawn only as far as needed.
        found: Chosen negatives.
    """

    anchor: Anchor
    left: Iterator[MinedNegative]
    found: list[MinedNegative] = field(default_factory=list)


@dataclass(frozen=True)
class TeacherTexts:
    """A teacher, with the scores that it has given: no pair is scored twice.

    Attributes:
        teacher: Scores pairs.
        catalog: Catalogue with the texts of positives.
    """

    teacher: Teacher
    catalog: MinedCatalog
    _scores: dict[tuple[str, str], float] = field(default_factory=dict)

    def limits(self, anchors: Sequence[Anchor]) -> list[float]:
        """Return the lowest score of each anchor's positives; 0, the logit of an even chance, without any."""
        rows = sorted({row for anchor in anchors for row in anchor.positives})
        products = self.catalog.at(np.array(rows, np.int64))
        text_of = {row: product.text for row, product in zip(rows, products, strict=True)}
        pairs = [[(anchor.query, text_of[row]) for row in anchor.positives] for anchor in anchors]
        self.score([pair for of_anchor in pairs for pair in of_anchor])
        return [min((self._scores[pair] for pair in of_anchor), default=0.0) for of_anchor in pairs]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the teacher's score of each pair."""
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._scores))
        if new:
            self._scores.update(zip(new, self.teacher(new).tolist(), strict=True))
        return [self._scores[pair] for pair in pairs]


def choose(choices: Sequence[Choice], texts: TeacherTexts | None, mined: Mined) -> None:
    """Choose up to `mined.per_query` negatives of each anchor; count those that the teacher excludes.

    The teacher scores as many products as are still wanted, those of all anchors together, until every anchor
    has enough or no products are left.

    Args:
        choices: Anchors, to which the chosen negatives are added.
        texts: Teacher; None chooses all that the rules leave.
        mined: Number of negatives to choose, and the counts of excluded products.
    """
    limits = [0.0] * len(choices) if texts is None else texts.limits([one.anchor for one in choices])
    while True:
        drawn = [
            (choice, limit, one)
            for choice, limit in zip(choices, limits, strict=True)
            for one in islice(choice.left, mined.per_query - len(choice.found))
        ]
        if not drawn:
            return
        pairs = [(choice.anchor.query, one.text) for choice, _, one in drawn]
        scores = [-np.inf] * len(pairs) if texts is None else texts.score(pairs)
        for (choice, limit, one), score in zip(drawn, scores, strict=True):
            if score >= limit:
                mined.excluded["above the teacher"] += 1
            else:
                choice.found.append(one)
