"""Forward and backward passes captured as CUDA graphs, a pair of graphs for each static shape.

Below some thousand tokens a GPU computes faster than Python can start its kernels. A graph starts all kernels
of a pass at once. The loss between the two passes, clipping and the optimiser stay ordinary code: the host
prepares them while the GPU computes the graph, as long as none of them reads a number from the device.
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from aisle.kernels.adjacent_tensors import adjacent_zeros
from aisle.text.token_batches import PackedBatch, TokenBatch

EAGER_STEPS = 3
"""Steps before the first capture: libraries choose their kernels and allocate workspaces."""
MOST_GRAPHS = 64
"""Shapes to capture; further ones are computed eagerly. A graph of 24 layers takes some ten MiB."""

Replay = Callable[[], None]
Record = Callable[[Callable[[], None], int], Replay]
"""Takes a function on static tensors, and a number. Functions with the same number never interleave, so they
share memory. Returns what computes the function; recording does not."""


@dataclass
class CapturedPass:
    """The graphs of one static shape, and the tensors that they read and write.

    Args:
        batch: Batch whose tensors the forward pass reads; all its rows count as texts.
        embeddings: (rows, dim) float32, written by the forward pass.
        gradient: (rows, dim) float32, read by the backward pass.
        forward: Computes `embeddings`.
        backward: Adds the gradient of the trained weights, given `gradient`.
    """

    batch: PackedBatch
    embeddings: torch.Tensor
    gradient: torch.Tensor
    forward: Replay
    backward: Replay

    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """Return the embeddings of a batch of this shape: (texts, dim), until the next call."""
        self.batch.input_ids.copy_(batch.input_ids)
        self.batch.positions.copy_(batch.positions)
        self.batch.offsets.copy_(batch.offsets)
        if self.batch.types is not None and batch.types is not None:
            self.batch.types.copy_(batch.types)
        self.forward()
        return self.embeddings[: len(batch)]

    def backward_from(self, gradient: torch.Tensor) -> None:
        """Add the gradient of the trained weights, given that of the embeddings: (texts, dim)."""
        self.gradient.zero_()
        self.gradient[: len(gradient)] = gradient
        self.backward()


@dataclass
class CapturedPasses:
    """Embeds static batches by graphs, and carries gradients back by graphs.

    Args:
        embed: Returns the embeddings of one batch with their autograd graph: (texts, dim) float32.
        dim: Length of an embedding.
        trained: The trained weights. From the first backward pass on, `grad` of each is a tensor that stays.
        log: Called with a line if passes are not captured.
        record: Captures a function.
        why_eager: Why steps are computed eagerly; None while they are captured.
        eager_steps: Steps to compute eagerly before the first capture.
        captured_batches: Number of batches of pairs that graphs computed.
    """

    embed: Callable[[PackedBatch], torch.Tensor]
    dim: int
    trained: Sequence[torch.nn.Parameter]
    log: Callable[[str], None]
    record: Record
    why_eager: str | None = None
    eager_steps: int = EAGER_STEPS
    captured_batches: int = 0
    _passes: dict[tuple[Any, ...], CapturedPass] = field(default_factory=dict)
    _gradients: list[torch.Tensor] = field(default_factory=list)
    _compiled: set[tuple[Any, ...]] = field(default_factory=set)
    _full: bool = False

    def passes(self, batches: Sequence[TokenBatch]) -> list[tuple[CapturedPass, PackedBatch]] | None:
        """Return the batches of a forward pass with their graphs; None if it is to be computed eagerly."""
        if self.why_eager is not None:
            return None
        packed = [cast(PackedBatch, batch) for batch in batches]  # of a layout with static shapes
        # Triton compiles a kernel at its first call, which is not possible during a capture. Its kernels
        # depend on the number of texts and the longest text, and not on the number of tokens.
        kinds = {(batch.side, batch.rows, batch.longest) for batch in packed}
        if self.eager_steps or not kinds <= self._compiled:
            self.eager_steps = max(self.eager_steps - 1, 0)
            self._compiled |= kinds
            return None
        found = []
        for slot, batch in enumerate(packed):
            key = (slot, batch.side, batch.read_tokens, batch.rows, batch.longest)
            captured = self._passes.get(key) or self._capture(batch, slot)
            if captured is None:
                return None
            self._passes[key] = captured
            found.append((captured, batch))
        self.captured_batches += 1
        return found

    @property
    def shapes(self) -> list[tuple[Any, ...]]:
        """The captured shapes: place in the step, side, tokens, rows, longest text."""
        return list(self._passes)

    def keep_gradients(self) -> None:
        """Make `grad` of each trained weight the tensor that graphs add to; call before a backward pass."""
        if not self._gradients:
            self._gradients = adjacent_zeros(self.trained)
        if all(weight.grad is kept for weight, kept in zip(self.trained, self._gradients, strict=True)):
            return
        torch._foreach_zero_(self._gradients)
        for weight, kept in zip(self.trained, self._gradients, strict=True):
            if weight.grad is not None:  # from a pass that was computed eagerly
                kept.add_(weight.grad)
            weight.grad = kept

    def release(self, reason: str) -> None:
        """Free the graphs and their memory; all further steps are computed eagerly."""
        self.why_eager = reason
        self.log(f"warning: steps are computed eagerly, slower for small batches: {reason}")
        self._passes.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            _free_abandoned_pools()

    def _capture(self, batch: PackedBatch, slot: int) -> CapturedPass | None:
        if len(self._passes) >= MOST_GRAPHS:
            if not self._full:
                self.log(f"steps of other shapes than the first {MOST_GRAPHS} are computed eagerly")
            self._full = True
            return None
        self.keep_gradients()
        static = replace(
            batch,
            input_ids=batch.input_ids.clone(),
            positions=batch.positions.clone(),
            offsets=batch.offsets.clone(),
            types=None if batch.types is None else batch.types.clone(),
            runs=(),  # of other texts in every step; a GPU's kernels read the offsets
            texts=batch.rows,
        )
        embeddings = torch.zeros(batch.rows, self.dim, device=batch.input_ids.device)
        gradient = torch.zeros_like(embeddings)
        passed: list[torch.Tensor] = []

        def forward() -> None:
            passed[:] = [self.embed(static)]
            embeddings.copy_(passed[0].detach())

        def backward() -> None:
            gradients = torch.autograd.grad(
                passed.pop(), self.trained, gradient, allow_unused=True, materialize_grads=True
            )
            torch._foreach_add_(self._gradients, gradients)

        try:
            return CapturedPass(
                static, embeddings, gradient, self.record(forward, slot), self.record(backward, slot)
            )
        except RuntimeError as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
        # Not inside `except`, where the error's traceback keeps the tensors of the pass in memory.
        passed.clear()
        self.release(f"CUDA graphs cannot capture it: {cause}")
        return None


_ABANDONED: list[tuple[torch.cuda.CUDAGraph, Any]] = []
"""Graphs of failed captures with their memory pools. torch's allocator of pinned memory may refer to them."""


class CudaGraphs:
    """Records functions as CUDA graphs; after an error, nothing more."""

    def __init__(self) -> None:
        self._pools: dict[int, Any] = {}
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, function: Callable[[], None], number: int) -> Replay:
        """Return the replay of a function's kernels; see `Record`.

        Raises:
            RuntimeError: The function reads numbers from the device, or memory runs out. torch's allocator
                and generator are as before the capture.
        """
        if self._stream is None:
            new_stream: Any = torch.cuda.Stream
            self._stream = new_stream()
            torch.cuda.empty_cache()  # memory of the eager steps, which graphs cannot use
        graph = torch.cuda.CUDAGraph()
        pool = self._pools.setdefault(number, torch.cuda.graph_pool_handle())
        self._stream.wait_stream(torch.cuda.current_stream())
        # Not torch.cuda.graph, which empties all caches before each capture.
        with torch.cuda.stream(self._stream), _without_garbage_collection():
            try:
                # Another thread pins the next batch meanwhile; with this mode the capture goes on.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                function()
                graph.capture_end()
            except BaseException:
                _abandon(graph, pool)
                raise
        torch.cuda.current_stream().wait_stream(self._stream)
        replay: Replay = graph.replay
        return replay


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End a capture that failed, on its stream.

    If cudaStreamEndCapture fails, torch 2.10 to 2.12 leave out the rest (pytorch#180395, #171265): the
    allocator would free no cached memory any more, and dropout would raise errors outside of captures.
    """
    device, private = torch.cuda.current_device(), cast(Any, torch._C)
    with suppress(RuntimeError):
        graph.capture_end()
    with suppress(RuntimeError):  # torch has ended it
        private._cuda_endAllocateToPool(device, pool)
    graph.reset()
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())  # the same seed and offset, and no capture
    _ABANDONED.append((graph, pool))


def _free_abandoned_pools() -> None:
    """Free the memory of failed captures, which some versions of torch keep (pytorch#190348).

    Call it after `torch.cuda.empty_cache`, which leaves memory without tensors only in pools that count as
    being in use.
    """
    device, private = torch.cuda.current_device(), cast(Any, torch._C)
    read: Any = torch.cuda.memory_snapshot
    segments = read() if _ABANDONED else []
    kept = {tuple(one["segment_pool_id"]) for one in segments if not one["active_size"]}
    for number, (graph, pool) in enumerate(_ABANDONED):
        if pool is not None:
            if tuple(pool) in kept:
                private._cuda_releasePool(device, pool)
            _ABANDONED[number] = (graph, None)
    if kept:
        torch.cuda.empty_cache()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Free nothing of the GPU by chance during a capture, which would break it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
