"""Batches of texts with their groups, product groups and subgroups, and the metrics of groups."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from aisle.data.negatives import KnownPositives
from aisle.data.subgroups import Subgroups
from aisle.losses.in_batch import InBatchParameters
from aisle.losses.registry import loss_named, registered_losses
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.training import group_retrieval, objective
from aisle.training.batch_plan import BatchPlan
from aisle.training.group_retrieval import GroupTask, measure_groups, ranking_figures
from aisle.training.objective import Objective
from aisle.training.tokenized import tokenize_pairs
from tests.data.test_groups import read
from tests.training.conftest import collator_of
from tests.training.test_batches import texts_in
from tests.training.test_objective import vector_of

TEXTS = [
    ("red sofa", "sofa"),
    ("blue sofa", "sofa"),
    ("sofa", "sofa"),
    ("lamp", "light"),
    ("table lamp", "light"),
    ("bed", "bed"),
    ("lamp", "light"),  # again
]


def tokenizers(tokenizer, *prompts):
    sides = [SideTokenizer(tokenizer, prompt, 16) for prompt in prompts or ("", "")]
    return SideTokenizers(*sides)


def grouped(tokenizer, rows=TEXTS, *prompts):
    pairs = read([{"text": text, "kind": group} for text, group in rows], group="kind")
    return tokenize_pairs(pairs, tokenizers(tokenizer, *prompts))


def batches_of(pairs, rows, *, loss="in_batch", processes=1, known=None):
    from dataclasses import replace

    made = [collator_of(pairs, loss=loss, process=(rank, processes)) for rank in range(processes)]
    return [(replace(one, known=known) if known else one)(np.array(rows)) for one in made]


def total_of(loss, batches, tokenizer, parameters=None):
    texts = [text for batch in batches for text in texts_in(batch, tokenizer)]
    embeddings = torch.stack([vector_of(text) for text in texts])
    computed = Objective(loss_named(loss), parameters or loss_named(loss).parameters())
    return sum(float(sum(computed.parts(embeddings, batch))) for batch in batches)


def test_texts_of_a_group_are_tokenised_once_with_the_prompt_of_products(minilm_tokenizer):
    pairs = grouped(minilm_tokenizer, TEXTS, "query: ", "product: ")
    batch = batches_of(pairs, range(7))[0]
    assert sorted(texts_in(batch, minilm_tokenizer)) == sorted({f"product : {text}" for text, _ in TEXTS})
    np.testing.assert_array_equal(pairs.queries, pairs.products)
    assert pairs.groups.tolist() == [0, 0, 0, 1, 1, 2, 1]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_texts_of_a_group_are_positives_and_all_others_negatives(minilm_tokenizer, processes):
    """InfoNCE of all ordered pairs of a group against the texts of the other groups, by nested loops."""
    pairs = grouped(minilm_tokenizer)
    batches = batches_of(pairs, [5, 0, 3, 6, 1, 4, 2], processes=processes)
    parameters = InBatchParameters(temperature=0.5, in_batch_directions=("query_to_product",))

    found = total_of("in_batch", batches, minilm_tokenizer, parameters)

    distinct, expected, count = dict(TEXTS), 0.0, 0
    for anchor, positive in product(distinct, distinct):
        if anchor != positive and distinct[anchor] == distinct[positive]:
            others = [text for text in distinct if distinct[text] != distinct[anchor]]
            scores = torch.stack([vector_of(anchor) @ vector_of(text) for text in (positive, *others)]) / 0.5
            expected += float(scores.logsumexp(0) - scores[0])
            count += 1
    assert count == 3 * 2 + 2
    assert [batch.weight for batch in batches] == [count] * processes
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [one.name for one in registered_losses() if one.takes_groups])
@pytest.mark.parametrize("dims", [(), (8, 3)], ids=["whole", "prefixes"])
def test_losses_and_gradients_of_groups_do_not_depend_on_the_processes(
    minilm_tokenizer, loss, dims, monkeypatch
):
    pairs = grouped(minilm_tokenizer)
    kind = loss_named(loss)
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(5)) if kind.needs_groups else None
    found = []
    for processes, numbers_at_a_time in ((1, 1 << 24), (3, 1 << 24), (3, 1)):
        monkeypatch.setattr(objective, "SCORES_AT_A_TIME", numbers_at_a_time)
        batches = batches_of(pairs, [5, 0, 3, 6, 1, 4, 2], loss=loss, processes=processes)
        computed = Objective(kind, kind.parameters(), dims, vectors)
        texts = [text for batch in batches for text in texts_in(batch, minilm_tokenizer)]
        by_text = {text: vector_of(text).requires_grad_() for text in sorted(texts)}
        embeddings = torch.stack([by_text[text] for text in texts])
        total = sum(sum(computed.parts(embeddings, batch)) for batch in batches)
        total.backward()
        weights = {batch.weight for batch in batches}
        trained = [one.grad for one in computed.trained]
        found.append((weights, total.detach(), [one.grad for one in by_text.values()], trained))
    assert len(found[0][0]) == 1
    assert float(found[0][1]) > 0
    for weights, *values in found[1:]:
        assert weights == found[0][0]
        torch.testing.assert_close(values, list(found[0][1:]), atol=1e-5, rtol=1e-4)


def test_a_query_loss_has_all_positives_of_a_query_and_its_negatives(minilm_tokenizer):
    rows = [("sofa", "red sofa", 1), ("sofa", "blue sofa", 0.8), ("sofa", "cover", 0), ("light", "lamp", 1)]
    pairs = read([dict(zip(("query", "product", "label"), row, strict=True)) for row in rows])
    pairs = tokenize_pairs(pairs, tokenizers(minilm_tokenizer))
    (batch,) = batches_of(pairs, [2, 0, 3, 1], loss="multi_similarity")
    sets, contrast = batch.contrast.positive_sets, batch.contrast
    texts = texts_in(batch, minilm_tokenizer)
    queries = [texts[row] for row in contrast.queries.tolist()]
    products = [texts[row] for row in contrast.products.tolist()]

    def texts_by_row(csr):
        return [
            {products[column] for column in csr.columns[csr.ends[row] : csr.ends[row + 1]].tolist()}
            for row in range(len(sets))
        ]

    positives, left_out = texts_by_row(sets.positives), texts_by_row(sets.not_negatives)
    found = {
        queries[query]: (positives[row], set(products) - left_out[row])
        for row, query in enumerate(sets.queries.tolist())
    }
    assert found == {
        "sofa": ({"red sofa", "blue sofa"}, {"cover", "lamp"}),
        "light": ({"lamp"}, {"red sofa", "blue sofa", "cover"}),
    }
    assert batch.weight == 2


def test_variants_of_a_product_are_never_negatives_of_each_others_queries(minilm_tokenizer):
    rows = [("sofa", "red sofa", "s"), ("seat", "blue sofa", "s"), ("light", "lamp", ""), ("cosy", "rug", "")]
    pairs = read([dict(zip(("query", "product", "v"), row, strict=True)) for row in rows], group="v")
    pairs = tokenize_pairs(pairs, tokenizers(minilm_tokenizer))
    parameters = InBatchParameters(temperature=0.5, in_batch_directions=("query_to_product",))

    found = total_of("in_batch", batches_of(pairs, range(4)), minilm_tokenizer, parameters)

    expected = 0.0
    for query, own, variant in rows:
        others = [p for _, p, v in rows if p != own and not (v and v == variant)]
        scores = torch.stack([vector_of(query) @ vector_of(text) for text in (own, *others)]) / 0.5
        expected += float(scores.logsumexp(0) - scores[0])
    assert found == pytest.approx(expected, rel=1e-5)


SUBGROUPED = [
    ("sofa", "red sofa", 1, "a", ["nails"]),
    ("sofa", "sofa cover", 0, "a", []),
    ("seat", "blue sofa", 1, "a", []),
    ("light", "lamp", 1, "b", []),
    ("lantern", "table lamp", 1, "b", []),
]
NEGATIVES = {
    "sofa": {"sofa cover", "nails", "lamp", "table lamp"},  # blue sofa: same subgroup, not judged
    "seat": {"lamp", "table lamp"},  # the cover and the nails are judged for another query
    "light": {"red sofa", "sofa cover", "blue sofa", "nails"},
    "lantern": {"red sofa", "sofa cover", "blue sofa", "nails"},
}


@pytest.mark.parametrize("processes", [1, 2])
def test_inside_a_subgroup_only_judged_products_are_negatives(minilm_tokenizer, processes):
    header = ("query", "product", "relevance", "shop", "hard_negatives")
    rows = read([dict(zip(header, row, strict=True)) for row in SUBGROUPED], subgroup="shop")
    pairs = tokenize_pairs(rows, tokenizers(minilm_tokenizer))
    known = known_of(pairs)
    batches = batches_of(pairs, [3, 1, 0, 4, 2], processes=processes, known=known)
    parameters = InBatchParameters(temperature=0.5, in_batch_directions=("query_to_product",))

    found = total_of("in_batch", batches, minilm_tokenizer, parameters)

    expected = 0.0
    for query, own, relevance, *_ in SUBGROUPED:
        if relevance:
            scores = (
                torch.stack([vector_of(query) @ vector_of(text) for text in (own, *NEGATIVES[query])]) / 0.5
            )
            expected += float(scores.logsumexp(0) - scores[0])
    assert found == pytest.approx(expected, rel=1e-5)


def known_of(pairs):
    from aisle.commands.train.trainer_setup import _known_positives

    known = _known_positives(pairs)
    assert isinstance(known, KnownPositives)
    assert isinstance(known.subgroups, Subgroups)
    return known


def test_a_batch_keeps_texts_of_a_group_together(minilm_tokenizer):
    rows = [(f"{group} {n}", group) for group in "abcdefgh" for n in range(4)]
    pairs = grouped(minilm_tokenizer, rows)
    plan = BatchPlan(32, 8, 1, 1, seed=3, groups=pairs.groups, together=2)
    for (batch,) in plan.steps(0):
        assert np.unique(pairs.groups[batch], return_counts=True)[1].min() >= 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("sizes", "batch", "most"),
    [
        ([7] * 40, 16, 4),
        ([3, 50, *[5] * 60], 16, 3),
        ([1] * 100, 8, 2),
        ([12] * 8, 16, 4),
        ([11, 30, 30, 9], 20, 8),
    ],
)
def test_a_batch_has_no_more_texts_of_a_group_than_the_limit(sizes, batch, most, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    plan = BatchPlan(len(groups), batch, 1, 1, seed=seed, groups=groups, together=most)
    for epoch in range(3):
        batches = [rows for (rows,) in plan.steps(epoch)]
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(groups)))
        for rows in batches:
            assert np.unique(groups[rows], return_counts=True)[1].max() <= most


def test_a_group_with_more_texts_than_fit_is_spread_evenly():
    groups = np.repeat([0, *range(1, 41)], [400, *[10] * 40])
    plan = BatchPlan(800, 20, 1, 1, seed=0, groups=groups, together=4)
    batches = [groups[rows] for (rows,) in plan.steps(0)]
    of_large = [int((batch == 0).sum()) for batch in batches]
    assert max(of_large) == 12  # three parts of four texts
    assert np.mean(of_large[:20]) == pytest.approx(10, abs=2)


def figures_by_loops(cosines, right, ignored):
    """Rank each row by sorting, wrong columns first among equals."""
    figures = []
    for scores, relevant, left_out in zip(cosines, right, ignored, strict=True):
        ranked = sorted(np.flatnonzero(~left_out), key=lambda column: (-scores[column], relevant[column]))
        hits = [bool(relevant[column]) for column in ranked]
        count = sum(relevant)
        figures.append(
            [1 / (hits.index(True) + 1), sum(hits[:count]) / count, *(sum(hits[:k]) / k for k in (1, 3))]
        )
    return np.array(figures)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_rankings_equal_a_sort_in_python(seed):
    random = np.random.default_rng(seed)
    cosines = random.integers(5, size=(20, 9)) / 5.0  # many ties
    right = random.random((20, 9)) < 0.3
    ignored = (random.random((20, 9)) < 0.2) & ~right
    some = right.any(axis=1)
    cosines, right, ignored = cosines[some], right[some], ignored[some]
    found = ranking_figures(*map(torch.from_numpy, (cosines, right, ignored)), cutoffs=(1, 3))
    np.testing.assert_allclose(found.numpy(), figures_by_loops(cosines, right, ignored))


@pytest.mark.parametrize("sample", [None, 4])
def test_each_sampled_text_ranks_all_others(minilm_tokenizer, sample, monkeypatch):
    pairs = grouped(minilm_tokenizer)
    task = GroupTask.of(pairs, first=100, sample=sample, seed=0)
    embeddings = torch.nn.functional.normalize(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1
    )
    accelerator = Accelerator(cpu=True)
    whole = measure_groups(accelerator, task, embeddings)
    assert whole == measure_groups(accelerator, task, embeddings, block_bytes=1)

    assert len(task.texts) == 6  # the bed is alone: it is ranked, and ranks nothing
    assert len(task.ranking) == (sample or 5)
    cosines = (embeddings.double() @ embeddings.double().T).float().numpy()
    same = (task.groups[:, None] == task.groups) & ~np.eye(6, dtype=bool)
    rows = task.ranking
    expected = figures_by_loops(cosines[rows], same[rows], np.eye(6, dtype=bool)[rows]).mean(axis=0)
    assert [whole["mrr"], whole["r_precision"], whole["precision@1"]] == pytest.approx(expected[:3].tolist())


def test_ranks_share_the_ranking(minilm_tokenizer, monkeypatch):
    task = GroupTask.of(grouped(minilm_tokenizer), first=100, sample=None, seed=0)
    embeddings = torch.nn.functional.normalize(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1
    )
    gathered = []
    monkeypatch.setattr(group_retrieval, "gather_rows", lambda _, mine, sizes: gathered.append(mine) or mine)
    for rank in range(2):
        measure_groups(SimpleNamespace(process_index=rank, num_processes=2), task, embeddings)
    both = torch.cat(gathered)
    measure_groups(SimpleNamespace(process_index=0, num_processes=1), task, embeddings)
    torch.testing.assert_close(both, gathered[-1])
