"""What the rest of aisle needs to know about a loss: inputs, parameters, help text and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from aisle.losses.parameters import TRAINING_ONLY, Parameters

if TYPE_CHECKING:
    import numpy as np
    import torch

Input = Literal["relevance", "query_keys", "teacher_scores", "anchors", "triples"]
Unit = Literal["pair", "positive", "triple", "query"]


@dataclass(frozen=True)
class BatchContents:
    """The pairs of a batch, as far as a loss needs them to find out whether it can compare them.

    Args:
        relevance: (pairs,) float32 in [0, 1]; None if the pairs have no labels.
        query_keys: (pairs,) int64, equal for pairs of the same query.
        product_negatives: (positives,) products of the batch that may be a negative of each positive;
            counted only for a loss that takes `anchors` or `triples`, and empty otherwise.
        query_negatives: (positives,) queries of the batch, likewise.
        triples: (positives,) triples of each positive; counted only for a loss that takes `triples`, and
            empty otherwise.
    """

    relevance: np.ndarray | None
    query_keys: np.ndarray
    product_negatives: np.ndarray
    query_negatives: np.ndarray
    triples: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What a loss compares a pair with, and what to report if a batch does not contain it.

    Args:
        find: takes the contents of a batch and the loss's parameters; returns which pairs (or positives) have
            something to be compared with, bool.
        nothing: completes "the loss has nothing to learn from: ..."; `{batch}` becomes the batch size.
        remedy: a sentence that says which setting to change.
    """

    find: Callable[[BatchContents, Any], np.ndarray]
    nothing: str
    remedy: str


HARD_NEGATIVES = Comparison(
    find=lambda batch, _: batch.triples > 0,
    nothing="no positive has a hard negative other than known positives of its query",
    remedy="Check the products in the column of --hard_negatives_column",
)
"""What a loss that takes triples compares a positive with."""


@dataclass(frozen=True)
class Loss:
    """A loss and everything that flags, help, checks, docs and model card derive from.

    `function` gets the query embeddings and the product embeddings, then each of `inputs` by its name, then
    each field of `parameters` by its name (without the prefix `NAME_` if the field is called after the loss).
    It returns one loss per pair, so that the training loop can weigh the pairs of a step exactly, however
    they are spread over accumulated batches and processes.

    If the input is `anchors` or `triples`, it is the only one, and embeddings are those of the batch's
    distinct queries and distinct products, hard negatives included, over all processes. `function` returns
    one loss per anchor (per triple), which must not depend on the other anchors (triples), because they are
    passed in blocks that fit in memory. With any other inputs embeddings are (pairs, dim), a row for each
    pair.

    Args:
        name: value of `--loss`.
        function: computes the losses with torch operations, in the dtype of the embeddings.
        help: what the loss does, a clause that continues its name: "ranks relevant pairs above others".
        source: the paper or page that it comes from, with its URL.
        other_names: what users of other libraries call it.
        inputs: what `function` takes besides embeddings and parameters. `relevance`: (pairs,) float32 in
            [0, 1], so the loss needs labels. `query_keys`: (pairs,) int64, equal for pairs of the same query.
            `teacher_scores`: (pairs,) float32, so the loss needs a column of them. `anchors`: the positives
            of the batch (`aisle.losses.anchors.Anchors`), which it contrasts with the rest. `triples`: the
            positives with their own hard negatives (`aisle.losses.triples.Triples`), so the loss needs pairs
            that have some.
        over_batch: whether the loss of a pair depends on other pairs. If so, `function` gets the pairs of all
            processes, from gathered embeddings; otherwise a process gets its own pairs only.
        unit: what the mean of a step is taken over: pairs, positives, queries with a positive, or triples,
            which is the unit of a loss that takes triples.
        parameters: its own parameters; each field becomes a flag.
        keeps_queries_together: whether all pairs of a query must be in one batch (`--group_by_query`).
        default_for: the kind of pairs whose default it is.
        refuse: takes the relevance of all training pairs; returns why the loss cannot learn from it, or None.
        hint: takes the relevance of all training pairs; returns a line of advice, or None.
        comparison: what a pair is compared with; None if the loss learns from every pair by itself, or takes
            triples.
    """

    name: str
    function: Callable[..., torch.Tensor]
    help: str
    source: str
    other_names: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    over_batch: bool = False
    unit: Unit = "pair"
    parameters: type[Parameters] = Parameters
    keeps_queries_together: bool = False
    default_for: Literal["labelled", "unlabelled"] | None = None
    refuse: Callable[[np.ndarray], str | None] | None = None
    hint: Callable[[np.ndarray], str | None] | None = None
    comparison: Comparison | None = None

    @property
    def contrasts(self) -> bool:
        """Whether it contrasts positives with other texts: the batch's, or their own hard negatives."""
        return "anchors" in self.inputs or self.needs_hard_negatives

    @property
    def needs_hard_negatives(self) -> bool:
        """Whether it cannot be trained on pairs without hard negatives."""
        return "triples" in self.inputs

    @property
    def checked_comparison(self) -> Comparison | None:
        """What the check at startup counts: `comparison`, or the hard negatives of a loss over triples."""
        return self.comparison or (HARD_NEGATIVES if self.needs_hard_negatives else None)

    @property
    def needs_labels(self) -> bool:
        """Whether it cannot be trained on pairs without relevance."""
        return "relevance" in self.inputs

    @property
    def needs_teacher_scores(self) -> bool:
        """Whether it cannot be trained on pairs without a teacher's scores."""
        return "teacher_scores" in self.inputs

    @property
    def full_name(self) -> str:
        """The name, with what others call it in brackets."""
        return self.name + (f" ({', '.join(self.other_names)})" if self.other_names else "")

    @property
    def titles(self) -> dict[str, str]:
        """The title of each parameter in a table: its field's metadata `title`, or its name in words."""
        return {
            one.name: one.metadata.get("title") or one.name.replace("_", " ").capitalize()
            for one in fields(self.parameters)
            if one.name not in TRAINING_ONLY
        }

    def arguments(self, parameters: Parameters) -> dict[str, Any]:
        """Return the keyword arguments of `function` that parameters stand for."""
        named = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
        return {
            name.removeprefix(f"{self.name}_"): value
            for name, value in named.items()
            if name not in TRAINING_ONLY
        }
