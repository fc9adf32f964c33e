"""Give an encoder another query tower: a whole model in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aisle.models.bi_encoder import BiEncoder
from aisle.models.encoder import TorchEncoder
from aisle.models.loading import load_tower
from aisle.models.model_source import ModelSource
from aisle.types.encoder_settings import Overrides

__all__ = ["with_query_tower"]


def with_query_tower(encoder: TorchEncoder, folder: Path, *, trust_remote_code: bool = False) -> TorchEncoder:
    """Return an encoder of the same products with the query tower in a folder, on the same device.

    Args:
        encoder: The encoder.
        folder: Folder of a whole model, with its `aisle.json`.
        trust_remote_code: Whether to run Python code from the folder.

    Raises:
        ModelError: The model cannot be loaded, or its embeddings have another dimension.
    """
    source = ModelSource(name=str(folder), path=folder.resolve())
    loaded = load_tower(source, Overrides(), trust_remote_code=trust_remote_code)
    own, model = loaded.model.settings, encoder.model
    towers = BiEncoder(loaded.model.tower().to(encoder.device), model.product_tower).eval()
    return replace(
        encoder,
        model=towers,
        settings=replace(encoder.settings, query_prompt=own.query_prompt),
        query_fingerprint=loaded.fingerprint,
        query_tokenizer=loaded.model.tokenizer,
        query_max_length=own.max_length,
    )
