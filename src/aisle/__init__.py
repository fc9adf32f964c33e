"""Product search by fine-tuned text embeddings.

`train`, `open_searcher`, `load_encoder`, `build_index` and `open_index` are imported when they are first
used: `import aisle` costs nothing, and searching an index does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.version import __version__

if TYPE_CHECKING:
    from aisle.commands.train.from_python import train
    from aisle.index import build_index, open_index
    from aisle.models.loading import load_encoder
    from aisle.search.open_searcher import open_searcher
else:
    _HOMES = {
        "build_index": "aisle.index",
        "load_encoder": "aisle.models.loading",
        "open_index": "aisle.index",
        "open_searcher": "aisle.search.open_searcher",
        "train": "aisle.commands.train.from_python",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'aisle' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


__all__ = ["__version__", "build_index", "load_encoder", "open_index", "open_searcher", "train"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
