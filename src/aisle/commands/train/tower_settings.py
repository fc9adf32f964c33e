"""Settings of `train` for two towers, and for what their embeddings are compared by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from aisle.commands.train.loss_settings import LossSettings
from aisle.types.choices import Selection

NEED_COSINES = (
    *("cosine_target", "contrastive", "online_contrastive", "triplet", "multi_similarity", "circle"),
    "arcface",
)
"""Losses whose targets or margins are cosines."""
DOT_TEMPERATURE = 1.0
"""Temperature of DPR, whose scores are plain inner products (https://arxiv.org/abs/2004.04906, 3.2)."""


@dataclass(frozen=True)
class TowerSettings:
    """A tower for queries and a tower for products, instead of one tower for both."""

    two_towers: bool = False
    """Train separate weights for queries and products (DPR). Both start from --model_name_or_path, and the
    run has a whole model for each, in query/ and product/; with --use_peft the adapters are merged."""
    query_model_name_or_path: str | None = None
    """Model that the query tower starts from. If not given: --model_name_or_path."""
    tie: bool = False
    """Share all weights between the towers: training is the same as without --two_towers, and the run has
    the form of two towers, so that one of them can be trained further."""
    freeze: Literal["query", "product"] | None = None
    """Keep the weights of this tower, which computes without dropout. With product and an unchanged model,
    indexes of the model stay valid: only queries are embedded differently."""
    similarity: Literal["cosine", "dot"] | None = None
    """What embeddings are compared by. cosine: they have unit norm. dot: inner product of embeddings as they
    are; `build` refuses the run, as an index compares cosines. If not given: cosine, or as the model was
    trained."""
    output_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Dropout probability on embeddings in training, before they are scaled to unit norm."""


def tower_problems(
    towers: TowerSettings, *, freeze_encoder: bool, loss: LossSettings, selection: Selection | None
) -> Iterator[str]:
    """Yield a message for each combination of the towers' settings that cannot work.

    Args:
        towers: Settings of the towers.
        freeze_encoder: Whether only a head is trained.
        loss: Settings of the loss.
        selection: How the best evaluation is chosen, if it is given.
    """
    if towers.similarity == "dot":
        yield from _dot_problems(loss, selection)
    given = {
        "--query_model_name_or_path": towers.query_model_name_or_path is not None,
        "--tie": towers.tie,
        "--freeze": towers.freeze is not None,
    }
    if not towers.two_towers:
        yield from (f"{flag}: needs --two_towers" for flag, is_given in given.items() if is_given)
        return
    if towers.query_model_name_or_path == "":
        yield "--query_model_name_or_path: is empty; give a Hub id or a folder, or leave it out"
    if towers.tie:
        given.pop("--tie")
        yield from (
            f"--tie and {flag}: tied towers share all weights; give one of them"
            for flag, is_given in given.items()
            if is_given
        )
    elif freeze_encoder:
        yield (
            "--two_towers and --freeze_encoder: the vectors of a frozen encoder are cached for one tower; "
            "freeze one tower with --freeze, or give --tie"
        )


def _dot_problems(loss: LossSettings, selection: Selection | None) -> Iterator[str]:
    """Yield a message for each setting that compares cosines."""
    if loss.loss in NEED_COSINES:
        yield f"--similarity dot: --loss {loss.loss} has targets or margins of cosines; give another loss"
    if loss.matryoshka_dims is not None:
        yield "--similarity dot: --matryoshka_dims scales each prefix to unit norm; give one of them"
    if selection == "joint_pool":
        yield "--similarity dot: --selection joint_pool compares cosines; give --selection retrieval"
