"""DPR's json: questions with positive, negative and hard-negative passages, read and written.

A file is an array of objects with `dataset`, `question`, `answers`, `positive_ctxs`, `negative_ctxs` and
`hard_negative_ctxs`; a context has `title`, `text`, `score`, `title_score` and `passage_id` or `psg_id`
(Karpukhin et al., Dense Passage Retrieval, https://arxiv.org/abs/2004.04906).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from aisle.data.rows import Problem, id_text, is_unicode, text_problem
from aisle.data.templates import TextTemplate
from aisle.io.arrow_writer import writing
from aisle.io.durable import replacing

__all__ = [
    "HARD_NEGATIVES",
    "NEGATIVES",
    "POSITIVES",
    "QUESTION",
    "SEPARATOR",
    "context_text",
    "passage_id",
    "write_dpr",
]

QUESTION, POSITIVES, HARD_NEGATIVES = "question", "positive_ctxs", "hard_negative_ctxs"
NEGATIVES = "negative_ctxs"
"""Other negatives, which are read for a question without hard negatives, as in DPR."""
SEPARATOR = "[SEP]"
"""Token between a title and its text. DPR encodes them as a pair, which gives BERT the same tokens."""


def context_text(context: object, template: TextTemplate | None) -> str | Problem:
    """Return the text of a passage, or the problem with it.

    Args:
        context: Passage, an object with `text` and usually `title`.
        template: Template of the text; None joins title and text as DPR does, with `SEPARATOR`, and a text
            without a title stays alone.
    """
    if not isinstance(context, Mapping):
        return Problem("that is not an object with a text", context)
    if template is not None:
        found = template.render(context)
        return Problem(f"whose {found.reason}", found.found) if isinstance(found, Problem) else found
    title, text = context.get("title"), context.get("text")
    reason = text_problem(text)
    if reason is not None:
        return Problem(f"whose text {reason}", context)
    reason = None if title is None or title == "" else text_problem(title)
    if reason == "is blank" or not title:
        return str(text)
    return f"{title} {SEPARATOR} {text}" if reason is None else Problem(f"whose title {reason}", context)


def passage_id(context: Mapping[str, object]) -> str | None:
    """Return the id of a passage, `passage_id` or `psg_id`, as text; None if it has no id."""
    for name in ("passage_id", "psg_id"):
        identity = id_text(context.get(name))
        if isinstance(identity, str):
            return identity
    return None


def write_dpr(questions: Iterable[Mapping[str, object]], path: Path) -> int:
    """Write a DPR file in one step, and return the number of questions.

    Args:
        questions: Questions in DPR's layout; they are written as they are, one after the other.
        path: Path of the file, which is replaced if it exists.

    Raises:
        DataError: The file cannot be written.
    """
    count = 0
    with (
        writing(path, what="questions", mend="Free some space or name another file."),
        replacing(path) as beside,
        beside.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write("[")
        for question in questions:
            text = json.dumps(question, ensure_ascii=False)
            # Lone surrogates, in fields that nothing reads, can be written as escapes only.
            text = text if is_unicode(text) else json.dumps(question)
            stream.write((",\n" if count else "\n") + text)
            count += 1
        stream.write("\n]\n")
    return count
