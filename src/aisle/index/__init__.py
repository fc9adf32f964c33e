"""Build, open, search and change an index; nothing here imports torch.

Every name is imported when it is first used: a program that only searches loads nothing that builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
else:
    from aisle.lazy_names import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "aisle.index.build_settings": ["GraphSettings", "IndexIdentity"],
            "aisle.index.builder": ["build_index", "finish_version"],
            "aisle.index.compact_retune": ["compact_index", "retune_index", "wants_compacting"],
            "aisle.index.filters": ["Filter", "parse_filter"],
            "aisle.index.manifest": ["FileRecord", "Manifest", "read_manifest"],
            "aisle.index.reader": ["StoredProducts", "open_index", "open_stored"],
            "aisle.index.scoring": ["ann_recall", "exact_search"],
            "aisle.index.search_index": ["SearchIndex", "SearchResult"],
            "aisle.index.upsert_delete": ["delete_products", "upsert_products"],
            "aisle.index.version_folders": ["refuse_foreign"],
            "aisle.index.version_history": ["Version", "list_versions", "rollback"],
            "aisle.index.writer": ["Writer", "index_writer"],
        },
    )

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
