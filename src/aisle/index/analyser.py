"""Split texts into the terms that BM25 counts: words, numbers, parts of part numbers, character pairs."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import regex

from aisle.errors import IndexIntegrityError
from aisle.index.languages import LANGUAGES, Language, stemmer, stop_words

__all__ = ["Analyser", "PlacedTerm", "normalise"]

RULES = 1
"""Version of this module's rules; it changes whenever the rules give different terms."""
CACHED_WORDS = 200_000
LONGEST_CACHED = 40
"""Longest compound, in characters, that is cached: long words in requests do not stay in memory."""
LONGEST_CACHED_UNSPACED = 8
"""The same for scripts without spaces, where a compound has up to two terms for each character. The cache of
an analyser reaches 340 MB if every word is as long."""
LONGEST_WHOLE = 40
"""Longest compound, in characters, that is also a term as a whole; longer compounds are lists."""

_SIGNS = regex.compile(r"[™℠®©℗ⓇⓡⒸⓒ\U0001F16A-\U0001F16C\u200b]")
"""Signs that normalisation would turn into letters of the word before them; here they separate words."""
_INVISIBLE = regex.compile(r"[\p{Cf}\u0640]")
"""Joiners, soft hyphens, direction marks, the Arabic stretch: they change a word's look, not its meaning."""
_FRACTION = regex.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_ALIKE = str.maketrans("\u2019\u2018\u02bc\u2044\u2215\u00d7\u2212", "'''//x-")
"""Typographic apostrophes, slashes, multiplication and minus signs, and their characters on a keyboard."""
_DASH = regex.compile(r"\p{Pd}")
_DIGIT = regex.compile(r"[^\P{Nd}0-9]")
_ACCENT = regex.compile(r"(?<=[\p{Latin}\p{Greek}\p{Arabic}\p{Hebrew}])\p{Mn}+")
_BARE = str.maketrans("\u0131øłđ", "iold")
"""Letters without a Unicode decomposition, and the letters that people type instead."""
_DOTLESS = "\u0131"

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}ー々〆\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that write words without spaces; in Hangul, endings are attached to words."""
_CORE = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*"
_COMPOUND = regex.compile(
    rf"{_CORE}(?:(?:[-/.'&_+]|(?<=\p{{N}})[,:](?=\p{{N}})){_CORE})*(?:[+\#]+(?![\p{{L}}\p{{N}}]))?"
)
_PIECE = regex.compile(
    r"(?V1)(?P<thousands>(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.,]))"
    r"|(?P<decimal>(?<![\d.,])\d+[.,]\d+(?![.,]?\d))"
    r"|(?P<digits>\p{N}+)"
    rf"|(?P<unspaced>[{_UNSPACED}][{_UNSPACED}\p{{M}}]*)"
    rf"|(?P<word>[\p{{L}}--[{_UNSPACED}]][[\p{{L}}\p{{M}}]--[{_UNSPACED}]]*)"
)
_ANY_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_CLUSTER = regex.compile(r"\P{M}\p{M}*")
_ALONE_MEANS = regex.compile(r"[\p{Han}\p{Hangul}]")

_PROBES = (
    "LEGO™ Air-Max iphone-15/128GB GS-00105 5.5 mm 1,299 AT&T C++ women's İSTANBUL ISPARTA Café",
    "सोफा नीला சோபா 蓝色布艺沙发 青いソファ โซฟา 소파 batteries running Häuser chaussures zapatos scarpe",
    "дома книги τηλεόραση طاولات कुर्सियाँ நாற்காலிகள் kitaplar skor huonekalut székek krzesła židle",
)


class _Terms(NamedTuple):
    """Terms of a compound: those to search for in a query, and those to store for a text besides."""

    both: tuple[str, ...]
    text_only: tuple[str, ...]


class PlacedTerm(NamedTuple):
    """A term, and the part of the normalised text that it stands for."""

    term: str
    start: int
    end: int
    text_only: bool = False
    """Whether the term is stored for a text and not searched for in a query."""


@dataclass(frozen=True)
class Analyser:
    """Split texts and queries into terms. Make an analyser with `Analyser.of`.

    Words are normalised (NFKC, case folded, accents of Latin, Greek, Arabic and Hebrew letters dropped),
    stemmed, and dropped if they are stop words. A compound ("GS-00105", "iphone-15/128GB", "t-shirt")
    gives its parts and the whole; a decimal number stays whole. Words of Chinese, Japanese, Korean, Thai,
    Lao, Khmer and Burmese are overlapping pairs of characters, which need no dictionary (as in Lucene's
    CJKAnalyzer).
    """

    language: Language
    stop_words: tuple[str, ...] = ()
    """Normalised words that are not terms."""
    stem: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, language: Language) -> Analyser:
        """Return the analyser of a language.

        Raises:
            ConfigError: The language is unknown.
        """
        stem = stemmer(language)
        return cls(language, stop_words(language), stem)

    def terms_of_text(self, text: str) -> list[str]:
        """Return the terms of a product's text, with repetitions."""
        terms: list[str] = []
        for compound in _COMPOUND.findall(normalise(text, self.language)):
            found = self._analyse(compound)
            terms += found.both
            terms += found.text_only
        return terms

    def terms_of_query(self, query: str) -> list[str]:
        """Return the terms of a query, with repetitions."""
        terms: list[str] = []
        for compound in _COMPOUND.findall(normalise(query, self.language)):
            terms += self._analyse(compound).both
        return terms

    def placed_terms(self, normalised: str) -> Iterator[PlacedTerm]:
        """Yield the terms of a text that `normalise` returned, with their places in it."""
        stops = frozenset(self.stop_words)
        for found in _COMPOUND.finditer(normalised):
            for term, start, end, text_only in self._placed(found.group(), stops):
                yield PlacedTerm(term, found.start() + start, found.start() + end, text_only)

    def describe(self) -> str:
        """Describe in words how the analyser treats words: language, stems, stop words."""
        if self.language == "none":
            return "words as they are: no stems, no stop words"
        stops = f"{len(self.stop_words)} stop words" if self.stop_words else "no stop words"
        return f"{self.language}: Snowball stems, {stops}"

    def record(self) -> dict[str, Any]:
        """Return a JSON record from which `from_record` makes the same analyser."""
        return {
            "rules": RULES,
            "language": self.language,
            "stop_words": list(self.stop_words),
            "probe": self._probe,
        }

    @classmethod
    def from_record(cls, record: Any) -> Analyser:
        """Return the analyser that a record describes.

        Raises:
            IndexIntegrityError: There is no record, or this version of aisle or of the stemmer makes other
            terms.
        """
        try:
            language, words = record["language"], tuple(record["stop_words"])
            if language not in LANGUAGES or not all(isinstance(word, str) for word in words):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise IndexIntegrityError(
                "does not record how its texts were split into words, so queries cannot be split the same "
                "way; build the index again"
            ) from None
        analyser = cls(language, words, stemmer(language))
        if (record.get("rules"), record.get("probe")) != (RULES, analyser._probe):
            raise IndexIntegrityError(
                f"its texts were split into words by other rules (number {record.get('rules')}; this aisle "
                f"has {RULES}) or by another version of the {language} stemmer, so queries would miss them; "
                "build the index again"
            )
        return analyser

    @cached_property
    def _probe(self) -> str:
        """Return a digest of the terms of some words; it changes if a new stemmer stems differently."""
        terms = [self.terms_of_text(probe) for probe in _PROBES]
        terms.append([self.stem(word) for word in self.stop_words])
        return hashlib.sha256(repr(terms).encode()).hexdigest()[:16]

    @cached_property
    def _analyse(self) -> Any:
        """Return a function from a normalised compound to its terms; it caches common compounds."""
        stops = frozenset(self.stop_words)
        cached = lru_cache(maxsize=CACHED_WORDS)(lambda compound: self._terms(compound, stops))
        return lambda compound: cached(compound) if _is_short(compound) else self._terms(compound, stops)

    def _terms(self, compound: str, stops: frozenset[str]) -> _Terms:
        placed = self._placed(compound, stops)
        return _Terms(
            tuple(found.term for found in placed if not found.text_only),
            tuple(found.term for found in placed if found.text_only),
        )

    def _placed(self, compound: str, stops: frozenset[str]) -> list[PlacedTerm]:
        """Return the terms of a normalised compound, with their places in it."""
        if compound in stops:
            return []
        unsigned = compound.rstrip("+#")
        body = unsigned.removesuffix("'s") or unsigned
        pieces = list(_PIECE.finditer(body))
        placed = [] if compound == unsigned else [PlacedTerm(compound, 0, len(compound))]
        if len(pieces) > 1 and len(body) <= LONGEST_WHOLE:
            kinds = [(str(piece.lastgroup), piece.group()) for piece in pieces]
            placed += [PlacedTerm(term, 0, len(body)) for term in self._whole(body, kinds)]
        for piece in pieces:
            start, end = piece.span()
            if piece.lastgroup == "unspaced":
                placed += _pairs(piece.group(), start)
            else:
                terms = self._of_piece(str(piece.lastgroup), piece.group(), stops)
                placed += [PlacedTerm(term, start, end) for term in terms]
        return placed

    def _of_piece(self, kind: str, piece: str, stops: frozenset[str]) -> list[str]:
        """Return the terms of a word or a number."""
        if kind == "word":
            return [] if piece in stops else self._stemmed(piece)
        return [piece.replace(",", "" if kind == "thousands" else ".")]

    def _whole(self, body: str, pieces: list[tuple[str, str]]) -> list[str]:
        """Return a compound without its signs; numbers such as 1/2 and 16:9 keep them."""
        kinds = {kind for kind, _ in pieces}
        if "unspaced" in kinds:
            return []
        if kinds == {"digits"} and ("/" in body or ":" in body):
            return [body]
        joined = "".join(piece.replace(",", ".") for _, piece in pieces)
        return self._stemmed(joined) if kinds == {"word"} else [_bare(joined)]

    def _stemmed(self, word: str) -> list[str]:
        """Return the stem of a word; two stems if it has a dotless i, which may stand for either i."""
        stems = [_bare(self.stem(word))]
        if _DOTLESS in word:
            stems.append(_bare(self.stem(word.replace(_DOTLESS, "i"))))
        return list(dict.fromkeys(stems))


def normalise(text: str, language: Language = "none") -> str:
    """Return a text in lower case, with one spelling for equivalent letters, digits and signs."""
    if text.isascii():
        if language == "turkish":
            text = text.replace("I", _DOTLESS)
        return text.lower()
    text = _FRACTION.sub(" ", _INVISIBLE.sub("", _SIGNS.sub(" ", text)))
    text = _DASH.sub("-", unicodedata.normalize("NFKC", text)).translate(_ALIKE)
    if language == "turkish":
        text = text.replace("I", _DOTLESS).replace("İ", "i")
    # Case folding gives a dotted capital I two characters: an i, and a dot above it.
    text = unicodedata.normalize("NFKC", text.casefold().replace("i\u0307", "i"))
    return str(_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), text))


def _is_short(compound: str) -> bool:
    """Return whether a compound has few terms, which may be cached."""
    if len(compound) <= LONGEST_CACHED_UNSPACED:
        return True
    return len(compound) <= LONGEST_CACHED and (compound.isascii() or not _ANY_UNSPACED.search(compound))


def _pairs(word: str, start: int) -> list[PlacedTerm]:
    """Return the overlapping character pairs of a word, and its characters that may be words.

    Args:
        word: Word in a script without spaces.
        start: Place of the word in its compound.
    """
    characters = [
        PlacedTerm(found.group(), start + found.start(), start + found.end())
        for found in _CLUSTER.finditer(word)
    ]
    if len(characters) == 1:
        return characters
    pairs = [
        PlacedTerm(first.term + second.term, first.start, second.end)
        for first, second in pairwise(characters)
    ]
    return pairs + [found._replace(text_only=True) for found in characters if _ALONE_MEANS.match(found.term)]


def _bare(word: str) -> str:
    """Return a word without the accents that people leave out when they type."""
    if word.isascii():
        return word
    decomposed = _ACCENT.sub("", unicodedata.normalize("NFD", word))
    return unicodedata.normalize("NFC", decomposed).translate(_BARE)
