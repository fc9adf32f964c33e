"""The shares of two processes add up to the loss of the whole batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aisle.losses.embedding_rows import rows_of
from aisle.losses.registry import loss_named
from aisle.training.objective import Objective
from tests.commands.test_registered_losses import MARGIN_MSE
from tests.training.conftest import collator_of, texts_of, tokenized

PAIRS = 7
LOSSES = [loss_named("cosine_target"), loss_named("cosent"), loss_named("listwise"), MARGIN_MSE]


@pytest.mark.parametrize("loss", LOSSES, ids=[loss.name for loss in LOSSES])
def test_the_shares_of_two_processes_add_up_to_the_loss_of_the_batch(base, loss):
    random = np.random.default_rng(0)
    scores = random.random(PAIRS).astype(np.float32)
    queries = (texts_of(3, seed=1) * 3)[:PAIRS]  # each query has pairs of both processes
    pairs = tokenized(base.tokenizer, queries, texts_of(PAIRS, seed=2), random.random(PAIRS))
    pairs = replace(pairs, teacher_scores=scores)
    batches = [collator_of(pairs, process=(index, 2))(np.arange(PAIRS)) for index in range(2)]
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(sum(batches[0].texts), 8, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    objective = Objective(loss, loss.parameters())

    shares = [sum(objective.parts(embeddings, batch)) for batch in batches]

    whole = loss.function(
        rows_of(embeddings, batches[0].query_rows),
        rows_of(embeddings, batches[0].product_rows),
        **{name: getattr(batches[0], name) for name in loss.inputs},
        **loss.arguments(loss.parameters()),
    )
    assert all(share.item() for share in shares)
    torch.testing.assert_close(sum(shares), whole.sum())
    torch.testing.assert_close(batches[0].teacher_scores, torch.from_numpy(scores))
