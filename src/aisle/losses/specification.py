"""Specification of a loss for the rest of aisle: inputs, parameters, help text and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from aisle.losses.parameters import TRAINING_ONLY, Parameters

if TYPE_CHECKING:
    import numpy as np
    import torch

Input = Literal[
    "relevance",
    "query_keys",
    "teacher_scores",
    "anchors",
    "triples",
    "positive_sets",
    "scored_lists",
    "groups",
    "class_weights",
]
CONTRASTING: tuple[Input, ...] = ("anchors", "triples", "positive_sets", "scored_lists")
"""Inputs that compare a query with several texts of the batch; a loss takes at most one of them, and no other
input."""
Unit = Literal["pair", "positive", "triple", "query", "list"]
Reads = Literal["embeddings", "scores"]
"""Output of the model that a loss takes: embeddings of an encoder, or scores of a cross-encoder."""


@dataclass(frozen=True)
class BatchContents:
    """Contents of a batch, from which a loss can see whether its pairs can be compared.

    Args:
        relevance: (pairs,) float32 in [0, 1]; None if the pairs have no labels.
        query_keys: (pairs,) int64, a number per distinct query.
        product_negatives: (positives,) number of the batch's products that may be a negative of each
            positive; empty unless the loss contrasts positives with other texts.
        query_negatives: (positives,) number of the batch's queries that may be a negative of each positive;
            empty unless the loss contrasts positives with other texts.
        triples: (positives,) number of triples of each positive; empty unless the loss takes `triples`.
        scored: (queries,) number of products that a teacher scored for each query of the batch; empty unless
            the loss takes `scored_lists`.
    """

    relevance: np.ndarray | None
    query_keys: np.ndarray
    product_negatives: np.ndarray
    query_negatives: np.ndarray
    triples: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Check that a batch contains something to compare each pair with, and its error message.

    Args:
        find: Function of a batch's contents and the loss's parameters that returns whether each pair (or
            positive) has something to be compared with, bool.
        nothing: End of the message "the loss has nothing to learn from: ..."; `{batch}` is the batch size.
        remedy: Sentence with the setting to change.
    """

    find: Callable[[BatchContents, Any], np.ndarray]
    nothing: str
    remedy: str


HARD_NEGATIVES = Comparison(
    find=lambda batch, _: batch.triples > 0,
    nothing="no positive has a hard negative other than known positives of its query",
    remedy="Check the products in the column of --hard_negatives_column",
)
"""Check for a loss that takes triples: a positive needs a hard negative."""
SCORED_LISTS = Comparison(
    find=lambda batch, _: batch.scored > 1,
    nothing="no query has two products with a teacher's score in a batch of {batch} pairs",
    remedy="Give scores of hard negatives (--negative_scores_column), or several products of a query",
)
"""Check for a loss that takes scored lists: a query needs two scored products."""
PRODUCTS_OF_THE_BATCH = Comparison(
    find=lambda batch, _: batch.product_negatives > 0,
    nothing="no positive has a negative in its batch of {batch} pairs",
    remedy="Give a higher --per_device_train_batch_size, or hard negatives (--hard_negatives_column)",
)
"""Check for a loss that contrasts a query with the products of the batch."""
TEXTS_OF_THE_BATCH = replace(
    PRODUCTS_OF_THE_BATCH, find=lambda batch, _: (batch.product_negatives > 0) | (batch.query_negatives > 0)
)
"""Check for a contrastive loss that names no check: a positive needs another text in its batch."""


@dataclass(frozen=True)
class Loss:
    """Specification of a loss, from which flags, help, checks, docs and model card are derived.

    `function` takes the query embeddings and the product embeddings, then each of `inputs` by name, then each
    field of `parameters` by name (without the prefix `NAME_` if the field's name starts with the loss's). It
    returns a loss for each pair, so that the training loop weights the pairs of a step exactly, however they
    are divided among accumulated batches and processes.

    A loss that reads scores takes the scores of the pairs, (pairs,), in place of both embeddings.

    If `anchors`, `triples`, `positive_sets` or `scored_lists` is an input, it must be the only input. The
    embeddings are then those of the batch's distinct queries and distinct products, hard negatives included,
    over all processes. `function` returns a loss for each anchor (triple, query, list), which must not depend
    on the others: they are passed in blocks that fit in memory. With any other inputs, embeddings are
    (pairs, dim), a row for each pair.

    Args:
        name: Value of `--loss`.
        function: Function that computes the losses with torch operations, in the dtype of the embeddings.
        help: Clause that follows the name and describes the loss: "ranks relevant pairs above others".
        source: Paper or page of the loss, with its URL.
        other_names: Names of the loss in other libraries.
        inputs: Inputs of `function` in addition to embeddings and parameters. `relevance`: (pairs,) float32
            in [0, 1], so the loss needs labels. `query_keys`: (pairs,) int64, a number per distinct query,
            below the number of pairs.
            `teacher_scores`: (pairs,) float32, so the loss needs a column with them. `anchors`: positives of
            the batch (`aisle.losses.anchors.Anchors`), which the loss contrasts with the rest. `triples`:
            positives with their own hard negatives (`aisle.losses.triples.Triples`), so the loss needs pairs
            with hard negatives. `positive_sets`: queries with all their positives in the batch
            (`aisle.losses.positive_sets.PositiveSets`). `scored_lists`: queries with all products of the
            batch that a teacher scored for them (`aisle.losses.scored_lists.ScoredLists`). `groups`: (pairs,)
            int64, group of each text, so the loss needs rows of a text with its group; both embeddings are
            then that text's. `class_weights`:
            (groups, dim), a vector for each group, which is trained with the model and not saved in it.
        over_batch: Whether the loss of a pair depends on other pairs. If so, `function` gets the pairs of all
            processes, from gathered embeddings; otherwise each process passes only its own pairs.
        unit: Unit of the mean over a step: pairs, positives, queries with a positive, triples, or lists. It
            is triples for a loss that takes triples, queries for a loss that takes positive sets, and lists
            for a loss that takes scored lists.
        parameters: Dataclass of the loss's own parameters; each field becomes a flag.
        keeps_queries_together: Whether all pairs of a query must be in the same batch (`--group_by_query`).
        default_for: Kind of pairs for which this loss is the default.
        refuse: Function of the relevance of all training pairs that returns why the loss cannot learn from
            it, or None.
        hint: Function of the relevance of all training pairs that returns a line of advice, or None.
        gradient: Function that returns the sum of the losses with its gradient, in fewer operations than
            autograd needs and rounded differently, for runs in which the loss takes most of a step. It
            returns None for a batch that it does not cover. For a loss that takes `anchors`.
        comparison: Check that pairs can be compared; None if the loss learns from each pair by itself, or
            contrasts positives and any other text of the batch is a negative, or takes triples.
        reads: Output of the model that the loss takes. Losses of encoders and of cross-encoders may have the
            same name.
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
    gradient: Callable[..., tuple[torch.Tensor, torch.Tensor] | None] | None = None
    comparison: Comparison | None = None
    reads: Reads = "embeddings"

    @property
    def contrasts(self) -> bool:
        """Whether the loss compares a query with several texts: the batch's, or its own lists."""
        return any(name in self.inputs for name in CONTRASTING)

    @property
    def takes_lists(self) -> bool:
        """Whether the loss learns from lists of products that a teacher scored."""
        return "scored_lists" in self.inputs

    @property
    def needs_positives(self) -> bool:
        """Whether the loss contrasts positives with other texts."""
        return self.contrasts and not self.takes_lists

    @property
    def takes_groups(self) -> bool:
        """Whether the loss can learn from rows of a text with its group."""
        return self.needs_groups or (self.needs_positives and not self.needs_hard_negatives)

    @property
    def needs_groups(self) -> bool:
        """Whether the loss needs rows of a text with its group."""
        return "groups" in self.inputs

    @property
    def needs_hard_negatives(self) -> bool:
        """Whether the loss needs pairs with hard negatives."""
        return "triples" in self.inputs

    @property
    def checked_comparison(self) -> Comparison | None:
        """Check that runs at startup: `comparison`, or for the negatives or scores that a loss needs."""
        if self.comparison is not None or not self.contrasts:
            return self.comparison
        if self.takes_lists:
            return SCORED_LISTS
        return HARD_NEGATIVES if self.needs_hard_negatives else TEXTS_OF_THE_BATCH

    @property
    def needs_labels(self) -> bool:
        """Whether the loss needs pairs with labels."""
        return "relevance" in self.inputs

    @property
    def needs_teacher_scores(self) -> bool:
        """Whether the loss needs pairs with teacher scores."""
        return "teacher_scores" in self.inputs or self.takes_lists

    @property
    def full_name(self) -> str:
        """Name of the loss, with its names in other libraries in brackets."""
        return self.name + (f" ({', '.join(self.other_names)})" if self.other_names else "")

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the parameters in a table: the field's metadata `title`, or its name in words."""
        return {
            one.name: one.metadata.get("title") or one.name.replace("_", " ").capitalize()
            for one in fields(self.parameters)
            if one.name not in TRAINING_ONLY
        }

    def arguments(self, parameters: Parameters) -> dict[str, Any]:
        """Return the keyword arguments of `function` for some parameters."""
        named = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
        return {
            name.removeprefix(f"{self.name}_"): value
            for name, value in named.items()
            if name not in TRAINING_ONLY
        }
