"""The section of a model card on search over a whole catalogue; each evaluation rewrites it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisle.errors import ModelError
from aisle.reporting.markdown import escaped, image, table
from aisle.reporting.model_card.metadata import results_in, search_results, with_results

__all__ = [
    "FIGURES_FOLDER",
    "SearchResults",
    "SearchSection",
    "check_markers",
    "search_section_in",
    "with_search_results",
    "with_search_section",
]

FIGURES_FOLDER = "evaluation"
"""Folder in a run for the charts of its card."""
BEGIN = "<!-- aisle:search begin; each evaluation writes this section anew, up to the line with its end -->"
END = "<!-- aisle:search end -->"
_SYSTEMS = {
    "bm25": "lexical search (BM25)",
    "base": "the model that this model is compared with",
    "tuned": "this model",
    "hybrid": "BM25 and this model combined",
}
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class SearchResults:
    """Results of an evaluation for the card; all text is plain.

    Args:
        sentence: The evaluation's conclusion.
        header: Header of the table of systems; the first column has their names.
        rows: Rows of that table.
        queries: Number of judged queries behind the means.
        products: Number of products in the catalogue.
        metrics: Figures of this model: {name such as "ndcg@10": (display name, value)}.
        alt_texts: {chart: its alternative text}.
    """

    sentence: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    queries: int
    products: int
    metrics: Mapping[str, tuple[str, float]]
    alt_texts: Mapping[str, str]


@dataclass(frozen=True)
class SearchSection:
    """The section of a card, with its figures in the metadata.

    Args:
        text: Text of the section, from one of its two comments to the other; lines end with a line feed.
        results: Results of the model-index.
    """

    text: str
    results: Sequence[Any]


def search_section_in(card: str) -> SearchSection | None:
    """Return the section of a card; None if no evaluation wrote it.

    Raises:
        ModelError: If one of the two comments is missing, or the metadata cannot be read.
    """
    lines = _lines(card)
    place = _marked(lines)
    if place is None:
        return None
    begin, end = place
    text = "".join(line.rstrip("\r\n") + "\n" for line in lines[begin : end + 1])
    return SearchSection(text, results_in(card))


def with_search_results(card: str, results: SearchResults) -> str:
    """Return a card with these results in place of earlier results, as `with_search_section` does.

    The model-index in the metadata gets the figures of this model.

    Raises:
        ModelError: As in `with_search_section`.
    """
    figures = search_results(results.metrics, _data_set(results))
    return with_search_section(card, SearchSection(_section(results), figures))


def with_search_section(card: str, section: SearchSection) -> str:
    """Return a card with this section in place of its own; everything else keeps its bytes.

    Two comments mark the section; a card without them gets it after its section "Results", or at the end.

    Raises:
        ModelError: If one of the two comments is missing, or the metadata cannot be read.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    text = section.text.replace("\n", newline)
    return with_results(_with_section(card, text, newline), section.results)


def check_markers(card: str) -> None:
    """Check that the section can be found again.

    Raises:
        ModelError: If one of the two comments is missing.
    """
    _marked(_lines(card))


def _section(results: SearchResults) -> str:
    named = [f"`{row[0]}` is {_SYSTEMS[row[0]]}" for row in results.rows if row[0] in _SYSTEMS]
    systems = f" {', '.join(named)}." if named else ""
    parts = [
        BEGIN,
        "## Search over a catalogue",
        escaped(results.sentence),
        f"Means over {_data_set(results)}; 95% bootstrap intervals in brackets.{systems} Unjudged products"
        " count as not relevant, queries without results as 0.",
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
    """Return the lines with their ends; only line feeds end a line."""
    return _LINE.findall(card)


def _marked(lines: Sequence[str]) -> tuple[int, int] | None:
    """Return the line numbers of the two comments, None if there are none."""
    begins, ends = (
        [at for at, line in enumerate(lines) if line.strip() == marker] for marker in (BEGIN, END)
    )
    if not begins and not ends:
        return None
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0]
    raise ModelError(
        f"README.md: must have the line {BEGIN!r} once and the line {END!r} once after it; found "
        f"{len(begins)} and {len(ends)}. Remove both, and the section is added after the results"
    )


def _after_results(lines: Sequence[str]) -> int:
    """Return the line of the heading after the section "Results", or the number of lines."""
    headings = list(_headings(lines))
    results = next((at for at, title in headings if title == "## Results"), None)
    following = (at for at, _ in headings if results is not None and at > results)
    return next(following, len(lines))


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the headings of the first two levels outside code blocks."""
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
