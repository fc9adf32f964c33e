"""The loss `listwise` of cross-encoders: a softmax over the judged products of a query."""

from __future__ import annotations

from aisle.losses.label_checks import equal_relevance
from aisle.losses.listwise import in_lists, listwise_of_scores
from aisle.losses.specification import Comparison, Loss

LOSS = Loss(
    name="listwise",
    function=listwise_of_scores,
    help="ranks the judged products of each query by their grades",
    source="ListNet, https://doi.org/10.1145/1273496.1273513",
    other_names=("ListNet",),
    inputs=("relevance", "query_keys"),
    over_batch=True,
    unit="query",
    keeps_queries_together=True,
    refuse=equal_relevance,
    comparison=Comparison(
        find=in_lists,
        nothing="no query has two judged products, one of them relevant, in a batch of {batch} pairs",
        remedy="Give a higher --per_device_train_batch_size; with one product a query, --loss binary",
    ),
    reads="scores",
)
