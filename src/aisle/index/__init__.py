"""Build, open, search and change an index; nothing here imports torch."""

from aisle.index.build_settings import GraphSettings, IndexIdentity
from aisle.index.builder import build_index, finish_version
from aisle.index.compact_retune import compact_index, retune_index, wants_compacting
from aisle.index.filters import Filter, parse_filter
from aisle.index.manifest import FileRecord, Manifest, read_manifest
from aisle.index.reader import StoredProducts, open_index, open_stored
from aisle.index.scoring import ann_recall, exact_search
from aisle.index.search_index import SearchIndex, SearchResult
from aisle.index.upsert_delete import delete_products, upsert_products
from aisle.index.version_folders import refuse_foreign
from aisle.index.version_history import Version, list_versions, rollback
from aisle.index.writer import Writer, index_writer

__all__ = [
    "FileRecord",
    "Filter",
    "GraphSettings",
    "IndexIdentity",
    "Manifest",
    "SearchIndex",
    "SearchResult",
    "StoredProducts",
    "Version",
    "Writer",
    "ann_recall",
    "build_index",
    "compact_index",
    "delete_products",
    "exact_search",
    "finish_version",
    "index_writer",
    "list_versions",
    "open_index",
    "open_stored",
    "parse_filter",
    "read_manifest",
    "refuse_foreign",
    "retune_index",
    "rollback",
    "upsert_products",
    "wants_compacting",
]
