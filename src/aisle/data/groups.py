"""Checks on the groups of texts: a group needs two texts, and training needs two groups."""

from __future__ import annotations

from collections import defaultdict

from aisle.data.pairs import Pairs
from aisle.errors import DataError

__all__ = ["check_groups"]


def check_groups(pairs: Pairs, *, name: str, column: str | None) -> str | None:
    """Return a note on groups of one text and texts of several groups, or None.

    Args:
        pairs: Rows of a text with its group.
        name: What the rows are for, in messages: train or validation.
        column: Column of the groups.

    Raises:
        DataError: There is a single group, or no group has two different texts.
    """
    texts_of: dict[str, set[str]] = defaultdict(set)
    groups_of: dict[str, set[str]] = defaultdict(set)
    for text, group in zip(pairs.products, pairs.groups, strict=True):
        texts_of[group].add(text)
        groups_of[text].add(group)
    where = f"--group_column {column}: {name}"
    if len(texts_of) == 1:
        raise DataError(
            f"{where}: all {len(pairs):,} rows are of the group {next(iter(texts_of))!r}. Texts of other "
            "groups are the negatives: give texts of at least two groups."
        )
    alone = sum(len(texts) == 1 for texts in texts_of.values())
    if alone == len(texts_of):
        raise DataError(
            f"{where}: each of the {len(texts_of):,} groups has a single text. Texts of the same group are "
            "each other's positives: give groups of two texts or more."
        )
    notes = []
    if alone:
        notes.append(
            f"{alone:,} of {len(texts_of):,} groups have a single text, which is only a negative of others"
        )
    shared = sum(len(groups) > 1 for groups in groups_of.values())
    if shared:
        notes.append(
            f"{shared:,} texts are in several groups; groups that share a text count as a single group"
        )
    return f"{where}: {'; '.join(notes)}" if notes else None
