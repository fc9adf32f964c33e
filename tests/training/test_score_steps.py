"""Training steps of cross-encoders: joined pairs, losses against loops, padded and captured passes."""

import datasets
import numpy as np
import pytest
import torch

from aisle.data.pairs import Pairs
from aisle.evaluation.blend_fit import dcg
from aisle.losses.registry import loss_named
from aisle.models.cross_encoder_loading import load_cross_encoder
from aisle.models.model_source import find_model
from aisle.models.prepare_model import set_dropout
from aisle.training.score_evaluation import ServedLists, no_use_warning
from aisle.training.tokenized_joined import joined_relevance, tokenize_joined
from tests.training.conftest import assert_same, moved_by, texts_of, trainer_of
from tests.training.test_static_steps import by_offsets, computed_again  # noqa: F401 (a fixture)

LONGEST = 16
QUERIES = [text for text in texts_of(6, seed=5) for _ in range(4)]
RELEVANCE = np.tile(np.array([1, 0, 0.5, 0], np.float32), 6)


@pytest.fixture(scope="module")
def loaded(tiny_bert):
    return load_cross_encoder(find_model(str(tiny_bert)), max_length=LONGEST, new_head_seed=1)


@pytest.fixture(scope="module")
def pairs(loaded):
    rows = {"query": QUERIES, "product": texts_of(24, seed=6), "relevance": RELEVANCE}
    return tokenize_joined(Pairs(datasets.Dataset.from_dict(rows)), loaded.pair_tokenizer)


def cross_encoder_of(tiny_bert):
    fresh = load_cross_encoder(find_model(str(tiny_bert)), max_length=LONGEST, new_head_seed=1)
    set_dropout(fresh.backbone, 0.0)
    return fresh.cross_encoder()


def trainer(loaded, tiny_bert, pairs, loss, **options):
    tower = cross_encoder_of(tiny_bert)
    return trainer_of(loaded, pairs, tower=tower, loss=loss_named(loss, "scores"), **options)


@pytest.mark.parametrize("loss", ["binary", "listwise"])
def test_a_step_follows_the_gradient_of_a_loop_over_pairs(loaded, tiny_bert, pairs, loss):
    found = moved_by(trainer(loaded, tiny_bert, pairs, loss))

    model = cross_encoder_of(tiny_bert)
    tokens = pairs.texts
    scores = torch.stack(
        [
            model.backbone(
                input_ids=torch.from_numpy(tokens.take(np.array([text])))[None],
                token_type_ids=torch.from_numpy(tokens.take_types(np.array([text])))[None],
            ).logits[0, 0]
            for text in pairs.queries
        ]
    )
    if loss == "binary":
        relevance = torch.from_numpy(RELEVANCE)
        total = torch.nn.functional.binary_cross_entropy_with_logits(scores, relevance)
    else:
        lists = [scores[start : start + 4] for start in range(0, 24, 4)]
        target = torch.tensor([1, 0, 0.5, 0]) / 1.5
        total = -sum((target * one.log_softmax(0)).sum() for one in lists) / 6
    total.backward()
    expected = {
        name: -0.5 * (torch.zeros_like(one) if one.grad is None else one.grad)
        for name, one in model.named_parameters()
    }
    assert_same(expected, found)


@pytest.mark.parametrize(
    "options",
    [{"packed": False}, {"cached": True, "max_tokens": 64}, {"batch_size": 8, "accumulation": 3}],
    ids=str,
)
def test_padded_cached_and_accumulated_steps_equal_a_single_batch(loaded, tiny_bert, pairs, options):
    expected = moved_by(trainer(loaded, tiny_bert, pairs, "binary", max_tokens=10_000))

    assert_same(expected, moved_by(trainer(loaded, tiny_bert, pairs, "binary", **options)))


def test_captured_steps_of_static_shape_train_the_weights_of_eager_steps(
    loaded,
    tiny_bert,
    pairs,
    by_offsets,  # noqa: F811
):
    options = {"batch_size": 8, "total_steps": 6, "max_tokens": 1000}
    expected = moved_by(trainer(loaded, tiny_bert, pairs, "binary", **options))
    options |= {"static_length": LONGEST, "record": computed_again, "eager_steps": 1}
    captured = trainer(loaded, tiny_bert, pairs, "binary", **options)

    found = moved_by(captured)

    assert captured.step.forward.captured.captured_batches > 2
    assert_same(expected, found, atol=2e-5)


def test_a_joined_pair_is_one_text_and_hard_negatives_are_pairs_of_relevance_0(loaded):
    rows = {
        "query": ["red sofa", "red sofa", "lamp", "lamp"],
        "product": ["sofa", "bed", "lamp", "lamp"],
        "product_id": ["p1", "p2", "p3", "p3"],
        "hard_negatives": [["bed", "table"], [], [], []],
    }
    pairs = Pairs(datasets.Dataset.from_dict(rows))

    found = tokenize_joined(pairs, loaded.pair_tokenizer)

    np.testing.assert_array_equal(found.queries, found.products)
    assert len(found) == 6
    assert found.relevance.tolist() == joined_relevance(pairs).tolist() == [1, 1, 1, 1, 0, 0]
    decoded = [loaded.tokenizer.decode(found.texts[text]) for text in found.queries]
    assert decoded[0] == "[CLS] red sofa [SEP] sofa [SEP]"
    assert decoded[4:] == ["[CLS] red sofa [SEP] bed [SEP]", "[CLS] red sofa [SEP] table [SEP]"]
    assert found.queries[2] == found.queries[3]
    assert found.queries[1] == found.queries[4]  # the text of p2, judged and as a hard negative
    keys = found.query_keys[found.queries]
    assert keys.tolist() == [keys[0]] * 2 + [keys[2]] * 2 + [keys[0]] * 2
    products = found.product_keys[found.products]
    assert len(set(products.tolist())) == 4


def test_the_ndcg_of_served_lists_has_the_value_computed_by_hand():
    judged = np.array([0, 1, 0.5, 1], np.float32)
    lists = ServedLists(
        pairs=None,
        offsets=np.array([0, 3, 4]),
        relevance=judged,
        ideal=np.array([1 + 0.5 / np.log2(3), dcg(np.array([1.0, 1.0]))]),
        depth=3,
    )

    # The second query has a relevant product that the search did not find.
    second = 1 / (1 + 1 / np.log2(3))
    unranked = (1 / np.log2(3) + 0.5 / 2) / (1 + 0.5 / np.log2(3))
    assert lists.ndcg() == pytest.approx((unranked + second) / 2)
    assert lists.ndcg(np.array([0.0, 2.0, 1.0, 9.0])) == pytest.approx((1 + second) / 2)
    assert lists.ndcg(np.zeros(4)) == lists.ndcg()


def test_a_reranker_that_does_not_improve_the_served_list_gets_a_warning():
    figures = {"served_ndcg@10": 0.5, "unranked_ndcg@10": 0.5}

    assert "served_ndcg@10 is 0.5000, and 0.5000 without reranking" in no_use_warning(figures)
    assert no_use_warning(figures | {"served_ndcg@10": 0.51}) is None
    assert no_use_warning({"roc_auc": 0.9}) is None
