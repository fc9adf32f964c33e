"""BM25 over the products' texts: the lexical side of hybrid search, and a baseline for embeddings."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import DataError, IndexIntegrityError, SearchError
from aisle.index.analyser import Analyser
from aisle.index.array_files import read_array, write_array, writing
from aisle.index.id_lookup import IdLookup
from aisle.index.manifest import LEXICAL_FOLDER, Manifest
from aisle.index.postings import run_starts, tokenize, word_scores
from aisle.index.products import text_of
from aisle.index.scoring import Rows, Scores
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.sequences import as_sequence

__all__ = ["LEXICAL_FILES", "Bm25Index", "TermPostings", "analyser_of", "best_rows", "write_lexical"]

SHAPE_FILE = "bm25.json"
ARRAY_TYPES = {
    "scores": "float32",
    "rows": "int32",
    "posting_starts": "int64",
    "words": "uint8",
    "word_starts": "int64",
    "ids": "uint8",
    "id_starts": "int64",
    "id_rows": "int64",
}
LEXICAL_FILES = (SHAPE_FILE, *(f"{name}.npy" for name in ARRAY_TYPES))

K1, B = 1.5, 0.75


class TermPostings(NamedTuple):
    """How often a query has a term, and the term's postings."""

    times: int
    found: slice


@dataclass(frozen=True, eq=False)
class Bm25Index:
    """BM25 over a list of texts, in the Lucene variant with k1 = 1.5 and b = 0.75.

    score(q, d) = sum over words t of q of  idf(t) * tf / (tf + k1 * (1 - b + b * len(d) / mean len))
    with idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)) (Robertson and Zaragoza, The Probabilistic
    Relevance Framework: BM25 and Beyond, 2009; the idf that Lucene uses is never negative).

    `Analyser` splits texts into words. A query that is a product's id ranks that product first. The scores of
    all words in all texts are stored (Lù, BM25S, https://arxiv.org/abs/2407.03618), and a query adds them up.
    """

    analyser: Analyser
    """Splits texts and queries into words."""
    texts: int
    """Number of texts; a row is the position of a text."""
    scores: Scores
    """Score of a word in a text, (postings,), sorted by word."""
    rows: npt.NDArray[np.int32]
    """Row of the text, (postings,), ascending within a word."""
    posting_starts: npt.NDArray[np.int64]
    """First posting of each word, (words + 1,)."""
    words: npt.NDArray[np.uint8]
    """Sorted words as UTF-8 bytes, one after the other."""
    word_starts: npt.NDArray[np.int64]
    """First byte of each word, (words + 1,)."""
    product_ids: IdLookup
    """Rows by product id; empty if the texts have no ids."""

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        analyser: Analyser | None = None,
        product_ids: pa.ChunkedArray | None = None,
    ) -> Bm25Index:
        """Return the index of `texts`, which are read once; a text without words is never found.

        Args:
            texts: Texts to search.
            analyser: Analyser that splits texts and queries into words; None is the English one.
            product_ids: (texts,) id of each text's product, to find it by; None for texts without ids.

        Raises:
            DataError: There is no text.
        """
        analyser = Analyser.of("english") if analyser is None else analyser
        tokens, vocabulary = tokenize(texts, analyser)
        if not len(tokens):
            raise DataError("BM25 needs at least one text, found none; check the catalogue")
        encoded = [word.encode() for word in vocabulary]
        postings = word_scores(tokens, len(vocabulary), k1=K1, b=B)
        return cls(
            analyser=analyser,
            texts=len(tokens),
            scores=postings["data"],
            rows=postings["indices"],
            posting_starts=postings["indptr"],
            words=np.frombuffer(b"".join(encoded), np.uint8),
            word_starts=run_starts(np.fromiter(map(len, encoded), np.int64, len(encoded))),
            product_ids=IdLookup.build(product_ids),
        )

    def save(self, folder: Path) -> None:
        """Write `LEXICAL_FILES` to `folder`; equal texts give equal bytes.

        Raises:
            OSError: A file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name) for name in ARRAY_TYPES if not name.startswith("id")}
        arrays |= self.product_ids.arrays()
        for name, array_ in arrays.items():
            write_array(folder / f"{name}.npy", array_)
        sizes = {name: len(arrays[name]) for name in ARRAY_TYPES}
        shape = {"texts": self.texts, "k1": K1, "b": B, **sizes, "analyser": self.analyser.record()}
        (folder / SHAPE_FILE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Bm25Index:
        """Return the index that `save` wrote, memory-mapped.

        Raises:
            IndexIntegrityError: A file is missing or damaged, or the texts were split into words by rules
                that this version of aisle does not have.
        """
        shape, analyser = _read_shape(folder), _read_analyser(folder)
        arrays = {}
        for name, dtype in ARRAY_TYPES.items():
            path = folder / f"{name}.npy"
            if not path.is_file():
                raise IndexIntegrityError(f"{path}: missing; restore the file or build the index again")
            arrays[name] = read_array(path, shape=(shape[name],), dtype=dtype)
        _check_ends(folder, arrays)
        ids = IdLookup(**{name: arrays.pop(name) for name in ARRAY_TYPES if name.startswith("id")})
        return cls(analyser=analyser, texts=shape["texts"], product_ids=ids, **arrays)

    def score(self, query: str) -> Scores:
        """Return the BM25 score of every text, 0 if it has no word of the query: (texts,).

        A repeated word of the query counts each time. A product with the query as its id has `highest_score`.
        """
        total = np.zeros(self.texts, np.float32)
        for word in self.analyser.terms_of_query(query):
            found = self._postings_of(word)
            total[self.rows[found]] += self.scores[found]  # rows are distinct within a word
        named = self.named(query)
        if len(named):
            total[named] = self.highest_score(query)
        return total

    def term_postings(self, query: str) -> dict[str, TermPostings]:
        """Return the postings of each term of a query, in order of the query, for `term_scores`."""
        counts = Counter(self.analyser.terms_of_query(query))
        return {term: TermPostings(times, self._postings_of(term)) for term, times in counts.items()}

    def term_scores(self, postings: Mapping[str, TermPostings], row: int) -> dict[str, float]:
        """Return what each term of a query adds to a text's score; 0 if it is absent.

        Args:
            postings: Postings of the terms.
            row: Row of the text.
        """
        added: dict[str, float] = {}
        for term, (times, found) in postings.items():
            at = found.start + int(np.searchsorted(self.rows[found], row))  # rows ascend within a word
            score = float(self.scores[at]) if at < found.stop and self.rows[at] == row else 0.0
            added[term] = times * score
        return added

    def named(self, query: str) -> Rows:
        """Return the rows of products with the query as their id; usually empty."""
        return self.product_ids.rows(query)

    def highest_score(self, query: str) -> float:
        """Return an upper limit of the scores: the sum of idf(t) over the words of the query.

        Words that are in no text count too: a score divided by this limit is the share of the query that a
        text covers. For a query without words, the limit is the idf of a word in a single text.
        """
        found = [self._postings_of(word) for word in self.analyser.terms_of_query(query)]
        df = np.array([each.stop - each.start for each in found] or [1], np.float64)
        return float(np.log1p((self.texts - df + 0.5) / (df + 0.5)).sum())

    def rank(
        self,
        queries: Iterable[str],
        *,
        top_k: int,
        tie_ranks: Rows | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[list[Rows], list[Scores]]:
        """Return rows and scores per query, best first.

        Only texts that share a word with the query are ranked, so a ranking may be shorter than `top_k`, and
        is empty if no text has a word of the query.

        Args:
            queries: Texts to search for.
            top_k: Most rows per query, at least 1.
            tie_ranks: (texts,) order among equal scores, lowest first; None is the order of the rows.
            allowed: (texts,) bool, rows that may be ranked; None is all rows.

        Raises:
            SearchError: `top_k` is below 1.
        """
        if top_k < 1:
            raise SearchError(f"top_k: must be at least 1, found {top_k}")
        rankings = [
            best_rows(self.score(query), top_k=top_k, tie_ranks=tie_ranks, allowed=allowed)
            for query in as_sequence(queries, "queries", SearchError)
        ]
        return [rows for rows, _ in rankings], [scores for _, scores in rankings]

    def _postings_of(self, word: str) -> slice:
        encoded, count = word.encode(), len(self.word_starts) - 1
        at = bisect_left(range(count), encoded, key=self._word)
        if at == count or self._word(at) != encoded:
            return slice(0, 0)
        return slice(int(self.posting_starts[at]), int(self.posting_starts[at + 1]))

    def _word(self, at: int) -> bytes:
        return self.words[self.word_starts[at] : self.word_starts[at + 1]].tobytes()


def best_rows(
    scores: Scores,
    *,
    top_k: int,
    tie_ranks: Rows | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> tuple[Rows, Scores]:
    """Return rows and scores of the best `top_k` of (texts,) scores above 0, best first.

    Args:
        scores: (texts,) BM25 scores of one query.
        top_k: Most rows to return.
        tie_ranks: (texts,) order among equal scores, lowest first; None is the order of the rows.
        allowed: (texts,) bool, rows that may be returned; None is all rows.
    """
    rows = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
    if len(rows) > top_k:
        # Rows with the same score as the last place stay until the tie order decides.
        last = np.partition(scores[rows], -top_k)[-top_k]
        rows = rows[scores[rows] >= last]
    order = np.lexsort((rows if tie_ranks is None else tie_ranks[rows], -scores[rows]))
    rows = rows[order[:top_k]]
    return rows, scores[rows]


def write_lexical(folder: Path, products: pa.Table, analyser: Analyser | None) -> None:
    """Write the BM25 index of the products' texts into a version's folder; do nothing without texts."""
    if TEXT_COLUMN not in products.column_names or analyser is None:
        return
    with writing(folder / LEXICAL_FOLDER):
        lexical = Bm25Index.build(
            text_of(products), analyser=analyser, product_ids=products.column(ID_COLUMN)
        )
        lexical.save(folder / LEXICAL_FOLDER)


def analyser_of(folder: Path, manifest: Manifest) -> Analyser | None:
    """Return the analyser that split the texts of a version into words; None without texts.

    Raises:
        IndexIntegrityError: The analyser is not recorded, or this version of aisle would split queries by
        other rules.
    """
    has_texts = any(name.startswith(f"{LEXICAL_FOLDER}/") for name in manifest.files)
    return _read_analyser(folder / LEXICAL_FOLDER) if has_texts else None


def _read_analyser(folder: Path) -> Analyser:
    path = folder / SHAPE_FILE
    try:
        return Analyser.from_record(json.loads(path.read_bytes()).get("analyser"))
    except FileNotFoundError:
        raise IndexIntegrityError(f"{path}: missing; restore the file or build the index again") from None
    except (IndexIntegrityError, ValueError, AttributeError) as error:
        raise IndexIntegrityError(f"{path}: {error}") from None


def _read_shape(folder: Path) -> dict[str, int]:
    path = folder / SHAPE_FILE
    try:
        shape = json.loads(path.read_bytes())
        sizes = {name: shape[name] for name in ("texts", *ARRAY_TYPES)}
        whole = all(type(size) is int and size >= 0 for size in sizes.values())
        if not whole or (shape["k1"], shape["b"]) != (K1, B):
            raise ValueError(f"found {shape}")
    except FileNotFoundError:
        raise IndexIntegrityError(f"{path}: missing; restore the file or build the index again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IndexIntegrityError(
            f"{path}: must be the sizes of a BM25 index with k1 {K1} and b {B}: {error}; build the index "
            "again"
        ) from None
    return sizes


def _check_ends(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check that start positions match the arrays they point into; checksums guard the rest."""
    for starts, ends, runs in (
        ("posting_starts", ("scores", "rows"), len(arrays["word_starts"]) - 1),
        ("word_starts", ("words",), len(arrays["word_starts"]) - 1),
        ("id_starts", ("ids",), len(arrays["id_rows"])),
    ):
        found = arrays[starts]
        sizes = {len(arrays[name]) for name in ends}
        if len(found) != runs + 1 or not len(found) or {int(found[-1])} != sizes:
            raise IndexIntegrityError(
                f"{folder / starts}.npy: must have one start per word and end at {sorted(sizes)}, found "
                f"{len(found)} starts and the end {found[-1:].tolist()}; build the index again"
            )
