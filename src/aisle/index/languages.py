"""Languages of BM25: stemmers, stop words, and detection of a catalogue's language."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, get_args

from aisle.errors import ConfigError
from aisle.types.text_languages import Language

__all__ = ["LANGUAGES", "Language", "detect_language", "load_bm25s", "stemmer", "stop_words"]

LANGUAGES: tuple[Language, ...] = get_args(Language)

DEFAULT_LANGUAGE: Language = "english"
STOP_LISTS: dict[Language, str] = {
    "danish": "STOPWORDS_DANISH",
    "dutch": "STOPWORDS_DUTCH",
    "english": "STOPWORDS_EN",
    "french": "STOPWORDS_FRENCH",
    "german": "STOPWORDS_GERMAN",
    "italian": "STOPWORDS_ITALIAN",
    "norwegian": "STOPWORDS_NORWEGIAN",
    "portuguese": "STOPWORDS_PORTUGUESE",
    "russian": "STOPWORDS_RUSSIAN",
    "spanish": "STOPWORDS_SPANISH",
    "swedish": "STOPWORDS_SWEDISH",
    "turkish": "STOPWORDS_TURKISH",
}
"""Name of each language's stop words in bm25s. The lists are short, without words for products."""
LEAST_SHARE = 0.02
"""Smallest share of stop words in texts of a language; titles reach it too."""
LEAST_LEAD = 1.25
"""Smallest ratio of stop words between the best language and the next."""


def stemmer(language: Language) -> Callable[[str], str]:
    """Return a function from a lower-case word to its stem; threads may share it.

    Raises:
        ConfigError: The language is unknown.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"--language: must be one of {', '.join(LANGUAGES)}, found {language!r}")
    if language == "none":
        return str
    import Stemmer

    snowball, lock = Stemmer.Stemmer(language, 0), threading.Lock()

    def stem(word: str) -> str:
        with lock:  # a Stemmer must not be used by two threads at a time
            return str(snowball.stemWord(word))

    return stem


def stop_words(language: Language) -> tuple[str, ...]:
    """Return the stop words of a language, except for single letters, which matter in "vitamin a".

    Languages without a list in bm25s have no stop words.
    """
    listed = getattr(load_bm25s().stopwords, STOP_LISTS[language]) if language in STOP_LISTS else ()
    return tuple(sorted({word.casefold() for word in listed if len(word) > 1}))


def detect_language(texts: Iterable[str]) -> Language:
    """Return the language with the largest share of stop words among the words; English in doubt.

    Only languages with a list of stop words can be detected, and titles of names alone have no stop words.
    """
    lists = {language: frozenset(stop_words(language)) for language in STOP_LISTS}
    found, words = dict.fromkeys(lists, 0), 0
    for text in texts:
        for word in text.casefold().split():
            words += 1
            for language, listed in lists.items():
                found[language] += word in listed
    # The sort is stable: of equal languages, English comes first.
    first, second = sorted(found, key=lambda name: (-found[name], name != DEFAULT_LANGUAGE))[:2]
    clear = found[first] >= max(LEAST_SHARE * words, LEAST_LEAD * found[second], 1)
    return first if clear else DEFAULT_LANGUAGE


def load_bm25s() -> Any:
    """Return bm25s, which takes a second to import."""
    import bm25s

    # bm25s sets its logger to DEBUG on import, which would fill the log of a program with a root logger
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
