"""Write a tower as an ONNX graph, from token ids to embeddings.

All texts of a call have the same number of tokens. So the graph needs no mask, and no text of a batch changes
the embedding of another.
"""

from __future__ import annotations

import copy
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.bundle.bundle_file import DATA_SUFFIX, INPUT, OUTPUT
from aisle.errors import ModelError
from aisle.export.onnx_attention import ATTENTION
from aisle.export.reshapes import remove_reshapes
from aisle.kernels.packed_attention import ATTENTION as PACKED
from aisle.kernels.packed_attention import NATIVE
from aisle.models.backbone import one_line
from aisle.models.tower import Tower

OPSET = 20
"""Version of ONNX's operators; the first with GELU."""
EXAMPLE = (2, 7)
"""Texts and tokens of the example that the exporter traces. It treats sizes of 1 as fixed."""
MISSING_OPERATION = re.compile(r"OpOverload\(op='([^']+)'")


class TextGraph(nn.Module):
    """A tower for texts of equal length.

    Args:
        tower: Tower in float32, in evaluation mode, with adapters merged.
    """

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.backbone = tower.backbone
        self.heads = tower.heads
        self.mode = tower.pooling.mode

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of texts: (texts, dim) float32.

        Args:
            input_ids: (texts, tokens) int64.
        """
        vectors = self.backbone(input_ids=input_ids).last_hidden_state
        if self.mode == "mean":
            # A sum as a product for each text: ONNX Runtime reduces a batch of one text in another order.
            ones = vectors.new_ones(1, 1, vectors.shape[1])
            embeddings = (ones @ vectors)[:, 0] / vectors.shape[1]
        else:
            embeddings = vectors[:, 0] if self.mode == "cls" else vectors[:, -1]
        for head in self.heads:
            embeddings = head(embeddings)
        found: torch.Tensor = embeddings
        return found


def traceable_copy(tower: Tower) -> Tower:
    """Return a copy of a tower that computes attention with ONNX Runtime's operator, for export only.

    The copy shares all weights with the tower.
    """
    memo: dict[int, Any] = {id(one): one for one in (*tower.parameters(), *tower.buffers())}
    copied = copy.deepcopy(tower, memo)
    config: Any = copied.backbone.config
    if config._attn_implementation in (NATIVE, PACKED):  # others compute attention in their own code
        config._attn_implementation = ATTENTION
    return copied.eval()


def write_graph(tower: Tower, path: Path, *, max_length: int) -> None:
    """Write a tower's graph, and its weights to a file beside it.

    Args:
        tower: Copy of a tower, as `traceable_copy` returns it, on CPU.
        path: File of the graph.
        max_length: Maximum length of a text, in tokens.

    Raises:
        ModelError: The exporter does not support an operation of the architecture; the message names it.
    """
    config: Any = tower.backbone.config
    ids = torch.arange(EXAMPLE[0] * EXAMPLE[1]).view(EXAMPLE) % tower.vocabulary_size
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=max(max_length, EXAMPLE[1]))}
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                TextGraph(tower).eval(),
                (ids,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: sizes},
                opset_version=OPSET,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, NotImplementedError) as error:
        raise ModelError(
            f"{config.model_type}: cannot be exported: torch's exporter does not support "
            f"{_operation(error)}. Serve it with torch, or train another architecture"
        ) from error
    remove_reshapes(program.model)
    # ONNX Runtime maps a file of weights into memory: it loads MiniLM's graph in 0.03 s instead of 0.11 s.
    program.save(path, external_data=True)
    _check_files(path)


def _check_files(path: Path) -> None:
    """Check that the exporter names its file of weights as a bundle does."""
    made = {found.name for found in path.parent.glob(f"{path.name}*")}
    if made - {path.name, path.name + DATA_SUFFIX}:
        raise ModelError(f"{path}: torch's exporter wrote unknown files: {', '.join(sorted(made))}")


def _operation(error: BaseException) -> str:
    """Return the operation that stopped the exporter: an operator's name, or a line of the model's code."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        missing = MISSING_OPERATION.search(str(cause))
        if missing is not None:
            return f"the operator {missing[1]}"
    for cause in reversed(causes):
        frames = [
            frame for frame in traceback.extract_tb(cause.__traceback__) if "/modeling_" in frame.filename
        ]
        if frames:
            last, reason = frames[-1], one_line(Exception(str(cause).partition("\n")[0]))
            return f"`{last.line}` in {last.name} of {Path(last.filename).name} ({reason})"
    return one_line(Exception(str(causes[-1]).partition("\n")[0]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which logs every package that it could use and every warning of a trace.

    If code depends on data, it also prints the graph to stderr for each way that it tries.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
