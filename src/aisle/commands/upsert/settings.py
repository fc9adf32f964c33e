"""The settings of `upsert`, and the check of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.commands.named_inputs import check_indexes, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    IndexDir,
    IndexModel,
    Json,
    KeepVersions,
    MaxTokens,
    OnBadRow,
    TrustRemoteCode,
)
from aisle.config.annotations import Required
from aisle.data.files import expand_files
from aisle.errors import IndexIntegrityError


@dataclass(frozen=True)
class UpsertSettings:
    """Add products to an index, and replace changed products.

    Products with an id of the index are replaced; only new texts are embedded. --catalog must have all
    columns of the index, blank where a product has no value; with --partial, it may have only some of them.
    """

    index_dir: IndexDir
    catalog: Required[tuple[str, ...]] = ()
    """New and changed products: csv, tsv, jsonl, json or parquet files. Globs and .gz are allowed."""
    id_column: str | None = None
    """Column of --catalog with the product id. If not given: the column of the build."""
    text_template: str | None = None
    """Text to embed. Give it only for an index that was built without a template."""
    partial: bool = False
    """Change only the columns that --catalog has, of products in the index. A text is embedded again only if
    a column of the template changes it."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    keep_versions: KeepVersions = None
    max_tokens: MaxTokens = None
    threads: Count | None = None
    """Threads that add products to the graph. If not given: all cores."""
    model: IndexModel = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def upsert_extra(settings: UpsertSettings) -> str:
    """Return the extra that the encoder of the index needs."""
    from aisle.index import read_manifest
    from aisle.search.load_encoder import extra_for

    if settings.model is not None:
        return extra_for(settings.model)
    try:
        return extra_for(str(read_manifest(settings.index_dir).encoder.get("model")))
    except (IndexIntegrityError, OSError):  # reported by `upsert_inputs`, or by the command
        return "encode"


def upsert_inputs(settings: UpsertSettings) -> None:
    """Check that the index and the catalogue exist."""
    check_indexes(settings.index_dir)
    expand_files(settings.catalog)
    check_models(settings.model, settings.base_model)
