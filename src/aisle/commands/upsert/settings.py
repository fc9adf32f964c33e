"""The settings of `upsert`, and the check of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from aisle.commands.named_inputs import check_indexes, check_models
from aisle.data.files import expand_files

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class UpsertSettings:
    """Add products to an index, and replace changed products.

    A product whose id is in the index is replaced; only new texts are embedded. --catalog has all columns of
    the index, blank where a product has no value; with --partial it may have only some of them.
    """

    index_dir: str
    """Folder of the index."""
    catalog: tuple[str, ...] = ()
    """csv, tsv, jsonl, json or parquet files (globs and .gz allowed) with the new and changed products."""
    id_column: str | None = None
    """Column of --catalog with the unique product id; that of the build when not given."""
    text_template: str | None = None
    """Text that is embedded; that of the build when not given, and only for an index built without one."""
    partial: bool = False
    """Change only the columns that --catalog has, of products that are in the index. A text is embedded
    again only where a column of the template changes it."""
    delimiter: str | None = None
    """Character between the fields of csv files, such as ";", or the word tab. When not given: a comma, or
    what the first line names (sep=;). tsv files always have tabs."""
    encoding: str = "utf-8"
    """Encoding of csv, tsv, jsonl and json files, such as cp1252 or utf-16."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at rows that cannot be used, or leave them out and say how many."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    max_tokens: Annotated[int, Field(ge=64)] | None = None
    """Padded tokens encoded at a time; 1,024 on CPU and 65,536 on GPU when not given."""
    threads: Count | None = None
    """Threads that place products in the graph; all cores when not given."""
    model: str | None = None
    """The encoder that made the index, if it has moved."""
    base_model: str | None = None
    """The base of its adapter, if it has moved."""
    trust_remote_code: bool = False
    """Run the Python code that the model's repository brings."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def upsert_inputs(settings: UpsertSettings) -> None:
    """Raise unless the index and the catalogue exist."""
    check_indexes(settings.index_dir)
    expand_files(settings.catalog)
    check_models(settings.model, settings.base_model)
