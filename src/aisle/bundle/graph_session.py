"""A graph in ONNX Runtime: embeddings of texts of equal length, safe from any number of threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.bundle.bundle_file import BUNDLE_FILE, DATA_SUFFIX, INPUT, OUTPUT, verify_checksums
from aisle.bundle.bundle_record import Bundle, BundledTower
from aisle.bundle.parallel_batches import threads_of_call
from aisle.errors import ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["GraphSession", "TowerGraph", "import_onnxruntime", "load_graph"]

LOGGER = logging.getLogger("aisle.bundle")

SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""Fusions of ONNX Runtime that are slower than the operators they replace: the sum with its layer norm takes
2.5 ms in one operator and 0.7 ms in two (MiniLM, 128 texts of 20 tokens)."""
KEPT_TOKENS = 512
"""After a call with more tokens, the memory that a session keeps for its next calls is given back. Without
that it keeps the memory of the largest batch: 110 MB after texts of 500 tokens on MiniLM."""
LARGEST_COPY = 200_000_000
"""Most bytes of weights that are held twice, in the sessions for single texts and for batches."""


class GraphSession:
    """A graph opened with a number of threads.

    Args:
        session: Session of ONNX Runtime.
        threads: Threads of a call.
    """

    def __init__(self, session: InferenceSession, threads: int) -> None:
        from onnxruntime import RunOptions

        self.threads = threads
        self._session = session
        self._shrinking = RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """Return the embeddings of texts of equal length: (texts, dim) float32.

        Args:
            input_ids: (texts, tokens) int64.
        """
        found: np.ndarray = self._session.run([OUTPUT], {INPUT: input_ids})[0]
        return found

    def release(self, largest_call: int) -> None:
        """Give back the memory of earlier calls, if the largest of them had more than `KEPT_TOKENS` tokens.

        Call it after the last batch: when every call gives its memory back, the next one waits until the
        system has cleared new pages, which was 9% of the processor time of a batch on MiniLM in int8.

        Args:
            largest_call: Number of tokens in the largest call.
        """
        if largest_call > KEPT_TOKENS:
            self._session.run([OUTPUT], {INPUT: np.zeros((1, 1), np.int64)}, self._shrinking)


def import_onnxruntime() -> Any:
    """Return ONNX Runtime, with its telemetry turned off.

    From 1.32 on, the official builds write a device id below ~/.cache and send events to Microsoft. The
    variable is read when the library is loaded (Privacy.md in its package); a user's own value stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class TowerGraph:
    """Graph of a tower, in a session for single texts and, where it pays, another for batches.

    A call of several threads answers a query sooner, but they wait for each other after every operator. Calls
    of a single thread side by side do not.

    Args:
        single: Session for single texts and small batches.
        open_for_batches: Function that opens a session with one thread for a call; None if `single` computes
            batches, too.
    """

    def __init__(self, single: GraphSession, open_for_batches: Callable[[], GraphSession] | None) -> None:
        self.single = single
        self._open = open_for_batches
        self._opening = Lock()
        self._batches = None if open_for_batches else single

    def for_batches(self) -> GraphSession:
        """Return the session for batches, and open it first if need be.

        If that fails, because the bundle was moved, replaced or damaged since it was loaded, or memory is
        full, the session for single texts computes batches from now on, and the reason is logged. So all
        embeddings are those of the bundle that was loaded. That holds only if files are replaced by renaming:
        ONNX Runtime maps the weights, so a file that is overwritten in place changes a loaded graph.
        """
        if self._batches is None:
            with self._opening:
                if self._batches is None:
                    self._batches = self._opened()
        return self._batches

    def _opened(self) -> GraphSession:
        if self._open is None:
            return self.single
        try:
            return self._open()
        except ModelError as error:
            LOGGER.warning("batches are computed by the session for single texts, which is slower: %s", error)
            return self.single


def load_graph(folder: Path, bundle: Bundle, tower: BundledTower, *, vocabulary_size: int) -> TowerGraph:
    """Load the graph of a tower; calls from several threads run at the same time.

    Args:
        folder: Folder of the bundle.
        bundle: Contents of `bundle.json`.
        tower: Tower to load.
        vocabulary_size: Number of tokens. A text reads few rows of their table, so that the table does not
            count when the number of threads is chosen.

    Raises:
        ModelError: ONNX Runtime cannot load the graph, or it differs from the description of the tower.
    """
    weight_bytes = _weight_bytes(folder / tower.graph, tower, vocabulary_size)
    threads = threads_of_call(weight_bytes)
    single = _open_session(folder, tower, threads)
    twice = threads > 1 and weight_bytes <= LARGEST_COPY
    return TowerGraph(single, partial(_open_again, folder, bundle, tower) if twice else None)


def _open_again(folder: Path, bundle: Bundle, tower: BundledTower) -> GraphSession:
    """Return a session with one thread for a call, of the same bytes as at the first opening.

    Raises:
        ModelError: The files cannot be opened, or they have changed.
    """
    session = _open_session(folder, tower, 1)
    # After the opening: a file that was replaced before or meanwhile has another checksum now.
    verify_checksums(folder, bundle, [name for name in _files(tower) if name in bundle.files])
    return session


def _open_session(folder: Path, tower: BundledTower, threads: int) -> GraphSession:
    """Open a graph with a number of threads for a call."""
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    path = folder / tower.graph
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOWER_FUSIONS,
        )
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NoSuchFile,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as error:
        raise ModelError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {error!s:.300}; "
            "upgrade onnxruntime, or export the run again"
        ) from None
    _check_graph(path, tower, inputs=session.get_inputs(), outputs=session.get_outputs())
    return GraphSession(session, threads)


def _weight_bytes(path: Path, tower: BundledTower, vocabulary_size: int) -> int:
    """Return about how many bytes of weights every text reads."""
    files = [path.with_name(name) for name in _files(tower)]
    table = vocabulary_size * tower.dim * np.dtype(np.float32).itemsize
    return sum(file.stat().st_size for file in files if file.is_file()) - table


def _files(tower: BundledTower) -> tuple[str, str]:
    """Return the names of the files of a graph and of its weights; small weights are in the graph's file."""
    return tower.graph, tower.graph + DATA_SUFFIX


def _check_graph(path: Path, tower: BundledTower, *, inputs: list[Any], outputs: list[Any]) -> None:
    """Check the graph's input and output against `bundle.json`."""
    names = [value.name for value in inputs], [value.name for value in outputs]
    if names != ([INPUT], [OUTPUT]):
        raise ModelError(
            f"{path}: must have the input {INPUT} and the output {OUTPUT}, found {names[0]} and {names[1]}; "
            "export the run again"
        )
    kinds = inputs[0].type, outputs[0].type
    if kinds != ("tensor(int64)", "tensor(float)"):
        raise ModelError(
            f"{path}: must turn tensor(int64) into tensor(float), found {kinds[0]} into {kinds[1]}; "
            "export the run again"
        )
    dim = outputs[0].shape[-1] if outputs[0].shape else None
    if isinstance(dim, int) and dim != tower.dim:
        raise ModelError(
            f"{path}: gives embeddings of {dim} components, and {BUNDLE_FILE} records {tower.dim}; "
            "export the run again"
        )
