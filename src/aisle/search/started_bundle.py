"""Load the bundle of an index in a thread, while the index is opened."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from aisle.bundle.bundle_file import is_bundle
from aisle.bundle.onnx_encoder import OnnxEncoder, import_libraries, load_bundle
from aisle.errors import AisleError
from aisle.index.layout import StrPath
from aisle.index.manifest import read_manifest

__all__ = ["StartedBundle", "start_bundle"]


@dataclass(frozen=True)
class StartedBundle:
    """A bundle that a thread loads.

    Args:
        model: Folder of the bundle.
        loading: The encoder, or the error that loading raised.
    """

    model: str
    loading: Future[OnnxEncoder]

    def encoder(self) -> OnnxEncoder:
        """Wait for the encoder.

        Raises:
            AisleError: As `load_bundle`.
        """
        return self.loading.result()


def start_bundle(index_dir: StrPath, model: str | None) -> StartedBundle | None:
    """Start to load the bundle that an index is searched with.

    Returns None if the encoder is no bundle, or if the index or the libraries are missing: opening the index
    and loading the encoder report that.

    The libraries are imported by the calling thread, because threads that import packages at the same time
    may find them half imported. Loading a graph needs no import, and no lock of Python for most of its time.

    Args:
        index_dir: Directory of the index.
        model: Folder of the bundle, or Hub id or folder of another encoder; None is the encoder that the
            index records.
    """
    try:
        named = model or str(read_manifest(index_dir).encoder.get("model"))
        if not is_bundle(named):
            return None
        import_libraries()
    except (AisleError, OSError):
        return None
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bundle")
    loading = worker.submit(load_bundle, named)
    worker.shutdown(wait=False)
    return StartedBundle(named, loading)
