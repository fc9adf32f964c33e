"""Record the encoder of an index when it is built, and load it again to search the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.bundle.bundle_file import is_bundle
from aisle.bundle.bundle_record import BundleSource
from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.errors import FingerprintMismatchError, ModelError
from aisle.index.layout import version_directory
from aisle.index.manifest import TOWER_FOLDER, Manifest
from aisle.index.reader import check_adapter, query_tower_note
from aisle.search.load_encoder import LoadedEncoder, load_encoder
from aisle.search.started_bundle import StartedBundle
from aisle.types.encoder_protocol import Encoder
from aisle.types.encoder_settings import Overrides

SOURCE = {"source_fingerprint": "fingerprint", "source_query_fingerprint": "query_fingerprint"}
"""Fields of the record for the model that a bundle was exported from."""


def encoder_record(
    *,
    model: str,
    revision: str | None,
    base_model: str | None,
    precision: str,
    overrides: Overrides,
    dimensions: int | None = None,
    source: BundleSource | None = None,
) -> dict[str, Any]:
    """Return the manifest's record of an encoder, from which it can be loaded again.

    The fingerprints of the model that a bundle in fp32 came from are recorded too, so that the model's bundle
    in int8 can search the index.
    """
    exported = {} if source is None else {name: getattr(source, field) for name, field in SOURCE.items()}
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
        **exported,
    }


def source_in_fp32(encoder: Encoder) -> BundleSource | None:
    """Return the model that a bundle in fp32 was exported from; None for other encoders."""
    if isinstance(encoder, OnnxEncoder) and encoder.bundle.precision == "fp32":
        return encoder.bundle.source
    return None


def may_stand_in(source: BundleSource, manifest: Manifest) -> bool:
    """Return whether a bundle of a model may embed the queries of an index.

    It may if the model, or a bundle of the model in fp32, made the index.
    """
    recorded = manifest.encoder
    made_by = [recorded.get(name) for name in SOURCE]
    return manifest.fingerprint == source.fingerprint or made_by == [
        getattr(source, field) for field in SOURCE.values()
    ]


def encoder_of_index(
    manifest: Manifest,
    index_dir: Path,
    *,
    model: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    to_search: bool = True,
    adapted: bool = True,
    log: Callable[[str], None] | None = None,
    started: StartedBundle | None = None,
) -> LoadedEncoder:
    """Return the encoder that made an index, or a bundle that was exported from it.

    Args:
        manifest: Manifest of the index.
        index_dir: Path of the index, for messages.
        model: Folder or Hub id of the encoder, if it has moved, or of a bundle.
        base_model: Folder or Hub id of its base model, if that has moved.
        trust_remote_code: Run the Python code of the encoder's repository; an index cannot turn this on.
        to_search: Whether only queries are embedded. A bundle exported from the encoder of the index, or from
            the model of the bundle in fp32 that made the index, embeds its queries: the export measured how
            close the embeddings are. It embeds no products, because the products of an index have the same
            encoder.
        adapted: Whether the query tower that the index has as an adapter (kind lora) takes the place of the
            encoder's.
        log: Function that prints a line, if the encoder is a bundle that failed a gate of its export, or has
            another query tower than the index records.
        started: Bundle that is being loaded already; it is used if it is the encoder to load.

    Raises:
        ModelError: If the encoder cannot be loaded from the path in the manifest or in `model`.
        FingerprintMismatchError: If the loaded encoder is not the encoder that made the index.
    """
    record = manifest.encoder
    named = model or str(record["model"])
    try:
        encoder = _load(
            named,
            record,
            moved=model is not None,
            base_model=base_model,
            trust_remote_code=trust_remote_code,
            started=started,
        )
    except ModelError as error:
        raise ModelError(
            f"{index_dir}: its encoder cannot be loaded; if it has moved, give it with --model. {error}"
        ) from None
    if encoder.fingerprint != manifest.fingerprint:
        encoder = _in_place_of(manifest, encoder, index_dir, named, to_search=to_search)
    if log is not None and isinstance(encoder, OnnxEncoder) and encoder.note is not None:
        log(encoder.note)
    if to_search and adapted:
        encoder = _with_own_tower(manifest, index_dir, encoder, trust_remote_code=trust_remote_code)
        check_adapter(index_dir, manifest, encoder.query_fingerprint)
    other_tower = query_tower_note(manifest, encoder.query_fingerprint) if to_search and adapted else None
    if log is not None and other_tower is not None:
        log(other_tower)
    return encoder.truncated(record.get("dimensions"))


def _with_own_tower(
    manifest: Manifest, index_dir: Path, encoder: LoadedEncoder, *, trust_remote_code: bool
) -> LoadedEncoder:
    """Return the encoder with the query tower of the index, if that was trained from the encoder's."""
    record = manifest.query_adapter
    if record is None or record.kind != "lora" or isinstance(encoder, OnnxEncoder):
        return encoder
    if encoder.query_fingerprint != record.base_fingerprint:
        return encoder

    from aisle.models.query_tower import with_query_tower

    folder = version_directory(index_dir, manifest.version) / TOWER_FOLDER
    return with_query_tower(encoder, folder, trust_remote_code=trust_remote_code)


def recorded_overrides(record: Mapping[str, Any]) -> Overrides:
    """Return the settings that the build of an index overrode in its encoder's files.

    Args:
        record: Record of the encoder in the manifest.
    """
    return Overrides(
        **{name: record.get(name) for name in ("pooling", "query_prompt", "product_prompt", "max_length")}
    )


def _load(
    named: str,
    record: dict[str, Any],
    *,
    moved: bool,
    base_model: str | None,
    trust_remote_code: bool,
    started: StartedBundle | None,
) -> LoadedEncoder:
    """Load the encoder of an index with the settings that the index records."""
    if is_bundle(named):
        if started is None or started.model != named or base_model is not None:
            return load_encoder(named, base_model=base_model)
        return started.encoder()

    from aisle.training.cpu_threads import use_cpu_threads

    use_cpu_threads()
    return load_encoder(
        named,
        base_model=base_model or record.get("base_model"),
        revision=None if moved else record.get("revision"),
        overrides=recorded_overrides(record),
        trust_remote_code=trust_remote_code,
    )


def _in_place_of(
    manifest: Manifest, encoder: LoadedEncoder, index_dir: Path, named: str, *, to_search: bool
) -> OnnxEncoder:
    """Return a bundle in place of the encoder that made an index, if it was exported from that encoder.

    Raises:
        FingerprintMismatchError: The encoder is no bundle, was exported from another encoder, or has to embed
            products.
    """
    made_by = f"{index_dir}: was made by the encoder {manifest.encoder['model']}"
    with_fingerprint = f"{made_by} with fingerprint {manifest.fingerprint}, and"
    if not isinstance(encoder, OnnxEncoder):
        raise FingerprintMismatchError(
            f"{with_fingerprint} {named} has fingerprint {encoder.fingerprint}. Give the encoder "
            "that made the index with --model, or build the index again with the new one"
        )
    source = encoder.bundle.source
    if not may_stand_in(source, manifest):
        raise FingerprintMismatchError(
            f"{with_fingerprint} the bundle {named} has fingerprint {encoder.fingerprint} and was exported "
            f"from {source.model} with fingerprint {source.fingerprint}. Give the encoder of the index, or a "
            "bundle of it, with --model, or build the index again with this bundle"
        )
    if not to_search:
        raise FingerprintMismatchError(
            f"{made_by}, and the bundle {named}, which was exported from it, may embed queries for this "
            "index but no products: their embeddings would differ a little from the others. Leave --model "
            "out, or build the index again with the bundle"
        )
    if source.fingerprint == manifest.fingerprint:
        return encoder.in_place_of_source()
    return replace(
        encoder, stands_for=(manifest.fingerprint, manifest.query_fingerprint or manifest.fingerprint)
    )


def _lasting(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name
