"""Settings of an encoder or a cross-encoder, whichever library computes its embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.errors import ModelError
from aisle.types.choices import PoolingMode


@dataclass(frozen=True)
class EncoderSettings:
    """Settings that determine an embedding, in addition to the weights.

    Args:
        pooling: Pooling of a text's token vectors into one vector.
        query_prompt: Prompt before every query.
        product_prompt: Prompt before every product.
        max_length: Maximum length of a text in tokens, including prompt and special tokens.
        normalize: Whether embeddings have unit L2 norm.
    """

    pooling: PoolingMode
    query_prompt: str
    product_prompt: str
    max_length: int
    normalize: bool = True


@dataclass(frozen=True)
class CrossEncoderSettings:
    """Settings that determine the score of a cross-encoder, in addition to the weights.

    Args:
        max_length: Maximum length of a pair in tokens, including special tokens.
    """

    max_length: int


@dataclass(frozen=True)
class Overrides:
    """Settings from the user, which override those in the model's files; None keeps the files' setting."""

    pooling: PoolingMode | None = None
    query_prompt: str | None = None
    product_prompt: str | None = None
    max_length: int | None = None


def check_dimensions(dimensions: int, dim: int, settings: EncoderSettings, *, name: str) -> None:
    """Check that an encoder can keep its first components only.

    Args:
        dimensions: Number of components to keep.
        dim: Number of components of the encoder's embeddings.
        settings: Settings of the encoder.
        name: Name of the encoder, for the message.

    Raises:
        ModelError: The encoder has fewer components, or its embeddings are not unit vectors.
    """
    if not 1 <= dimensions <= dim or not settings.normalize:
        raise ModelError(
            f"--dimensions {dimensions}: {name} has {dim} dimensions, and its embeddings must be unit vectors"
        )
