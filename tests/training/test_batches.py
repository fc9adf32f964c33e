from collections import Counter

import numpy as np
import pytest

from aisle.data.batching import distinct, epoch_order, process_share
from aisle.models.encoder import EncoderSettings
from aisle.models.tokens import TokenBudget
from aisle.training.batches import BatchPlan, PairCollator


@pytest.fixture
def collator(minilm_tokenizer):
    settings = EncoderSettings(pooling="mean", query_prompt="query: ", product_prompt="", max_length=16)
    return PairCollator(minilm_tokenizer, settings, TokenBudget(64, 4))


def test_each_distinct_text_is_encoded_once(collator):
    batch = collator(["sofa", "sofa", "lamp"], ["red sofa", "blue sofa", "red sofa"], None)
    assert sum(len(tokens.input_ids) for tokens in batch.token_batches) == 4
    assert batch.query_rows[0] == batch.query_rows[1] != batch.query_rows[2]
    assert batch.product_rows[0] == batch.product_rows[2] != batch.product_rows[1]


def test_rows_point_at_the_tokens_of_their_own_text(collator, minilm_tokenizer):
    queries = ["a very long query about a sofa that is red", "lamp", "bed"]
    products = ["bed frame", "x", "a table with four chairs and a bench for the garden"]
    batch = collator(queries, products, np.array([1.0, 0.5, 0.0]))
    texts = [
        minilm_tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
        for tokens in batch.token_batches
        for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)
    ]
    assert [texts[row] for row in batch.query_rows] == [f"query : {query}" for query in queries]
    assert [texts[row] for row in batch.product_rows] == products
    assert batch.relevance.tolist() == [1.0, 0.5, 0.0]


def test_tokens_are_counted_with_and_without_padding(collator):
    batch = collator(["lamp"], ["red lamp"], None)
    # [CLS] query : lamp [SEP] and [CLS] red lamp [SEP], padded to five
    assert (batch.real_tokens, batch.padded_tokens) == (9, 10)


def test_no_group_of_texts_exceeds_the_bound_on_tokens(collator):
    batch = collator([f"query {n} " + "word " * (n % 12) for n in range(60)], ["x"] * 60, None)
    assert all(tokens.input_ids.numel() <= 64 for tokens in batch.token_batches)
    assert batch.real_tokens / batch.padded_tokens > 0.9


def test_a_prompt_makes_equal_texts_different(collator):
    batch = collator(["sofa"], ["sofa"], None)
    assert batch.query_rows[0] != batch.product_rows[0]


@pytest.mark.parametrize(
    ("pairs", "accumulation", "processes"), [(103, 4, 2), (1, 3, 1), (64, 2, 2), (5, 1, 4)]
)
def test_every_pair_is_seen_once_an_epoch(pairs, accumulation, processes):
    plan = BatchPlan(pairs=pairs, batch_size=4, num_processes=processes, accumulation=accumulation, seed=7)
    steps = list(plan.steps(0))
    seen = Counter(
        row
        for step in steps
        for batch in step
        for rank in range(processes)
        for row in plan.share(batch, rank)
    )
    assert len(steps) == plan.steps_per_epoch
    assert seen == Counter(range(pairs))


def test_an_epoch_can_be_entered_at_any_step():
    plan = BatchPlan(pairs=50, batch_size=4, num_processes=1, accumulation=2, seed=7)
    whole = [np.concatenate(step).tolist() for step in plan.steps(3)]
    entered = [np.concatenate(step).tolist() for step in plan.steps(3, first_step=4)]
    assert entered == whole[4:]


def test_epochs_differ_in_order_and_seeds_do_too():
    orders = {tuple(epoch_order(30, seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert epoch_order(30, seed=1, epoch=1).tolist() == epoch_order(30, seed=1, epoch=1).tolist()


def test_shares_of_a_batch_differ_in_size_by_one_at_most():
    shares = [len(process_share(np.arange(11), process_index=rank, num_processes=4)) for rank in range(4)]
    assert sorted(shares) == [2, 3, 3, 3]


def test_distinct_keeps_the_order_of_first_appearance():
    found = distinct(["b", "a", "b", "c"])
    assert found.texts == ["b", "a", "c"]
    assert found.rows.tolist() == [0, 1, 0, 2]
