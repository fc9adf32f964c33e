"""The checks of index and model before `aisle serve` listens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aisle.commands.output import quieten_libraries
from aisle.errors import AisleError, ModelError
from aisle.extras import require_extra
from aisle.index import read_manifest
from aisle.index.layout import version_directory
from aisle.search.load_encoder import extra_for
from aisle.service.pairs.served_pair import PairSource
from aisle.service.pairs.swap import Watched

__all__ = ["check_source", "computes_with_torch", "usable_source"]


def usable_source(watched: Watched) -> PairSource:
    """Return the current source, or the newest older one if the current one cannot be served.

    These are only quick checks, for a message before the server listens. The server loads the current pair
    first in any case, and older ones if that fails.

    Raises:
        AisleError: No source can be served; the error is that of the current one.
        OSError: A file cannot be read.
    """
    try:
        return check_source(watched.current().source)
    except (AisleError, OSError):
        for source in _older(watched):
            try:
                return check_source(source)
            except (AisleError, OSError):
                continue
        raise


def check_source(source: PairSource) -> PairSource:
    """Return a source that has an index, and a model for which the libraries are installed.

    Raises:
        AisleError: There is no index, the folder of its model is missing, or the extra of its model is not
            installed.
        OSError: A file cannot be read.
    """
    model = _model(source)
    if source.mode == "lexical":
        return source
    if Path(model).is_absolute() and not Path(model).exists():
        raise ModelError(
            f"{source.index_dir}: its model {model} is missing; if it has moved, give its folder with "
            "--model, to aisle serve or to aisle publish"
        )
    extra = extra_for(model)
    require_extra(extra)
    if extra == "encode":
        quieten_libraries()
    return source


def computes_with_torch(source: PairSource) -> bool:
    """Return whether the model of a source that can be served needs torch."""
    return source.mode != "lexical" and extra_for(_model(source)) == "encode"


def _older(watched: Watched) -> Iterator[PairSource]:
    try:
        yield from watched.fallbacks()
    except (AisleError, OSError):
        return


def _model(source: PairSource) -> str:
    """Return the model that a source names, or that its index records."""
    index_dir, number = source.index_dir, source.version
    if number is None or not index_dir.is_dir():  # the message then names the index, not the version
        manifest = read_manifest(index_dir)
    else:
        manifest = read_manifest(version_directory(index_dir, number))
    return source.model or str(manifest.encoder.get("model"))
