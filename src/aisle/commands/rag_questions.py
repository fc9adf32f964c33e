"""Read the questions of `rag` with their answers, those to train on and those to hold out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aisle.commands.rag_settings import RagSettings
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns, Pairs, check_disjoint, query_key, read_pairs, split_by_query
from aisle.data.text_files import TextFormat
from aisle.data.unread_numbers import NO_LABELS

__all__ = ["RagQuestions", "read_questions"]


@dataclass(frozen=True, eq=False)
class RagQuestions:
    """Questions with their answers.

    Attributes:
        questions: All questions.
        answers: Answer to each question.
        train: Numbers of the questions to train on.
        held_out: Numbers of the questions that are held out.
    """

    questions: list[str]
    answers: list[str]
    train: np.ndarray
    held_out: np.ndarray


def read_questions(settings: RagSettings, log: Callable[[str], None]) -> RagQuestions:
    """Return the questions of --train_file and --validation_file, or hold out a share of the former.

    Args:
        settings: Settings of the command.
        log: Logs the rows that were left out.

    Raises:
        DataError: A file cannot be read, rows are bad, or there are too few questions.
    """
    train = _read(settings.train_file, settings, log, name="train")
    if settings.validation_file is not None:
        held_out = _read(settings.validation_file, settings, log, name="validation")
        shared = check_disjoint(train, held_out)
        if shared:
            log(
                f"warning: {shared:,} validation questions are training questions too; their figures will be "
                "too good"
            )
        count = len(train)
        return RagQuestions(
            train.queries + held_out.queries,
            train.products + held_out.products,
            np.arange(count),
            np.arange(count, count + len(held_out)),
        )
    _, validation = split_by_query(train, validation_share=settings.validation_share, seed=settings.seed)
    keys = set(map(query_key, validation.queries))
    is_held_out = np.array([query_key(query) in keys for query in train.queries])
    numbers = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    return RagQuestions(train.queries, train.products, *numbers)


def _read(files: Sequence[str], settings: RagSettings, log: Callable[[str], None], *, name: str) -> Pairs:
    columns = PairColumns(query=settings.query_column, product=settings.answer_column, label=NO_LABELS)
    rows = iter_rows(expand_files(files), text=TextFormat.of(settings.delimiter, settings.encoding))
    read = read_pairs(rows, columns=columns, label_map=None, on_bad_row=settings.on_bad_row)
    if read.bad_rows.total:
        log(f"{name}: {read.bad_rows}")
    return read.pairs
