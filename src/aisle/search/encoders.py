"""Record the encoder of an index when it is built, and load it again to search the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aisle.errors import FingerprintMismatchError, ModelError
from aisle.index.manifest import Manifest
from aisle.index.reader import check_query_fingerprint
from aisle.models.encoder import TorchEncoder
from aisle.models.loading import Overrides, load_encoder
from aisle.training.cpu_threads import use_cpu_threads


def encoder_record(
    *,
    model: str,
    revision: str | None,
    base_model: str | None,
    precision: str,
    overrides: Overrides,
    dimensions: int | None = None,
) -> dict[str, Any]:
    """Return the manifest's record of an encoder, from which it can be loaded again."""
    return {
        "model": _lasting(model),
        "revision": revision,
        "base_model": None if base_model is None else _lasting(base_model),
        "pooling": overrides.pooling,
        "query_prompt": overrides.query_prompt,
        "product_prompt": overrides.product_prompt,
        "max_length": overrides.max_length,
        "precision": precision,
        "dimensions": dimensions,
    }


def encoder_of_index(
    manifest: Manifest,
    index_dir: Path,
    *,
    model: str | None,
    base_model: str | None,
    trust_remote_code: bool,
) -> TorchEncoder:
    """Return the encoder that made an index.

    Args:
        manifest: Manifest of the index.
        index_dir: Path of the index, for messages.
        model: Folder or Hub id of the encoder, if it has moved.
        base_model: Folder or Hub id of its base model, if that has moved.
        trust_remote_code: Run the Python code of the encoder's repository; an index cannot turn this on.

    Raises:
        ModelError: If the encoder cannot be loaded from the path in the manifest or in `model`.
        FingerprintMismatchError: If the loaded encoder is not the encoder that made the index.
    """
    use_cpu_threads()
    record = manifest.encoder
    overrides = Overrides(
        **{name: record.get(name) for name in ("pooling", "query_prompt", "product_prompt", "max_length")}
    )
    named = model or str(record["model"])
    try:
        encoder = load_encoder(
            named,
            base_model=base_model or record.get("base_model"),
            revision=None if model else record.get("revision"),
            overrides=overrides,
            trust_remote_code=trust_remote_code,
        )
    except ModelError as error:
        raise ModelError(
            f"{index_dir}: its encoder cannot be loaded; if it has moved, give it with --model. {error}"
        ) from None
    if encoder.fingerprint != manifest.fingerprint:
        raise FingerprintMismatchError(
            f"{index_dir}: was made by the encoder {record['model']} with fingerprint "
            f"{manifest.fingerprint}, and {named} has fingerprint {encoder.fingerprint}. Give the encoder "
            "that made the index with --model, or build the index again with the new one"
        )
    check_query_fingerprint(index_dir, manifest, encoder.query_fingerprint)
    return encoder.truncated(record.get("dimensions"))


def _lasting(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name
