"""Merge the adapter of a run into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from aisle.errors import ModelError
from aisle.models.loading import ADAPTER_FILE, base_of_adapter, load_encoder
from aisle.models.matryoshka import kept_record
from aisle.models.model_source import ModelSource
from aisle.models.run_file import read_settings_file, refuse_two_towers
from aisle.models.whole_model import WholeModel

MERGED_FROM = "merged_from"
"""Key in `aisle.json` of the record of the model that was merged."""
Kind = Literal["LoRA run", "run of all weights", "PEFT adapter", "base model"]


def merge_model(
    source: ModelSource, *, base_model: str | None, token: str | None, trust_remote_code: bool
) -> WholeModel:
    """Return a model with its adapter merged into the weights; they stay in float32.

    A run of all weights and a base model, which have no adapter, are returned as they are.

    Args:
        source: Run, PEFT adapter or base model.
        base_model: Base model of an adapter, if the adapter names none, or an old path.
        token: Token for private and gated repositories on the Hub.
        trust_remote_code: Whether to run Python code from the model's repository.

    Raises:
        ModelError: Files are missing, damaged, or do not fit together; or the run has two towers.
    """
    saved = read_settings_file(source.path)
    refuse_two_towers(source, saved, why="both are whole models, without an adapter to merge")
    adapter = (source.path / ADAPTER_FILE).is_file()
    if base_model is not None and not adapter:
        raise ModelError(
            f"--base_model: {source.name} has no adapter, so it needs no base model; leave it out"
        )
    encoder = load_encoder(
        source.name,
        base_model=base_model,
        revision=source.revision,
        token=token,
        device="cpu",
        trust_remote_code=trust_remote_code,
    )
    lineage: dict[str, Any] = {
        MERGED_FROM: _record(source, _kind(saved, adapter=adapter), encoder.fingerprint)
    }
    if saved is not None and "began_at" in saved:
        lineage = {"began_at": saved["began_at"], **lineage}
    lineage |= kept_record(saved)
    return WholeModel(
        tower=encoder.model.product_tower,
        tokenizer=encoder.tokenizer,
        settings=encoder.settings,
        base=base_named(source, saved, base_model, token, adapter=adapter),
        lineage=lineage,
        note=encoder.note,
    )


def _kind(saved: dict[str, Any] | None, *, adapter: bool) -> Kind:
    if saved is None:
        return "PEFT adapter" if adapter else "base model"
    return "LoRA run" if adapter else "run of all weights"


def _record(source: ModelSource, kind: Kind, fingerprint: str | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": source.name if source.hub_id else str(source.path),
        "revision": source.revision,
        "fingerprint": fingerprint,
    }


def base_named(
    source: ModelSource,
    saved: dict[str, Any] | None,
    base_model: str | None,
    token: str | None,
    *,
    adapter: bool,
) -> ModelSource:
    """Return the base model, which a run of all weights only names: its files may be gone."""
    if adapter:
        return base_of_adapter(source, saved, base_model, token)
    if saved is None:
        return source
    name = str(saved["base_model"])
    return ModelSource(name, Path(name), saved.get("base_model_hub_id"), saved.get("base_revision"))
