"""The loss `arcface`: classify each text into its group, with an angular margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import torch

LEAST_SQUARE = 1e-12
"""Lower limit on the square of a sine, whose root has no finite gradient at 0."""


@dataclass(frozen=True)
class ArcFaceParameters(Parameters):
    """Parameters of the arcface loss."""

    arcface_margin: Annotated[float, Field(ge=0, lt=math.pi / 2)] = 0.5
    """Angle in radians that is added between a text and its group, in the arcface loss."""
    arcface_scale: Annotated[float, Field(gt=0)] = 64.0
    """Factor of the cosines in the softmax over the groups, in the arcface loss."""


def arcface(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    groups: torch.Tensor,
    class_weights: torch.Tensor,
    *,
    margin: float,
    scale: float,
) -> torch.Tensor:
    """Return the cross-entropy of each text's group, (rows,), with the text's angle widened by the margin.

    With theta_j the angle between a text and the weight of group j, and y the text's group, the logits are
    scale cos(theta_j), and scale cos(theta_y + margin) for its own group: equation 3 of the source. Beyond
    an angle of pi - margin, cos(theta_y) - margin sin(margin) keeps the logit falling, as in its authors'
    code. pytorch-metric-learning has the same formula inside a module that owns the weights, at a fixed
    dimension; here the run owns them, so that checkpoints hold them and prefixes of embeddings can be
    trained. A test compares values and gradients with that library's.

    Args:
        query_embeddings: (rows, dim), unit L2 norm.
        product_embeddings: (rows, dim), the same texts.
        groups: (rows,) int64, group of each text.
        class_weights: (groups, dim), a trained vector for each group.
        margin: Angle in radians.
        scale: Factor of the cosines.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    cosines = query_embeddings @ normalize(class_weights, dim=1).T
    own = cosines.take_along_dim(groups[:, None], dim=1)
    sines = (1 - own**2).clamp(min=LEAST_SQUARE).sqrt()
    widened = own * math.cos(margin) - sines * math.sin(margin)
    widened = torch.where(own > -math.cos(margin), widened, own - margin * math.sin(margin))
    return cross_entropy(scale * cosines.scatter(1, groups[:, None], widened), groups, reduction="none")


LOSS = Loss(
    name="arcface",
    function=arcface,
    help="classifies each text into its group, with an angular margin",
    source="ArcFace, https://arxiv.org/abs/1801.07698",
    other_names=("ArcFaceLoss",),
    inputs=("groups", "class_weights"),
    parameters=ArcFaceParameters,
)
