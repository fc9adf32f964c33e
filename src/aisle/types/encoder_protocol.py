"""What search needs of an encoder, whichever library computes the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

Precision = Literal["fp32", "bf16", "int8"]
"""Number type that an encoder computes in; embeddings are float32 with each. Only bundles compute in int8."""


def int8_needs_bundle(name: str, *, flag: str) -> str:
    """Return the message that a model cannot compute in int8 and can be exported.

    Args:
        name: Name of the model.
        flag: Name of the argument that asks for int8.
    """
    return (
        f"{flag} int8: int8 needs a bundle, and {name} is not a bundle; export the model with `aisle export "
        f"{name} --output_dir DIR --precision int8`, and use DIR as the model"
    )


class Encoder(Protocol):
    """Turn queries and products into embeddings.

    An encoder keeps no state between calls: options are arguments, and any number of threads may share it.
    """

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of everything that decides a product's embedding; None before the encoder was saved."""

    @property
    def query_fingerprint(self) -> str | None:
        """Hash of everything that decides a query's embedding; the same if one tower reads both sides."""

    def encode_queries(self, queries: Iterable[str], *, precision: Precision = "fp32") -> np.ndarray:
        """Return the embeddings of queries, in their order: (queries, dim) float32, unit L2 norm.

        Raises:
            ModelError: `queries` is a single text, an entry is not a text, or the encoder does not compute
                in this precision.
        """

    def encode_products(self, products: Iterable[str], *, precision: Precision = "fp32") -> np.ndarray:
        """Return the embeddings of products, in their order: (products, dim) float32, unit L2 norm.

        Raises:
            ModelError: As in `encode_queries`.
        """
