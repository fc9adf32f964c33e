"""Training of query adapters: its loss, its data, its measurement, and that it learns."""

import math
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from aisle.data.pairs import Pairs
from aisle.errors import TrainingError
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.index import open_index
from aisle.index.query_adapter import QueryAdapter
from aisle.training.adapter_contrasts import Contrasts, batch_loss
from aisle.training.adapter_layers import adapter_layers
from aisle.training.adapter_measure import gain_of, measure_adapter, ndcg_of_searches
from aisle.training.adapter_modules import make_module, trained_adapter
from aisle.training.adapter_queries import AdapterQueries, match_queries
from aisle.training.adapter_training import train_adapter
from aisle.training.query_vectors import cached_queries
from aisle.types.adapter_options import AdapterOptions
from tests.search.word_encoder import DIM, WordEncoder, titles_of, write_shop

IDENTITY = QueryAdapter("linear", {"weight": np.eye(DIM, dtype=np.float32)})


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    write_shop(folder / "index")
    return open_index(folder / "index")


def unit(rows, seed=0):
    found = np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def judged(queries=12, each=5, *, seed=0, count=60):
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.sort(rng.choice(count, each, replace=False)) for _ in range(queries)])
    gains = rng.choice([0, 0.1, 0.5, 1], len(rows)).astype(np.float32)
    gains[::each] = 1
    return AdapterQueries([f"q{n}" for n in range(queries)], np.arange(queries + 1) * each, rows, gains)


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_an_adapter_starts_as_the_identity_and_is_the_same_without_torch(kind):
    options = AdapterOptions(kind=kind, size=4)
    module = make_module(options, DIM)
    queries = unit(20)

    np.testing.assert_allclose(trained_adapter(module, options).apply(queries), queries, atol=1e-6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        expected = torch.nn.functional.normalize(module(torch.from_numpy(queries)), dim=1)
    np.testing.assert_allclose(trained_adapter(module, options).apply(queries), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_an_adapter_equals_its_dense_layers(kind):
    rng = np.random.default_rng(0)
    module = make_module(AdapterOptions(kind=kind, size=5), DIM)
    weights = trained_adapter(module, AdapterOptions(kind=kind)).weights
    adapter = QueryAdapter(
        kind, {name: rng.normal(size=one.shape).astype(np.float32) for name, one in weights.items()}
    )
    queries = unit(20)

    with torch.no_grad():
        found = torch.from_numpy(queries)
        for layer in adapter_layers(adapter):
            found = layer(found)

    np.testing.assert_allclose(torch.nn.functional.normalize(found, dim=1), adapter.apply(queries), atol=1e-5)


@pytest.mark.parametrize("negatives", [7, 1000])
def test_the_loss_equals_its_formula_for_each_query(index, negatives):
    queries, embeddings = judged(), unit(12)
    options = AdapterOptions(batch_queries=12, negatives=negatives, hard_negatives=3, temperature=0.2)
    contrasts = Contrasts.of(index, queries, embeddings, options, np.random.default_rng(0))
    module = make_module(options, DIM)

    (batch,) = contrasts.batches(np.random.default_rng(1))
    loss = batch_loss(module(batch.queries), batch, temperature=0.2)

    by_hand = []
    for q in range(12):
        own = [j for j in range(batch.own.shape[1]) if not batch.padding[q, j]]
        others = [j for j in range(len(batch.shared)) if not batch.judged[q, j]]
        logits = [float(batch.queries[q] @ batch.own[q, j]) / 0.2 for j in own]
        below = sum(map(math.exp, logits)) + sum(
            math.exp(float(batch.queries[q] @ batch.shared[j]) / 0.2) for j in others
        )
        gains = [float(batch.gains[q, j]) for j in own]
        by_hand.append(
            -sum(g / sum(gains) * math.log(math.exp(x) / below) for g, x in zip(gains, logits, strict=True))
        )
    assert loss.item() == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_batch_has_every_judgement_and_no_judged_product_as_a_negative(index):
    queries, embeddings = judged(), unit(12)
    options = AdapterOptions(batch_queries=5, negatives=20, hard_negatives=6)
    contrasts = Contrasts.of(index, queries, embeddings, options, np.random.default_rng(0))
    row_of = {embedding.tobytes(): row for row, embedding in reversed(list(enumerate(index.embeddings)))}
    first = np.array([row_of[embedding.tobytes()] for embedding in index.embeddings])

    seen = 0
    for batch in contrasts.batches(np.random.default_rng(1)):
        for q, asked in enumerate(batch.queries.numpy()):
            number = int(np.flatnonzero((embeddings == asked).all(axis=1))[0])
            part = slice(*queries.starts[number : number + 2])
            wanted = {}
            for row, gain in zip(first[queries.rows[part]], queries.gains[part], strict=True):
                wanted[int(row)] = max(float(gain), wanted.get(int(row), 0.0))
            own = [row_of[v.tobytes()] for v in batch.own[q, : len(wanted)].numpy()]
            assert dict(zip(own, batch.gains[q].tolist(), strict=False)) == pytest.approx(wanted)
            hard = batch.own[q, len(wanted) :][~batch.padding[q, len(wanted) :]].numpy()
            assert len(hard)
            assert not {row_of[v.tobytes()] for v in hard} & set(wanted)
            shared = [row_of[v.tobytes()] for v in batch.shared.numpy()]
            assert batch.judged[q].tolist() == [row in wanted for row in shared]
            seen += 1
    assert seen == 12


@pytest.mark.parametrize("hard_negatives", [6, 50])
def test_hard_negatives_are_drawn_once_each(index, hard_negatives):
    queries, options = judged(), AdapterOptions(negatives=4, hard_negatives=hard_negatives)
    contrasts = Contrasts.of(index, queries, unit(12), options, np.random.default_rng(0))
    rng, drawn = np.random.default_rng(1), set()

    for _ in range(100):
        for batch in contrasts.batches(rng):
            for own, padding in zip(batch.own.numpy(), batch.padding.numpy(), strict=True):
                there = [vector.tobytes() for vector in own[~padding]]
                assert len(set(there)) == len(there)
            query = list(batch.numbers).index(0)
            drawn |= {vector.tobytes() for vector in batch.own[query, 5:][~batch.padding[query, 5:]].numpy()}

    assert len(drawn) == (contrasts.mined[0] >= 0).sum()  # all have their turn


def test_of_many_judged_products_each_epoch_uses_another_part(index, monkeypatch):
    monkeypatch.setattr("aisle.training.adapter_contrasts.MOST_JUDGED", 4)
    queries, options = judged(queries=3, each=20), AdapterOptions(negatives=4, hard_negatives=0)
    contrasts = Contrasts.of(index, queries, unit(3), options, np.random.default_rng(0))
    rng = np.random.default_rng(1)

    used = {v.tobytes() for _ in range(60) for batch in contrasts.batches(rng) for v in batch.own.numpy()[0]}

    assert len(used) > 15
    assert next(contrasts.batches(rng)).own.shape[1] == 4


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_training_undoes_a_rotation_of_the_queries(index, kind):
    """Queries are rotated product vectors, so that only an adapter can find their products."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].astype(np.float32)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 60, 300)
    noisy = index.embeddings[rows] @ rotation + 0.02 * rng.normal(size=(300, DIM)).astype(np.float32)
    embeddings = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    nodes = index.graph.groups
    alike = [nodes.rows[s:e] for s, e in zip(nodes.starts[:-1], nodes.starts[1:], strict=True)]
    group_of = {row: np.sort(group) for group in alike for row in group.tolist()}

    def part(numbers):
        groups = [group_of[rows[number]] for number in numbers]
        starts = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
        gains = np.ones(starts[-1], np.float32)
        return AdapterQueries([str(number) for number in numbers], starts, np.concatenate(groups), gains)

    train, validation, held_out = part(range(200)), part(range(200, 240)), part(range(240, 300))
    options = AdapterOptions(kind=kind, size=64, epochs=30, batch_queries=20, learning_rate=0.01)

    adapter = train_adapter(
        index,
        train,
        embeddings[:200],
        validation=validation,
        validation_embeddings=embeddings[200:240],
        options=options,
        log=lambda _: None,
    )

    before = embeddings[240:]
    gain = measure_adapter(
        index, held_out, before=before, after=adapter.apply(before), seen=train.relevant_rows
    )
    assert gain.all_products.before < 0.3
    assert gain.all_products.after > 0.8
    assert gain.all_products.proven


@pytest.mark.parametrize(("patience", "epochs"), [(None, 6), (2, 2)])
def test_no_adapter_is_returned_if_validation_never_improves(index, patience, epochs):
    said = []
    queries = judged(queries=20)
    best = index.embeddings[queries.rows[queries.starts[:-1]]].astype(np.float32)
    options = AdapterOptions(epochs=6, learning_rate=1e-6)
    assert options.patience is None
    options = replace(options, patience=patience)

    found = train_adapter(
        index,
        queries,
        unit(20),
        validation=replace(queries, gains=np.tile(np.eye(5, dtype=np.float32)[0], 20)),
        validation_embeddings=best,
        options=options,
        log=said.append,
    )

    assert found is None
    assert len(said) == epochs


@pytest.mark.parametrize("batch_queries", [5, 20])
def test_a_learning_rate_that_is_far_too_high_is_named(index, batch_queries):
    """A step an epoch leaves finite weights with infinite norms, more steps a loss that is not a number."""
    queries, options = judged(queries=20), AdapterOptions(learning_rate=1e30, batch_queries=batch_queries)

    with pytest.raises(TrainingError, match=r"epoch 1: .* give a --learning_rate below 1e\+30"):
        train_adapter(
            index,
            queries,
            unit(20),
            validation=queries,
            validation_embeddings=unit(20),
            options=options,
            log=lambda _: None,
        )


def test_ndcg_equals_that_of_evaluate(index):
    queries, embeddings = judged(queries=40, each=8), unit(40)

    values = ndcg_of_searches(index, queries, embeddings)

    rows = index.search(embeddings, top_k=10).rows
    qrels = {
        text: dict(zip(map(str, queries.rows[a:b]), queries.gains[a:b].astype(float).tolist(), strict=True))
        for text, a, b in zip(queries.texts, queries.starts[:-1], queries.starts[1:], strict=True)
    }
    run = {
        text: {str(row): 10.0 - place for place, row in enumerate(found)}
        for text, found in zip(queries.texts, rows, strict=True)
    }
    expected = evaluate_run(qrels, run, cutoffs=(10,))
    assert list(expected.query_ids) == list(queries.texts)
    np.testing.assert_allclose(values, expected.per_query["ndcg@10"], atol=1e-7)


def test_with_unseen_products_the_seen_relevant_ones_are_taken_out(index):
    best = index.search(unit(1), top_k=12).rows[0]
    order = np.argsort(best[[0, 2, 11]])
    queries = AdapterQueries(
        ["a"], np.array([0, 3]), best[[0, 2, 11]][order], np.array([1, 1, 1], np.float32)[order]
    )
    unseen = np.ones(60, np.bool_)
    unseen[best[0]] = False

    (value,) = ndcg_of_searches(index, queries, unit(1), unseen=unseen)

    # Ranks without the seen product: 2 and 11; the ideal is 1 and 2.
    assert value == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    unseen[best[[2, 11]]] = False
    assert math.isnan(ndcg_of_searches(index, queries, unit(1), unseen=unseen)[0])


def test_a_gain_is_proven_if_the_interval_of_its_differences_is_above_zero():
    before = np.linspace(0, 0.5, 50)

    assert gain_of(before, before + 0.1).proven
    assert not gain_of(before, before).proven
    mixed = gain_of(before, before + np.where(np.arange(50) % 2, 0.2, -0.19))
    assert (mixed.better, mixed.worse, mixed.proven) == (25, 25, False)
    assert mixed.difference.value == pytest.approx(0.005)


def pairs_of(**columns):
    return Pairs(datasets.Dataset.from_dict(columns))


def test_products_are_found_by_id_or_by_their_whole_text(index):
    titles = titles_of(60)
    twins = sorted(row for row in range(60) if titles[row] == titles[7])
    pairs = pairs_of(
        query=["a", "a", "b", "b", "c"],
        product=["other words", titles[7], titles[7], "not sold", titles[3]],
        product_id=["p004", "gone", "p007", "gone too", "gone"],
        relevance=[1.0, 0.5, 1.0, 1.0, 0.0],
    )

    found = match_queries(pairs, index, by_id=False)

    assert (found.pairs, found.unknown, found.example, found.without_relevant) == (3, 1, "gone too", 1)
    queries = found.queries
    assert queries.texts == ["a", "b"]
    assert queries.rows[: queries.starts[1]].tolist() == sorted([4, *twins])
    assert queries.rows[queries.starts[1] :].tolist() == [7]


def test_spellings_of_a_query_are_the_same_query(index):
    pairs = pairs_of(
        query=["Red  sofa", "red sofa", "RED SOFA ", "red sofas"],
        product=["p001", "p002", "p001", "p003"],
        product_id=["p001", "p002", "p001", "p003"],
        relevance=[0.5, 0.1, 1.0, 1.0],
    )

    found = match_queries(pairs, index, by_id=True)

    assert found.queries.texts == ["Red  sofa", "red sofas"]
    assert found.queries.starts.tolist() == [0, 2, 3]
    assert found.queries.rows.tolist() == [1, 2, 3]
    assert found.queries.gains.tolist() == pytest.approx([1, 0.1, 1])
    assert (found.pairs, found.without_relevant) == (4, 0)


def test_hard_negatives_have_no_gain_and_of_two_judgements_the_higher_counts(index):
    pairs = pairs_of(
        query=["a", "a", "a"],
        product=["p001", "p002", "p002"],
        product_id=["p001", "p002", "p002"],
        relevance=[1.0, 0.1, 0.5],
        hard_negatives=[["p009", "unknown"], ["p001"], []],
    )

    queries = match_queries(pairs, index, by_id=True).queries

    assert queries.rows.tolist() == [1, 2, 9]
    assert queries.gains.tolist() == pytest.approx([1, 0.5, 0])


def test_a_query_is_embedded_once_and_then_read_from_the_cache(tmp_path):
    asked = []

    class Counting(WordEncoder):
        def encode_queries(self, queries, **options):
            asked.extend(queries)
            return super().encode_queries(queries, **options)

    texts = ["red sofa", "blue lamp", "red sofa"]
    options = {"precision": "fp32", "log": lambda _: None}

    first = cached_queries(tmp_path, Counting(), texts, **options)
    again = cached_queries(tmp_path, Counting(), [*texts, "desk"], **options)

    assert sorted(asked) == ["blue lamp", "desk", "red sofa"]
    expected = WordEncoder().encode_queries([*texts, "desk"])
    assert np.array_equal(first, expected[:3])
    assert np.array_equal(again, expected)
    other = cached_queries(tmp_path, WordEncoder(fingerprint="e" * 64), texts, **options)
    assert not np.array_equal(other, first)


def test_a_damaged_file_of_the_cache_is_named_and_its_queries_are_embedded_again(tmp_path):
    texts, said = ["red sofa", "blue lamp"], []
    cached_queries(tmp_path, WordEncoder(), texts, precision="fp32", log=said.append)
    (path,) = tmp_path.rglob("*.vectors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)

    found = cached_queries(tmp_path, WordEncoder(), texts, precision="fp32", log=said.append)

    assert np.array_equal(found, WordEncoder().encode_queries(texts))
    assert f"warning: {path}: is no whole file of vectors, and is not read; remove it" in said
    assert "encoding the 2 that" in said[-1]
