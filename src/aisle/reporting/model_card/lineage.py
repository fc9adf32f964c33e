"""Describe in the card the models that a model was made from, as `aisle.json` records them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["has_merged_adapter", "is_copy", "lineage_rows", "merged_sentence"]


def has_merged_adapter(encoder: Mapping[str, object]) -> bool:
    """Return whether `aisle merge` merged an adapter into the weights.

    Args:
        encoder: Contents of aisle.json.
    """
    return _record(encoder, "merged_from").get("kind") in ("LoRA run", "PEFT adapter")


def is_copy(encoder: Mapping[str, object]) -> bool:
    """Return whether `aisle merge` copied a base model, which was not trained here."""
    return _record(encoder, "merged_from").get("kind") == "base model"


def merged_sentence(encoder: Mapping[str, object]) -> str:
    """Return a sentence about the merged adapter, after a space; empty without an adapter."""
    if not has_merged_adapter(encoder):
        return ""
    return (
        " The adapter is merged into the weights, so the model needs no PEFT. Its embeddings equal those of"
        " the adapter up to rounding; use one of the two for an index and its queries."
    )


def lineage_rows(encoder: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the rows of the table of settings on the models that this model was made from."""
    rows = []
    start, merged = (_record(encoder, key) for key in ("began_at", "merged_from"))
    if start:
        how = f"adapter {start['adapter']}, fingerprint `{start['fingerprint']}`"
        rows.append(("Started from", f"the LoRA run `{_name(start)}`: {how}"))
    if merged:
        how = f"the {merged['kind']} `{_name(merged)}`, fingerprint `{merged['fingerprint']}`"
        rows.append(("Made by `aisle merge` from", how))
    return rows


def _record(encoder: Mapping[str, object], key: str) -> Mapping[str, object]:
    record = encoder.get(key)
    return record if isinstance(record, Mapping) else {}


def _name(record: Mapping[str, object]) -> str:
    """Return the public name of a model: its Hub id, or the last part of its folder."""
    return str(record["name"]) if record.get("revision") else Path(str(record["name"])).name
