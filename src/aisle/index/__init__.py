"""The index room: build an index, open it, search it; hnswlib stays in here and torch outside."""

from aisle.index.build import build_index
from aisle.index.exact import ann_recall, exact_search
from aisle.index.manifest import FileRecord, Manifest, read_manifest
from aisle.index.search import SearchIndex, SearchResult, open_index
from aisle.index.switch import refuse_occupied

__all__ = [
    "FileRecord",
    "Manifest",
    "SearchIndex",
    "SearchResult",
    "ann_recall",
    "build_index",
    "exact_search",
    "open_index",
    "read_manifest",
    "refuse_occupied",
]
