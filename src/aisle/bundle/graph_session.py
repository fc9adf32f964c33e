"""A graph in ONNX Runtime: embeddings of texts of equal length, safe from any number of threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.bundle.bundle_file import BUNDLE_FILE, DATA_SUFFIX, INPUT, OUTPUT
from aisle.bundle.bundle_record import BundledTower
from aisle.bundle.parallel_batches import threads_of_call
from aisle.errors import ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["GraphSession", "import_onnxruntime", "load_graph"]

SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""Fusions of ONNX Runtime that are slower than the operators they replace: the sum with its layer norm takes
2.5 ms in one operator and 0.7 ms in two (MiniLM, 128 texts of 20 tokens)."""
KEPT_TOKENS = 512
"""A call with more tokens gives its memory back at the end. Without that, the arena keeps the memory of the
largest batch: 110 MB after texts of 500 tokens on MiniLM. Smaller calls, such as a query, keep theirs."""


class GraphSession:
    """A loaded graph.

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
        options = self._shrinking if input_ids.size > KEPT_TOKENS else None
        found: np.ndarray = self._session.run([OUTPUT], {INPUT: input_ids}, options)[0]
        return found


def import_onnxruntime() -> Any:
    """Return ONNX Runtime, with its telemetry turned off.

    From 1.32 on, the official builds write a device id below ~/.cache and send events to Microsoft. The
    variable is read when the library is loaded (Privacy.md in its package); a user's own value stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def load_graph(folder: Path, tower: BundledTower, *, vocabulary_size: int) -> GraphSession:
    """Load the graph of a tower; calls from several threads run at the same time.

    Args:
        folder: Folder of the bundle.
        tower: Tower to load.
        vocabulary_size: Number of tokens. A text reads few rows of their table, so that the table does not
            count when the number of threads is chosen.

    Raises:
        ModelError: ONNX Runtime cannot load the graph, or it differs from the description of the tower.
    """
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    path = folder / tower.graph
    threads = threads_of_call(_weight_bytes(path, tower, vocabulary_size))
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
    files = (path, path.with_name(path.name + DATA_SUFFIX))
    table = vocabulary_size * tower.dim * np.dtype(np.float32).itemsize
    return sum(file.stat().st_size for file in files if file.is_file()) - table


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
