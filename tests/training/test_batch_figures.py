"""Metrics of training batches."""

import numpy as np
import pytest
import torch

from aisle.training import batch_figures as module
from aisle.training.batch_figures import NAMES, batch_figures
from tests.training.conftest import collator_of, texts_of, tokenized, trainer_of
from tests.training.test_groups import figures_by_loops

QUERIES = (texts_of(4, seed=1) * 3)[:10]


def batches_of(base, *, processes=1, loss="in_batch"):
    from dataclasses import replace

    labels = [1, 0, 1, 1, 0.8, 0, 1, 1, 1, 0]
    pairs = tokenized(base.tokenizer, QUERIES, texts_of(10, seed=2), labels)
    made = [collator_of(pairs, loss=loss, process=(rank, processes)) for rank in range(processes)]
    return pairs, [replace(one, measured=True)(np.arange(10)) for one in made]


def embeddings_of(batch):
    random = torch.randn(sum(batch.texts), 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(random, dim=1)


@pytest.mark.parametrize("loss", ["in_batch", "multi_similarity"])
@pytest.mark.parametrize("scores", [1 << 22, 1])
def test_each_query_ranks_its_positives_among_the_batchs_negatives(base, loss, scores, monkeypatch):
    monkeypatch.setattr(module, "SCORES_AT_A_TIME", scores)
    pairs, (batch,) = batches_of(base, loss=loss)
    embeddings = embeddings_of(batch)

    count, *sums = batch_figures(embeddings, batch.contrast).tolist()

    queries, products = np.unique(pairs.queries), np.unique(pairs.products)
    rows, columns = embeddings[batch.contrast.queries], embeddings[batch.contrast.products]
    right = np.zeros((len(queries), len(products)), dtype=bool)
    for query, product, relevance in zip(pairs.queries, pairs.products, pairs.relevance, strict=True):
        right[np.searchsorted(queries, query), np.searchsorted(products, product)] |= relevance > 0.5
    some = right.any(axis=1)
    expected = figures_by_loops((rows @ columns.T).numpy()[some], right[some], ~(right | True)[some])
    assert count == some.sum()
    assert sums[:3] == pytest.approx(expected.sum(axis=0)[:3].tolist(), rel=1e-5)


def test_the_sums_of_three_processes_are_those_of_one(base):
    _, (whole,) = batches_of(base)
    _, shares = batches_of(base, processes=3)
    embedded = embeddings_of(whole)
    rows, ranked = (torch.cat([one.query_rows, one.product_rows]) for one in (whole, shares[0]))
    gathered = torch.empty_like(embedded)
    gathered[ranked] = embedded[rows]  # in the order of the ranks
    found = sum(batch_figures(gathered, batch.contrast) for batch in shares)
    torch.testing.assert_close(found, batch_figures(embedded, whole.contrast))


@pytest.mark.parametrize("cached", [False, True])
def test_the_log_has_the_means_over_its_steps(base, cached):
    from dataclasses import replace

    pairs, _ = batches_of(base)
    logged = {}
    for measured in (True, False):
        trainer = trainer_of(
            base, pairs, loss="in_batch", batch_size=5, accumulation=2, cached=cached, max_tokens=32
        )
        trainer.step.measured = measured
        trainer.collate = replace(trainer.collate, measured=measured)
        trainer.on_log = lambda values, measured=measured: logged.update({measured: values})
        trainer.run()
    assert set(NAMES) <= logged[True].keys()
    assert set(NAMES).isdisjoint(logged[False])
    assert logged[True]["loss"] == logged[False]["loss"]
    assert 0 < logged[True]["batch_mrr"] <= 1
    assert logged[True]["batch_r_precision"] <= logged[True]["batch_mrr"]
