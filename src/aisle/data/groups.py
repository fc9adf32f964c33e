"""Checks on the groups of texts: a group needs two texts, and training and evaluation need two groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property

from aisle.data.pairs import Pairs
from aisle.data.rows import shorten
from aisle.errors import DataError

__all__ = ["check_groups", "check_held_out"]

LARGE = 0.5
"""Share of the rows in a merged group above which groups are refused, unless a given group has that share."""


def check_groups(pairs: Pairs, *, name: str, column: str | None) -> str | None:
    """Return a note on groups of one text and texts of several groups, or None.

    Args:
        pairs: Rows of a text with its group.
        name: What the rows are for, in messages: train or validation.
        column: Column of the groups.

    Raises:
        DataError: There is a single group, no group has two different texts, or shared texts merge groups
            into a group of more than half of the rows, which no given group has.
    """
    where, found = f"--group_column {column}: {name}", Groups(pairs)
    if len(found.given) == 1:
        raise DataError(
            f"{where}: all {len(pairs):,} rows are of the group {found.groups[0]!r}. Texts of other groups "
            "are the wrong answers: give texts of at least two groups."
        )
    largest = found.rows_of.most_common(1)[0][1]
    if len(found.rows_of) == 1 or largest > LARGE * len(pairs) >= max(found.given.values()):
        raise DataError(
            f"{where}: groups that share a text count as a single group: {found.remaining}. "
            f"{len(found.shared):,} texts are in several groups, for example {found.example}. Give each text "
            "a single group."
        )
    if found.alone == len(found.rows_of):
        raise DataError(
            f"{where}: each of the {found.alone:,} groups has a single text. Texts of the same group are "
            "each other's right answers: give groups of two texts or more."
        )
    notes = []
    if found.alone:
        notes.append(
            f"{found.alone:,} of {len(found.rows_of):,} groups have a single text, which is only a negative "
            "of others"
        )
    if found.shared:
        notes.append(
            f"{len(found.shared):,} texts are in several groups; groups that share a text count as a single "
            f"group: {found.remaining}"
        )
    return f"{where}: {'; '.join(notes)}" if notes else None


def check_held_out(train: Pairs, validation: Pairs, *, column: str | None) -> None:
    """Check that both parts of a split have a group of two texts.

    Raises:
        DataError: All groups of a part have a single text.
    """
    for name, part in (("training", train), ("validation", validation)):
        found = Groups(part)
        if found.alone == len(found.rows_of):
            raise DataError(
                f"--group_column {column}: each of the {found.alone:,} groups that are left for {name} after "
                "the split has a single text, so that no text has a right answer. Give another "
                "--validation_share or --seed, or --validation_file."
            )


class Groups:
    """Groups of texts as given, and as merged by the texts that they share.

    Args:
        pairs: Rows of a text with its group.
    """

    def __init__(self, pairs: Pairs) -> None:
        from aisle.data.negatives import equality_keys  # imports SciPy

        self.texts, self.groups = pairs.products, pairs.groups
        self.merged: list[int] = equality_keys(self.texts, self.groups).tolist()
        self.given = Counter(self.groups)
        """Rows of each group as given."""
        self.rows_of = Counter(self.merged)
        """Rows of each merged group."""

    @property
    def alone(self) -> int:
        """Number of merged groups with a single distinct text."""
        texts = Counter(dict(zip(self.texts, self.merged, strict=True)).values())
        return sum(count == 1 for count in texts.values())

    @cached_property
    def shared(self) -> dict[str, list[str]]:
        """Texts of several given groups, with these groups."""
        groups_of: dict[str, set[str]] = defaultdict(set)
        for text, group in zip(self.texts, self.groups, strict=True):
            groups_of[text].add(group)
        return {text: sorted(found) for text, found in groups_of.items() if len(found) > 1}

    @property
    def remaining(self) -> str:
        """How many groups remain, and the share of the largest, for messages."""
        share = self.rows_of.most_common(1)[0][1] / len(self.texts)
        return (
            f"{len(self.rows_of):,} of {len(self.given):,} groups remain, and the largest has {share:.0%} of "
            "the rows"
        )

    @property
    def example(self) -> str:
        """The text of the most groups, with the first of them, for messages."""
        text, groups = min(self.shared.items(), key=lambda one: (-len(one[1]), one[0]))
        more = f" and {len(groups) - 3:,} more" if len(groups) > 3 else ""
        return f"{shorten(text)} in {', '.join(map(repr, groups[:3]))}{more}"
