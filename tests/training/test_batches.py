from collections import Counter

import numpy as np
import pytest

from aisle.data.batching import distinct, epoch_order, process_share
from aisle.training.batch_plan import BatchPlan
from tests.training.conftest import collator_of, texts_of, tokenized


def texts_in(batch, tokenizer):
    """Return the texts that a process embeds, in the order of its embeddings."""
    found = []
    for tokens in batch.token_batches:
        for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            found.append(tokenizer.decode(tokens.input_ids[start:stop], skip_special_tokens=True))
    return found


def test_each_distinct_text_is_embedded_once(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["sofa", "sofa", "lamp"], ["red sofa", "blue sofa", "red sofa"])
    batch = collator_of(pairs)(np.arange(3))
    assert sorted(texts_in(batch, minilm_tokenizer)) == ["blue sofa", "lamp", "red sofa", "sofa"]
    assert batch.query_rows[0] == batch.query_rows[1] != batch.query_rows[2]
    assert batch.product_rows[0] == batch.product_rows[2] != batch.product_rows[1]


def test_rows_index_the_pairs_own_texts(minilm_tokenizer):
    queries = ["a very long query about a sofa that is red", "lamp", "bed"]
    products = ["bed frame", "x", "a table with four chairs and a bench for the garden"]
    pairs = tokenized(minilm_tokenizer, queries, products, [1.0, 0.5, 0.0], prompts=("query: ", ""))
    batch = collator_of(pairs)(np.array([2, 0]))
    texts = texts_in(batch, minilm_tokenizer)
    assert [texts[row] for row in batch.query_rows] == ["query : bed", f"query : {queries[0]}"]
    assert [texts[row] for row in batch.product_rows] == [products[2], products[0]]
    assert batch.relevance.tolist() == [0.0, 1.0]


def test_tokens_are_counted_with_and_without_padding(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["lamp"], ["red lamp"], prompts=("query: ", ""))
    # [CLS] query : lamp [SEP] and [CLS] red lamp [SEP]: nine, padded to five each
    packed, padded = (collator_of(pairs, packed=packed)(np.arange(1)) for packed in (True, False))
    assert (packed.real_tokens, packed.read_tokens) == (9, 9)
    assert (padded.real_tokens, padded.read_tokens) == (9, 10)


@pytest.mark.parametrize("packed", [True, False])
def test_no_token_batch_exceeds_the_limit_on_tokens(minilm_tokenizer, packed):
    pairs = tokenized(minilm_tokenizer, [f"query {n} " + "word " * (n % 12) for n in range(60)], ["x"] * 60)
    batch = collator_of(pairs, packed=packed)(np.arange(60))
    assert all(tokens.read_tokens <= 64 for tokens in batch.token_batches)
    assert batch.real_tokens / batch.read_tokens > 0.9


def test_equal_texts_with_different_prompts_are_different_texts(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["sofa"], ["sofa"], prompts=("query: ", ""))
    batch = collator_of(pairs)(np.arange(1))
    assert batch.query_rows[0] != batch.product_rows[0]


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_texts_and_pairs_are_divided_among_processes_exactly_once(minilm_tokenizer, processes):
    queries, products = texts_of(11, seed=1), texts_of(11, seed=2)
    pairs = tokenized(minilm_tokenizer, queries, products)
    rows = np.array([7, 3, 0, 9, 1])
    shares = [collator_of(pairs, process=(rank, processes))(rows) for rank in range(processes)]
    everyone = []
    for rank, share in enumerate(shares):
        everyone += texts_in(share, minilm_tokenizer)[: share.texts[rank]]
    assert Counter(everyone) == Counter({queries[row] for row in rows} | {products[row] for row in rows})
    for share in shares:
        assert [everyone[row] for row in share.query_rows] == [queries[row] for row in rows]
        assert [everyone[row] for row in share.product_rows] == [products[row] for row in rows]
    assert sorted(row for share in shares for row in range(*share.own)) == list(range(5))


def test_a_process_without_a_text_embeds_an_extra_text_that_has_no_effect(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["sofa"], ["red sofa"])
    batch = collator_of(pairs, process=(2, 3))(np.arange(1))
    assert (batch.texts, batch.own_texts, batch.real_tokens, batch.own) == ((1, 1, 0), 1, 0, (0, 0))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_separate_towers_get_separate_batches_of_queries_and_products(minilm_tokenizer, processes):
    queries, products = texts_of(9, seed=1), texts_of(9, seed=2)
    pairs = tokenized(minilm_tokenizer, queries, products, prompts=("query: ", ""))
    rows = np.array([7, 3, 0, 8, 1])
    everyone = []
    for rank in range(processes):
        batch = collator_of(pairs, process=(rank, processes), separate=True)(rows)
        sides = [tokens.side for tokens in batch.token_batches for _ in range(len(tokens))]
        texts = texts_in(batch, minilm_tokenizer)
        assert sides == ["query" if text.startswith("query :") else "product" for text in texts]
        assert sides[: batch.texts[rank]] == sorted(sides[: batch.texts[rank]], reverse=True)
        everyone += texts[: batch.texts[rank]]
    assert [everyone[row] for row in batch.query_rows] == [f"query : {queries[row]}" for row in rows]
    assert [everyone[row] for row in batch.product_rows] == [products[row] for row in rows]


def test_a_process_without_a_text_for_a_tower_embeds_an_extra_text_that_has_no_effect(minilm_tokenizer):
    pairs = tokenized(
        minilm_tokenizer, ["sofa"] * 3, ["a red sofa", "a blue one", "desk"], prompts=("query: ", "")
    )
    batch = collator_of(pairs, process=(1, 2), separate=True)(np.arange(3))
    assert batch.texts == (3, 1)
    assert [tokens.side for tokens in batch.token_batches] == ["product", "query"]
    assert texts_in(batch, minilm_tokenizer) == ["a blue one", "query : sofa"]
    assert batch.real_tokens == 5


def test_batches_of_a_shared_tower_mix_the_sides(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["lamp"], ["a red lamp"])
    assert [(tokens.side, len(tokens)) for tokens in collator_of(pairs)(np.arange(1)).token_batches] == [
        (None, 2)
    ]


def test_known_positives_are_excluded_from_the_negatives(minilm_tokenizer):
    # The second "sofa" pair is never in the same batch as the first, but its product is a known positive.
    pairs = tokenized(
        minilm_tokenizer,
        ["sofa", "sofa", "lamp", "bed"],
        ["red sofa", "blue sofa", "blue sofa", "frame"],
        product_ids=["1", "2", "2", "1"],
        negatives=[["desk"], [], [], []],
    )
    batch = collator_of(pairs, loss="in_batch")(np.array([0, 2, 3]))
    contrast = batch.contrast
    texts = texts_in(batch, minilm_tokenizer)
    products = [texts[row] for row in contrast.products]
    queries = [texts[row] for row in contrast.queries]
    excluded = {}
    for anchor, (query, start, stop) in enumerate(
        zip(
            contrast.anchors.queries,
            contrast.anchors.not_negative_products.ends[:-1],
            contrast.anchors.not_negative_products.ends[1:],
            strict=True,
        )
    ):
        columns = contrast.anchors.not_negative_products.columns[start:stop]
        excluded[queries[query]] = {products[column] for column in columns}
        assert products[contrast.anchors.products[anchor]] in excluded[queries[query]]
    assert sorted(products) == ["blue sofa", "desk", "frame", "red sofa"]
    # "frame" has the product id of "red sofa"; the hard negative is one for every query.
    assert excluded == {
        "sofa": {"red sofa", "blue sofa", "frame"},
        "lamp": {"blue sofa"},
        "bed": {"frame", "red sofa"},
    }


def test_products_judged_irrelevant_are_negatives_and_not_anchors(minilm_tokenizer):
    pairs = tokenized(minilm_tokenizer, ["sofa", "sofa", "lamp"], ["red sofa", "desk", "lamp"], [1, 0, 0.4])
    batch = collator_of(pairs, loss="in_batch")(np.arange(3))
    assert len(batch.contrast.anchors) == batch.weight == 1
    assert len(batch.contrast.products) == 2 + 1


@pytest.mark.parametrize(
    ("pairs", "accumulation", "processes"), [(103, 4, 2), (1, 3, 1), (64, 2, 2), (5, 1, 4)]
)
def test_every_pair_is_used_once_per_epoch(pairs, accumulation, processes):
    plan = BatchPlan(pairs=pairs, batch_size=4, num_processes=processes, accumulation=accumulation, seed=7)
    steps = list(plan.steps(0))
    seen = Counter(row for step in steps for batch in step for row in batch)
    assert len(steps) == plan.steps_per_epoch
    assert seen == Counter(range(pairs))


def test_an_epoch_can_start_at_any_step():
    plan = BatchPlan(pairs=50, batch_size=4, num_processes=1, accumulation=2, seed=7)
    whole = [np.concatenate(step).tolist() for step in plan.steps(3)]
    entered = [np.concatenate(step).tolist() for step in plan.steps(3, first_step=4)]
    assert entered == whole[4:]


def test_the_order_differs_between_epochs_and_between_seeds():
    orders = {tuple(epoch_order(30, seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert epoch_order(30, seed=1, epoch=1).tolist() == epoch_order(30, seed=1, epoch=1).tolist()


def test_shares_of_a_batch_differ_in_size_by_at_most_one():
    shares = [len(process_share(np.arange(11), process_index=rank, num_processes=4)) for rank in range(4)]
    assert sorted(shares) == [2, 3, 3, 3]


def test_distinct_keeps_the_order_of_first_appearance():
    found = distinct(["b", "a", "b", "c"])
    assert found.texts == ["b", "a", "c"]
    assert found.rows.tolist() == [0, 1, 0, 2]
