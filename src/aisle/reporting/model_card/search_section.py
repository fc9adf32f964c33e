"""The section of a model card about search over a whole catalogue, written anew by each evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aisle.errors import ModelError
from aisle.reporting.markdown import escaped, image, table
from aisle.reporting.model_card.metadata import with_results

__all__ = ["FIGURES_FOLDER", "SearchResults", "check_markers", "with_search_results"]

FIGURES_FOLDER = "evaluation"
"""Folder of a run that holds the charts of its card."""
BEGIN = "<!-- aisle:search begin; each evaluation writes this section anew, up to the line with its end -->"
END = "<!-- aisle:search end -->"
_SYSTEMS = {
    "bm25": "search by words (BM25)",
    "base": "the model that this one is held against",
    "tuned": "this model",
    "hybrid": "words and this model together",
}
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class SearchResults:
    """What an evaluation found, as far as the card tells it; all text is plain.

    Args:
        sentence: what it means.
        header: of the table of systems; the first column names them.
        rows: of that table.
        queries: judged, that the figures are means over.
        products: in the catalogue.
        metrics: of this model, by name such as "ndcg@10": (name for people, value).
        alt_texts: of the charts, by name.
    """

    sentence: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    queries: int
    products: int
    metrics: Mapping[str, tuple[str, float]]
    alt_texts: Mapping[str, str]


def with_search_results(card: str, results: SearchResults) -> str:
    """Return a card with these results in place of those it had; all else stays, byte for byte.

    The section stands between two comments; a card without them gets it after its section "Results", or at
    its end. The metadata's model-index gets the figures of this model.

    Raises:
        ModelError: one comment is there without the other, or the metadata cannot be read.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    section = _section(results).replace("\n", newline)
    return with_results(_with_section(card, section, newline), results.metrics, _data_set(results))


def check_markers(card: str) -> None:
    """Refuse a card whose section cannot be found again.

    Raises:
        ModelError: one comment is there without the other.
    """
    _marked(_lines(card))


def _section(results: SearchResults) -> str:
    named = [f"`{row[0]}` is {_SYSTEMS[row[0]]}" for row in results.rows if row[0] in _SYSTEMS]
    systems = f" {', '.join(named)}." if named else ""
    parts = [
        BEGIN,
        "## Search over a catalogue",
        escaped(results.sentence),
        f"Means over {_data_set(results)}; in brackets their 95% bootstrap intervals.{systems} Products that"
        " nobody has judged count as not relevant, queries without an answer as 0.",
        table(_escaped(results.header), list(map(_escaped, results.rows))),
        *(image(alt, f"{FIGURES_FOLDER}/{name}.png") for name, alt in results.alt_texts.items()),
        END,
    ]
    return "\n\n".join(parts) + "\n"


def _data_set(results: SearchResults) -> str:
    queries, products = (
        f"{count:,} {one if count == 1 else many}"
        for count, one, many in (
            (results.queries, "judged query", "judged queries"),
            (results.products, "product", "products"),
        )
    )
    return f"{queries} over a catalogue of {products}"


def _escaped(cells: Sequence[str]) -> list[str]:
    return list(map(escaped, cells))


def _with_section(card: str, section: str, newline: str) -> str:
    lines = _lines(card)
    place = _marked(lines)
    if place is not None:
        begin, end = place
        return "".join([*lines[:begin], section, *lines[end + 1 :]])
    at = _after_results(lines)
    before, after = "".join(lines[:at]), "".join(lines[at:])
    if before and not before.endswith("\n"):
        before += newline
    blank = newline if before and lines[at - 1].strip() else ""
    return before + blank + section + (newline if after else "") + after


def _lines(card: str) -> list[str]:
    """Return the lines with their ends; only line feeds end one."""
    return _LINE.findall(card)


def _marked(lines: Sequence[str]) -> tuple[int, int] | None:
    """Return the lines of the two comments, None where there are none."""
    begins, ends = (
        [at for at, line in enumerate(lines) if line.strip() == marker] for marker in (BEGIN, END)
    )
    if not begins and not ends:
        return None
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0]
    raise ModelError(
        f"README.md: must have the line {BEGIN!r} once and the line {END!r} once after it; found "
        f"{len(begins)} and {len(ends)}. Take out both, and the section comes after the results"
    )


def _after_results(lines: Sequence[str]) -> int:
    """Return the line of the heading that ends the section "Results", or how many lines there are."""
    headings = list(_headings(lines))
    results = next((at for at, title in headings if title == "## Results"), None)
    following = (at for at, _ in headings if results is not None and at > results)
    return next(following, len(lines))


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the headings of the first two levels, those in blocks of code left out."""
    fence = ""
    for at, line in enumerate(lines):
        found = _FENCE.match(line)
        if fence:
            closes = found is not None and found[1].startswith(fence)
            fence = "" if closes and not line.strip().strip(fence[0]) else fence
        elif found is not None:
            fence = found[1]
        elif line.startswith(("# ", "## ")):
            yield at, line.strip()
