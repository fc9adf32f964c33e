"""The model and the texts of the GPU benchmark, made on the spot without a download.

e5-large-v2's shape with random weights, and a WordPiece tokenizer over made-up words, each a single token.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from throughput_data import (
    MAX_LENGTH,
    TITLE_LOG_TOKENS,
    DataSet,
    esci_lengths,
    random_text,
    write_random_model,
)

VOCABULARY = 30_522
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"


@dataclass(frozen=True)
class RandomModel:
    """A model with random weights.

    Args:
        path: Its folder.
        shape: Name of its shape in `SHAPES`.
        words: Words that are single tokens for its tokenizer.
    """

    path: str
    shape: str
    words: list[str]

    def pairs(self, folder, rows):
        """Write judged pairs with ESCI's text lengths."""
        path = esci_lengths(Path(folder), rows, self.words)
        return DataSet(str(path), "query", "product_title", "relevance", None)

    def titles(self, count):
        """Return random titles with the lengths of ESCI's."""
        draw = random.Random(1)
        return [random_text(draw, self.words, TITLE_LOG_TOKENS) for _ in range(count)]


def made_up_words(count):
    """Return distinct words of two or three syllables: four to six letters, like a shop's."""
    syllables = ["".join(pair) for pair in itertools.product(CONSONANTS, VOWELS)]
    words = itertools.chain.from_iterable(
        map("".join, itertools.product(syllables, repeat=size)) for size in (2, 3)
    )
    found = list(itertools.islice(words, 4 * count))
    return sorted(random.Random(0).sample(found, count))


def make_tokenizer(words):
    """Return a lower-casing WordPiece tokenizer, set up as BERT's, that knows these words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    tokens = {f"{name}_token": token for name, token in zip(names, SPECIAL, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH, **tokens)


def make_model(shape, folder, device):
    """Write the model and return it."""
    words = made_up_words(VOCABULARY - len(SPECIAL))
    path = write_random_model(shape, make_tokenizer(words), Path(folder) / shape, device)
    return RandomModel(path, shape, words)
