"""Reasons for which a product is not a hard negative of a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["REASONS", "Reason"]

Reason = Literal[
    "judged positive",
    "equal text",
    "known positive",
    "partly relevant",
    "equal to the query",
    "has an answer",
    "same group",
    "same subgroup",
    "near-duplicate",
    "above the margin",
    "duplicate",
    "above the teacher",
]
REASONS: Mapping[Reason, str] = {
    "judged positive": "a row of the training data has the product as a positive of the query",
    "equal text": "its text equals that of a positive of the query, apart from case and white space",
    "known positive": "it is a positive of another spelling of the query, or another text of a positive",
    "partly relevant": "it is judged with a relevance above 0 and up to 0.5",
    "equal to the query": "its text equals the query",
    "has an answer": "DPR's json lists an answer to the question that its text contains",
    "same group": "it is another variant of a positive of the query: the two have the same group",
    "same subgroup": "it has the subgroup of the query's pairs and is not judged wrong",
    "near-duplicate": "it has the words of a relevant product of the query, or nearly its embedding",
    "above the margin": "its score comes too close to that of the positive, or is higher",
    "duplicate": "its text equals that of a negative that ranks above it",
    "above the teacher": "the teacher scores it at least as high as the positive",
}
"""Reasons in the order in which they are checked."""
