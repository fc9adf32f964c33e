import math
from itertools import combinations

import pytest
import torch
from torch import nn

from aisle.losses.anchors import Anchors
from aisle.losses.embedding_rows import rows_of
from aisle.losses.in_batch import in_batch
from tests.losses.anchors import anchors_of, diagonal, exclusions, random_anchors
from tests.losses.vectors import at, exact, gradients, unit

OTHER_DIRECTIONS = ("product_to_query", "query_to_query", "product_to_product")
ALL_DIRECTIONS = ("query_to_product", *OTHER_DIRECTIONS)
SUBSETS = [
    ("query_to_product", *others) for size in range(4) for others in combinations(OTHER_DIRECTIONS, size)
]


def in_batch_by_loops(queries, products, anchors, *, temperature, directions):
    """Compute the losses by the formula, with a loop over the exponentials."""
    losses = []
    for row in range(len(anchors)):
        query, product = queries[anchors.queries[row]], products[anchors.products[row]]
        negatives = {}
        for side, embeddings, excluded in (
            ("product", products, anchors.not_negative_products),
            ("query", queries, anchors.not_negative_queries),
        ):
            own = excluded.columns[excluded.ends[row] : excluded.ends[row + 1]].tolist()
            negatives[side] = [embeddings[at] for at in range(len(embeddings)) if at not in own]
        terms = []
        for anchor, name in ((query, "query"), (product, "product")):
            used = [side for side in ("product", "query") if f"{name}_to_{side}" in directions]
            if used:
                positive = torch.exp(query @ product / temperature)
                total = positive.clone()
                for side in used:
                    for negative in negatives[side]:
                        total += torch.exp(anchor @ negative / temperature)
                terms.append(-torch.log(positive / total))
        losses.append(sum(terms) / len(terms))
    return torch.stack(losses)


def test_in_batch_query_to_product_has_the_value_computed_by_hand():
    """Own cosine cos 60 = 0.5, the other product's cos 90 = 0, temperature 0.5."""
    anchors = anchors_of([(0, 0), (0, 1)])

    losses = in_batch(at(0), at(60, 90), anchors, temperature=0.5, directions=["query_to_product"])

    one = math.log(math.exp(1) + math.exp(0))
    torch.testing.assert_close(losses, exact([one - 1, one - 0]))


def test_in_batch_in_all_directions_has_the_value_computed_by_hand():
    """Queries at 0 and 90 degrees, products at 0 and 60, temperature 0.5: scores are 2 cos."""
    losses = in_batch(at(0, 90), at(0, 60), diagonal(2), temperature=0.5, directions=ALL_DIRECTIONS)

    e = math.exp
    c30, c60 = 2 * math.cos(math.radians(30)), 1.0
    first_query = math.log(e(2) + e(c60) + e(0)) - 2  # own product, other product, other query
    first_product = math.log(e(2) + e(0) + e(c60)) - 2  # own query, other query, other product
    second_query = math.log(e(c30) + e(0) + e(0)) - c30
    second_product = math.log(e(c30) + e(c60) + e(c60)) - c30
    expected = [(first_query + first_product) / 2, (second_query + second_product) / 2]
    torch.testing.assert_close(losses, exact(expected))


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_in_batch_query_to_product_equals_cross_entropy(temperature):
    queries, products = unit(12), unit(15, seed=1)  # three products are hard negatives of all

    losses = in_batch(
        queries, products, diagonal(12), temperature=temperature, directions=["query_to_product"]
    )

    scores = queries @ products.T / temperature
    expected = nn.functional.cross_entropy(scores, torch.arange(12), reduction="none")
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_batch_equals_nested_loops_over_the_formula(directions, seed):
    queries, products = unit(6, seed=seed), unit(9, seed=seed + 10)
    anchors = random_anchors(11, 6, 9, seed=seed)
    options = {"temperature": 0.3, "directions": directions}

    losses = in_batch(queries, products, anchors, **options)
    found = gradients(lambda q, p: in_batch(q, p, anchors, **options), queries, products)

    torch.testing.assert_close(losses, in_batch_by_loops(queries, products, anchors, **options))
    expected = gradients(lambda q, p: in_batch_by_loops(q, p, anchors, **options), queries, products)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
@pytest.mark.parametrize("size", [1, 4, 11])
def test_blocks_of_anchors_give_the_losses_and_gradients_of_all_at_once(directions, size):
    queries, products = unit(6), unit(9, seed=1)
    anchors = random_anchors(11, 6, 9)
    options = {"temperature": 0.05, "directions": directions}

    def in_blocks(queries, products):
        starts = range(0, len(anchors), size)
        blocks = [anchors.block(start, min(start + size, len(anchors))) for start in starts]
        return torch.cat([in_batch(queries, products, block, **options) for block in blocks])

    def at_once(queries, products):
        return in_batch(queries, products, anchors, **options)

    torch.testing.assert_close(
        in_blocks(queries, products), at_once(queries, products), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(gradients(in_blocks, queries, products), gradients(at_once, queries, products))


@pytest.mark.parametrize("directions", [d for d in SUBSETS if d != ("query_to_product",)], ids="+".join)
def test_every_direction_adds_negatives_and_changes_the_loss(directions):
    queries, products = unit(5), unit(5, seed=1)

    alone = in_batch(queries, products, diagonal(5), temperature=1.0, directions=SUBSETS[0])
    more = in_batch(queries, products, diagonal(5), temperature=1.0, directions=directions)

    assert (more - alone).abs().min().item() > 1e-3


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
def test_excluded_texts_have_no_effect_and_no_gradient(directions):
    """Every anchor excludes the last query and the last product, as if they were missing."""
    queries, products = unit(5), unit(5, seed=1)
    pairs = [(row, row) for row in range(4)]
    excluded = anchors_of(pairs, products=[[4]] * 4, queries=[[4]] * 4)
    options = {"temperature": 1.0, "directions": directions}

    losses = in_batch(queries, products, excluded, **options)
    to_queries, to_products = gradients(lambda q, p: in_batch(q, p, excluded, **options), queries, products)

    without = in_batch(queries[:4], products[:4], diagonal(4), **options)
    torch.testing.assert_close(losses, without)
    assert to_queries[4].tolist() == [0] * 8
    assert to_products[4].tolist() == [0] * 8
    assert in_batch(queries, products, anchors_of(pairs), **options).gt(losses + 0.01).all()


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
def test_a_pair_given_twice_has_its_loss_twice(directions):
    queries, products = unit(3), unit(3, seed=1)
    options = {"temperature": 0.5, "directions": directions}

    losses = in_batch(queries, products, anchors_of([(0, 0), (1, 1), (2, 2), (0, 0)]), **options)

    torch.testing.assert_close(losses[:3], in_batch(queries, products, diagonal(3), **options))
    assert losses[3].item() == pytest.approx(losses[0].item(), rel=1e-12)


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
def test_the_order_of_anchors_and_texts_changes_only_the_order_of_the_losses(directions):
    queries, products = unit(4), unit(4, seed=1)
    options = {"temperature": 1.0, "directions": directions}
    anchors = anchors_of([(0, 0), (1, 1), (2, 2)], products=[[1], [], [3]], queries=[[], [3], [0]])

    losses = in_batch(queries, products, anchors, **options)

    # Rows are now counted from the end (3 - row), and the anchors are reversed.
    flipped = anchors_of([(1, 1), (2, 2), (3, 3)], products=[[0], [], [2]], queries=[[3], [0], []])
    other = in_batch(queries.flip(0), products.flip(0), flipped, **options)
    torch.testing.assert_close(other, losses.flip(0))


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_anchor_without_negatives_has_loss_zero_and_no_gradient(directions, dtype):
    """The first anchor excludes all texts, the second only its own."""
    queries, products = unit(3).to(dtype), unit(3, seed=1).to(dtype)
    every = [1, 2]
    anchors = anchors_of([(0, 0), (1, 1)], products=[every, []], queries=[every, []])
    options = {"temperature": torch.tensor(0.05, dtype=dtype), "directions": directions}

    losses = in_batch(queries, products, anchors, **options)
    first = gradients(
        lambda q, p, t: in_batch(q, p, anchors.block(0, 1), temperature=t, directions=directions),
        queries,
        products,
        options["temperature"],
    )

    assert losses[0].item() == 0
    assert losses[1].item() > 0.01
    for gradient in first:
        assert torch.equal(gradient, torch.zeros_like(gradient))
    both = gradients(lambda q, p: in_batch(q, p, anchors, **options), queries, products)
    second = gradients(lambda q, p: in_batch(q, p, anchors.block(1, 2), **options), queries, products)
    torch.testing.assert_close(both, second)


def test_an_anchor_without_negatives_makes_no_nan_in_the_backward_pass():
    """Anomaly detection reports a NaN even if a later operation masks it."""
    queries = unit(1).requires_grad_()

    with torch.autograd.set_detect_anomaly(True):
        losses = in_batch(queries, unit(1), diagonal(1), temperature=0.05, directions=ALL_DIRECTIONS)
        losses.sum().backward()

    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_without_exclusions_an_anchors_own_texts_are_negatives_too():
    """Nothing is masked: the own product counts twice in the denominator, log((2 e^2 + e^0) / e^2)."""
    nothing = exclusions([[]])
    anchors = Anchors(torch.tensor([0]), torch.tensor([0]), nothing, nothing)

    losses = in_batch(at(0), at(0, 90), anchors, temperature=0.5, directions=["query_to_product"])

    torch.testing.assert_close(losses, exact([math.log(2 + math.exp(-2))]))


def test_a_batch_without_anchors_has_no_losses_and_stays_on_the_graph():
    queries, products = unit(2).requires_grad_(), unit(3).requires_grad_()

    losses = in_batch(queries, products, anchors_of([]), temperature=0.05, directions=ALL_DIRECTIONS)
    losses.sum().backward()

    assert losses.shape == (0,)
    assert queries.grad.abs().max() == 0
    assert products.grad.abs().max() == 0


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
def test_gradients_of_in_batch_equal_finite_differences(directions):
    anchors = random_anchors(5, 3, 4)

    def loss(queries, products, temperature):
        return in_batch(queries, products, anchors, temperature=temperature, directions=directions)

    inputs = [unit(3), unit(4, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_in_batch_is_float32_and_finite_at_a_low_temperature():
    queries, products = unit(32).float().requires_grad_(), unit(32, seed=1).float()

    losses = in_batch(queries, products, diagonal(32), temperature=0.001, directions=ALL_DIRECTIONS)
    losses.sum().backward()

    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    assert torch.isfinite(queries.grad).all()
    exactly = in_batch(
        queries.detach().double(),
        products.double(),
        diagonal(32),
        temperature=0.001,
        directions=ALL_DIRECTIONS,
    )
    torch.testing.assert_close(losses.detach().double(), exactly, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("directions", [[], ["product_to_query"], OTHER_DIRECTIONS])
def test_directions_without_query_to_product_are_refused_and_listed(directions):
    with pytest.raises(ValueError, match="'query_to_product'") as caught:
        in_batch(unit(2), unit(2), diagonal(2), temperature=0.05, directions=directions)

    assert str(sorted(directions)) in str(caught.value)


def test_gradients_of_texts_that_occur_often_are_the_same_to_the_bit():
    """From 32,768 numbers on, plain indexing sums in the order in which threads finish."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        embeddings, outer = torch.randn(40, 384), torch.randn(256, 384)
        rows = torch.randint(0, 8, (256,))
        found = set()
        for _ in range(50):
            leaf = embeddings.clone().requires_grad_()
            rows_of(leaf, rows).backward(outer)
            found.add(leaf.grad.numpy().tobytes())
        torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf).index_add(0, rows, outer))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
