"""A loss of triples outside `src`, for tests that register it in this process or in those of a launch."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from aisle.losses.embedding_rows import pair_cosines, rows_of
from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss
from aisle.losses.triples import Triples


@dataclass(frozen=True)
class TripletParameters(Parameters):
    """The parameters of triplet."""

    own_triplet_margin: Annotated[float, Field(ge=0)] = 0.2
    """How much higher than a hard negative a positive should score, in the triplet loss."""


def triplet(query_embeddings, product_embeddings, triples: Triples, *, margin):
    """Return max(0, margin - cos(q, p) + cos(q, n)) for each triple."""
    queries = rows_of(query_embeddings, triples.queries)
    right = pair_cosines(queries, rows_of(product_embeddings, triples.positives))
    wrong = pair_cosines(queries, rows_of(product_embeddings, triples.negatives))
    return (margin - right + wrong).clamp(min=0)


TRIPLET = Loss(
    name="own_triplet",
    function=triplet,
    help="keeps a query's product ahead of its own hard negatives by a margin",
    source="https://arxiv.org/abs/1503.03832",
    other_names=("TripletLoss",),
    inputs=("triples",),
    over_batch=True,
    unit="triple",
    parameters=TripletParameters,
)
