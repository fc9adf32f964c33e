"""An encoder without torch, and the index of a small shop that it made."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from aisle.index import build_index

DIM = 32
NOUNS = ("sofa", "lamp", "table", "bed", "rug", "chair", "desk", "shelf")
COLOURS = ("red", "blue", "green", "black", "white")


@dataclass(frozen=True)
class WordEncoder:
    """Embeds a text as the normalised sum of a random vector for each of its words."""

    fingerprint: str = "f" * 64
    dim: int = DIM

    @property
    def query_fingerprint(self):
        return self.fingerprint

    def encode_queries(self, queries, *, precision="fp32"):
        return self.encode_products(queries, precision=precision)

    def encode_products(self, products, *, precision="fp32"):
        vectors = np.array([sum(map(self._vector, text.split())) for text in products], np.float32)
        vectors = vectors.reshape(-1, self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _vector(self, word):
        seed = blake2b(f"{self.fingerprint} {word}".encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(seed, "big")).normal(size=self.dim)


def titles_of(count):
    """Return titles of a few words; some products have the same title."""
    rng = np.random.default_rng(0)
    return [f"{rng.choice(COLOURS)} {rng.choice(NOUNS)} {rng.choice(NOUNS)}" for _ in range(count)]


def write_shop(index_dir, made_by=None, *, count=60, titles=None, **changes):
    """Build an index of `count` products, p000 and on, priced 0, 1, 2, ...; return its manifest."""
    made_by = made_by or WordEncoder()
    titles = titles or titles_of(count)
    defaults = {
        "product_ids": [f"p{row:03d}" for row in range(len(titles))],
        "payload": pa.table({"title": titles, "price": range(len(titles))}),
        "texts": titles,
        "embeddings": [made_by.encode_products(titles)],
        "dim": made_by.dim,
        "fingerprint": made_by.fingerprint,
        "encoder": {"model": "shop/words"},
        "threads": 1,
    }
    return build_index(index_dir, **(defaults | changes))
