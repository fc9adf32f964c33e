"""Explain a candidate: matched words, scores and ranks, how they were fused, the filter, and the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.index.fusion import RECIPROCAL_RANK_CONSTANT
from aisle.index.lexical import TermPostings
from aisle.index.products import take_rows
from aisle.index.python_values import python_rows
from aisle.index.search_index import shorten
from aisle.index.term_spans import words_of_terms
from aisle.search.candidates import Candidate, CandidateSet, CandidateSettings
from aisle.types.columns import TEXT_COLUMN
from aisle.types.json_values import json_ready

if TYPE_CHECKING:
    from aisle.index.filters import Filter

__all__ = ["Clause", "Explainer", "Explanation", "FusedParts", "MatchedWord", "explain"]


@dataclass(frozen=True)
class MatchedWord:
    """A term of the query, and where the product has it."""

    word: str
    """The word as it was typed."""
    term: str
    """The word as the index compares it: normalised, stemmed."""
    bm25: float
    """What the term adds to the BM25 score; 0 if the product's text does not have it."""
    fields: dict[str, list[str]]
    """Words of the product that match, as they are written, by column; `__text__` for the embedded text if
    no column has them."""


@dataclass(frozen=True)
class FusedParts:
    """What each side adds to a fused score; the parts sum to it."""

    dense: float
    """Convex: weight * (cosine + 1) / 2. Reciprocal ranks: 1 / (60 + rank), or 0 without a rank."""
    bm25: float
    """Convex: (1 - weight) * BM25 / its upper limit for the query. Reciprocal ranks: as for `dense`."""
    highest_bm25: float
    """Upper limit of BM25 for the query."""


@dataclass(frozen=True)
class Clause:
    """A comparison of the filter."""

    text: str
    result: bool | None
    """None if it is unknown because a value is missing."""
    values: dict[str, Any]
    """The product's values in the columns of the comparison."""


@dataclass(frozen=True)
class Explanation:
    """Why a product is in a candidate set, at its rank; `print` shows it in words."""

    query: str
    product_id: str
    rank: int
    score: float
    scores: dict[str, float]
    ranks: dict[str, int]
    named_by_id: bool
    """Whether the query is the product's id: by words it is then the best product, whatever its words."""
    words: list[MatchedWord]
    """Terms of the query in their order; empty if the index was built without texts."""
    fused: FusedParts | None
    """None except in mode "hybrid", or if the query names the product."""
    filter: list[Clause]
    settings: CandidateSettings
    total: int
    relation: str
    version: int
    """Version of the index."""
    fingerprint: str
    """Fingerprint of the encoder that made the index."""
    encoder: str
    """Name of that encoder."""
    query_adapter: str | None = None
    """Fingerprint of the index's query adapter; None if the query is searched as the encoder embeds it."""

    def document(self) -> dict[str, Any]:
        """Return everything as JSON, and the words of `print` as `text`."""
        document: dict[str, Any] = json_ready(asdict(self))
        return document | {"text": str(self)}

    def __str__(self) -> str:
        settings = self.settings
        total = f"at least {self.total}" if self.relation == "gte" else f"{self.total}"
        lines = [
            f"{self.product_id}: rank {self.rank} of {total} for {self.query!r}, {settings.mode} score "
            f"{self.score:.4f}"
        ]
        lines += [f"  word    {_matched(word)}" for word in self.words]
        if self.named_by_id:
            lines.append("  id      the query is the product's id")
        for side, name in (("dense", "cosine"), ("bm25", "BM25")):
            if side in self.scores:
                lines.append(f"  {name:<7} {self.scores[side]:.4f}, {self._place(side)}")
        if self.fused is not None:
            how = f"weight {settings.weight:g}" if settings.fusion == "convex" else "reciprocal ranks"
            lines.append(
                f"  fused   {self.fused.dense:.4f} by cosine + {self.fused.bm25:.4f} by BM25 ({how})"
            )
        for clause in self.filter:
            shown = [f"{name} = {shorten(repr(value), 40)}" for name, value in clause.values.items()]
            result = {True: "true", False: "false", None: "unknown"}[clause.result]
            lines.append(f"  filter  {clause.text}: {result} ({', '.join(shown)})")
        adapted = "" if self.query_adapter is None else f", query adapter {self.query_adapter[:12]}"
        lines.append(
            f"  index   version {self.version}, encoder {self.encoder} ({self.fingerprint[:12]}){adapted}"
        )
        return "\n".join(lines)

    def _place(self, side: str) -> str:
        if side in self.ranks:
            return f"rank {self.ranks[side]}"
        if side == "bm25" and not self.scores[side]:
            return "no rank: no word of the query"
        return f"no rank: not among the best {self.settings.window}"


class Explainer:
    """Explanations of any number of candidates of a set; query and filter are analysed once.

    Everything is computed again from the version of the index that was searched, also after a newer version
    became current.

    Args:
        found: Candidate set of a query.
    """

    def __init__(self, found: CandidateSet) -> None:
        self._found = found
        self._index = found.index
        self._named: frozenset[int] = frozenset()
        self._postings: Mapping[str, TermPostings] = {}
        self._typed: Mapping[str, list[str]] = {}
        self._clauses: Sequence[Filter] = ()
        self._highest = 0.0
        lexical, query = found.index.lexical, found.query
        if lexical is not None:
            self._postings = lexical.term_postings(query)
            self._typed = words_of_terms(lexical.analyser, query, self._postings)
            self._highest = lexical.highest_score(query)
            if found.settings.mode != "dense":
                self._named = frozenset(lexical.named(query).tolist())
        if found.settings.where is not None:
            from aisle.index.filters import filter_clauses  # takes 15 ms; most searches have no filter

            self._clauses = filter_clauses(found.settings.where, found.index.products.schema)

    def explain(self, candidate: Candidate) -> Explanation:
        """Return why a product of the set is at its rank.

        Args:
            candidate: Product of the set.
        """
        found, manifest = self._found, self._index.manifest
        settings, adapter = found.settings, manifest.query_adapter
        named = candidate.row in self._named
        return Explanation(
            query=found.query,
            product_id=candidate.product_id,
            rank=candidate.rank,
            score=candidate.score,
            scores=candidate.scores,
            ranks=candidate.ranks,
            named_by_id=named,
            words=self._matched_words(candidate),
            fused=None if named else self._fused_parts(candidate),
            filter=self._results_of_clauses(candidate.row),
            settings=settings,
            total=found.total.value,
            relation=found.total.relation,
            version=found.version,
            fingerprint=manifest.fingerprint,
            encoder=str(manifest.encoder.get("model", "not recorded")),
            query_adapter=None if adapter is None or settings.mode == "lexical" else adapter.fingerprint,
        )

    def _matched_words(self, candidate: Candidate) -> list[MatchedWord]:
        lexical = self._index.lexical
        if lexical is None:
            return []
        fields: dict[str, dict[str, list[str]]] = {term: {} for term in self._postings}
        for name, value in candidate.payload.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    for term, words in words_of_terms(lexical.analyser, text, fields.keys()).items():
                        fields[term].setdefault(name, []).extend(words)
        elsewhere = [term for term, places in fields.items() if not places]
        if elsewhere and candidate.text is not None:
            for term, words in words_of_terms(lexical.analyser, candidate.text, elsewhere).items():
                fields[term][TEXT_COLUMN] = words
        scores = lexical.term_scores(self._postings, candidate.row)
        return [
            MatchedWord(
                word=self._typed.get(term, [term])[0],
                term=term,
                bm25=scores[term],
                fields={name: list(dict.fromkeys(words)) for name, words in places.items()},
            )
            for term, places in fields.items()
        ]

    def _fused_parts(self, candidate: Candidate) -> FusedParts | None:
        settings = self._found.settings
        if settings.mode != "hybrid" or self._index.lexical is None:
            return None
        if settings.fusion == "rrf":
            dense, bm25 = (
                1.0 / (RECIPROCAL_RANK_CONSTANT + candidate.ranks[side]) if side in candidate.ranks else 0.0
                for side in ("dense", "bm25")
            )
            return FusedParts(dense, bm25, self._highest)
        weight = settings.weight
        return FusedParts(
            dense=weight * (candidate.scores["dense"] + 1.0) / 2.0,
            bm25=(1.0 - weight) * candidate.scores["bm25"] / self._highest,
            highest_bm25=self._highest,
        )

    def _results_of_clauses(self, row: int) -> list[Clause]:
        if not self._clauses:
            return []
        columns = list(dict.fromkeys(name for clause in self._clauses for name in clause.columns))
        taken = take_rows(self._index.products.select(columns), np.array([row]))
        (product,) = taken.combine_chunks().to_batches()
        (values,), _ = python_rows(taken)
        return [
            Clause(clause.text, clause.result(product), {name: values[name] for name in clause.columns})
            for clause in self._clauses
        ]


def explain(found: CandidateSet, candidate: Candidate) -> Explanation:
    """Return why a product of a candidate set is at its rank; for several products use an `Explainer`.

    Args:
        found: Candidate set of a query.
        candidate: Product of this set.
    """
    return Explainer(found).explain(candidate)


def _matched(word: MatchedWord) -> str:
    places = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in word.fields.items())
    found = f"BM25 {word.bm25:.4f}" if word.bm25 else "not in the product's text"
    return f"{word.word!r} {found}" + (f" ({places})" if places else "")
