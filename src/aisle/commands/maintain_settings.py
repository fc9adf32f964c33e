"""The settings of the commands that change an index, go back, and look at it: upsert to verify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class UpsertSettings:
    """Add products to an index, and replace those whose ids are there; only new texts are embedded.

    --catalog has the columns of the index, blank where there is no value; or some of them, with --partial.
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


@dataclass(frozen=True)
class DeleteSettings:
    """Remove products from an index."""

    index_dir: str
    """Folder of the index."""
    product_ids: Positional[tuple[str, ...]] = ()
    """Ids of the products."""
    ids_file: str | None = None
    """File with a product id on each line."""
    ignore_unknown: bool = False
    """Leave ids that are not in the index aside, instead of refusing."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class CompactSettings:
    """Build the graph of an index anew, without the nodes of deleted products; nothing is embedded."""

    index_dir: str
    """Folder of the index."""
    threads: Count | None = None
    """Threads that build the graph; all cores when not given, 1 gives the same files every time."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class TuneSettings:
    """Measure the recall of an index again and set ef_search; nothing is embedded or built."""

    index_dir: str
    """Folder of the index."""
    target_recall: Annotated[float, Field(ge=0, le=1)] | None = None
    """recall@10 against exact search that ef_search is chosen for; 0.98 when neither is given."""
    ef_search: Count | None = None
    """Take this ef_search, and measure its recall."""
    threads: Count | None = None
    """Threads that search while recall is measured; all cores when not given. Times are those of one."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class RollbackSettings:
    """Make an older version of an index the current one, after checking that it is whole.

    It also mends an index whose manifest.json is lost or damaged: its newest version becomes current.
    """

    index_dir: str
    """Folder of the index."""
    to: Count | None = None
    """Number of the version; the one that the current version was made from when not given."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class VersionsSettings:
    """List the versions of an index."""

    index_dir: str
    """Folder of the index."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class InfoSettings:
    """Show what an index is: its encoder, its graph, its columns, and the recall that was measured."""

    index_dir: str
    """Folder of the index."""
    version: Count | None = None
    """Number of the version; the current one when not given."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class VerifySettings:
    """Check an index: the checksum of every file, all counts, and its recall, which is measured again."""

    index_dir: str
    """Folder of the index."""
    all_versions: bool = False
    """Check every version, not only the current one."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""
