"""Product search by fine-tuned text embeddings.

`train`, `open_searcher`, `load_encoder`, `build_index` and `open_index` are imported when they are first
used: `import aisle` costs nothing, and searching an index with a bundle does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.version import __version__

if TYPE_CHECKING:
    from aisle.commands.train.from_python import train
    from aisle.index import build_index, open_index
    from aisle.search.load_encoder import load_encoder
    from aisle.search.open_searcher import open_searcher
else:
    from aisle.lazy_names import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "aisle.commands.train.from_python": ["train"],
            "aisle.index": ["build_index", "open_index"],
            "aisle.search.load_encoder": ["load_encoder"],
            "aisle.search.open_searcher": ["open_searcher"],
        },
    )


__all__ = ["__version__", "build_index", "load_encoder", "open_index", "open_searcher", "train"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
