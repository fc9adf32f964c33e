"""Train the query tower of an index with LoRA, against the vectors of the products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aisle.index.search_index import SearchIndex
from aisle.models.backbone import padding_token
from aisle.models.loading import LoadedModel
from aisle.models.prepare_model import Lora, prepare_model
from aisle.models.tower import Tower
from aisle.text.distinct_tokens import distinct_texts
from aisle.text.token_batches import pad
from aisle.text.tokens import TokenizedTexts
from aisle.training.adapter_contrasts import Batch
from aisle.training.adapter_queries import AdapterQueries
from aisle.training.adapter_training import train_queries
from aisle.types.adapter_options import AdapterOptions

__all__ = ["lora_queries", "train_query_tower"]

Embeddings = npt.NDArray[np.float32]
Weights = dict[str, torch.Tensor]
ENCODED_AT_A_TIME = 256


def train_query_tower(
    index: SearchIndex,
    loaded: LoadedModel,
    queries: AdapterQueries,
    embeddings: Embeddings,
    *,
    validation: AdapterQueries,
    validation_embeddings: Embeddings,
    options: AdapterOptions,
    device: torch.device,
    log: Callable[[str], None],
) -> LoadedModel | None:
    """Train LoRA on the query tower, as in `train_queries`; the loaded model is changed.

    Args:
        index: The index, which does not change.
        loaded: Model of the query tower, without an adapter.
        queries: Training queries.
        embeddings: Their embeddings by the tower, (queries, dim), unit L2 norm.
        validation: Queries that choose the epoch.
        validation_embeddings: Their embeddings by the tower, (queries, dim).
        options: Rank of the adapter, and how it is trained.
        device: Device to train on.
        log: Logs messages for the user.

    Returns:
        The model with the adapter merged, on the CPU; None if no epoch is better than the tower as it is.

    Raises:
        ModelError: The architecture has no layers that LoRA adapts by default.
        TrainingError: The weights have grown beyond the range of numbers.
    """
    torch.manual_seed(options.seed)
    model = lora_queries(
        loaded, queries.texts, validation.texts, options=options, dim=index.dim, device=device
    )
    weights = train_queries(
        index,
        model,
        queries,
        embeddings,
        validation=validation,
        validation_embeddings=validation_embeddings,
        options=options,
        log=log,
    )
    if weights is None:
        return None
    with torch.no_grad():
        for name, weight in model.tower.named_parameters():
            if name in weights:
                weight.copy_(weights[name])
    backbone = model.tower.backbone.cpu()
    return replace(loaded, backbone=backbone.merge_and_unload())  # type: ignore[operator]


def lora_queries(
    loaded: LoadedModel,
    texts: Sequence[str],
    validation: Sequence[str],
    *,
    options: AdapterOptions,
    dim: int,
    device: torch.device,
) -> LoraQueries:
    """Return the query tower with a new LoRA adapter, which starts as the identity.

    Args:
        loaded: Model of the query tower, whose backbone is changed.
        texts: Training queries.
        validation: Validation queries.
        options: Rank of the adapter.
        dim: Leading components of an embedding that the index keeps.
        device: Device to train on.
    """
    lora = Lora(
        rank=options.size,
        alpha=2 * options.size,
        dropout=0.0,
        target_modules=None,
        use_dora=False,
        use_rslora=False,
    )
    tower = prepare_model(loaded, lora=lora, dropout=0.0)
    for head in tower.heads:
        head.requires_grad_(False)
    tokens, places = [], []
    for part in (texts, validation):
        distinct = distinct_texts(part).tokenize(
            loaded.tokenizer,
            prompt=loaded.settings.query_prompt,
            side="query",
            max_length=loaded.settings.max_length,
        )
        tokens.append(distinct.tokens)
        places.append(distinct.place)
    return LoraQueries(
        tower.to(device).eval(),
        (tokens[0], tokens[1]),
        (places[0], places[1]),
        padding_token(loaded.backbone),
        dim,
    )


@dataclass(frozen=True, eq=False)
class LoraQueries:
    """Queries by a tower with LoRA, without dropout.

    Args:
        tower: Query tower with a LoRA adapter.
        tokens: Tokens of the distinct training queries and validation queries.
        places: Text of each training query and validation query in its tokens.
        pad_token_id: Id of the tower's padding token.
        dim: Leading components of an embedding that the index keeps.
    """

    tower: Tower
    tokens: tuple[TokenizedTexts, TokenizedTexts]
    places: tuple[np.ndarray, np.ndarray]
    pad_token_id: int
    dim: int

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights of the adapter."""
        return (weight for weight in self.tower.parameters() if weight.requires_grad)

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of a batch's queries."""
        return self._embedded(self.tokens[0], self.places[0][batch.numbers])

    @torch.no_grad()
    def validation_embeddings(self) -> Embeddings | None:
        """Return the embeddings of the validation queries; None if a norm is not finite."""
        rows = self.places[1]
        parts = [
            self._embedded(self.tokens[1], rows[at : at + ENCODED_AT_A_TIME])
            for at in range(0, len(rows), ENCODED_AT_A_TIME)
        ]
        embedded = torch.cat(parts)
        if not bool(torch.isfinite(embedded.square().sum(dim=1)).all()):
            return None
        found: Embeddings = nn.functional.normalize(embedded, dim=1).cpu().numpy()
        return found

    def state(self) -> Weights:
        """Return copies of the adapter's weights."""
        return {
            name: weight.detach().clone()
            for name, weight in self.tower.named_parameters()
            if weight.requires_grad
        }

    def _embedded(self, tokens: TokenizedTexts, rows: np.ndarray) -> torch.Tensor:
        batch = pad(tokens, rows, self.pad_token_id).to(next(self.tower.parameters()).device)
        embedded: torch.Tensor = self.tower([batch])
        return embedded[:, : self.dim]
