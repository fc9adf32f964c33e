import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from aisle.losses import (
    Anchors,
    Exclusions,
    cosent,
    cosine_target,
    in_batch,
    listwise,
    listwise_weight,
    rows_of,
)

OTHER_DIRECTIONS = ("product_to_query", "query_to_query", "product_to_product")
ALL_DIRECTIONS = ("query_to_product", *OTHER_DIRECTIONS)
SUBSETS = [
    ("query_to_product", *others) for size in range(4) for others in combinations(OTHER_DIRECTIONS, size)
]

# Unit vectors in the plane by their angle in degrees, so that cosines are known by hand.


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def unit(count, dim=8, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def exclusions(rows):
    """Return the compressed rows of lists of columns."""
    ends = np.cumsum([0, *(len(columns) for columns in rows)])
    columns = [column for row in rows for column in row]
    return Exclusions(torch.tensor(ends), torch.tensor(columns, dtype=torch.int64))


def anchors_of(pairs, *, products=None, queries=None):
    """Return anchors that exclude their own texts and the columns given for each row besides."""
    queries_of, products_of = [query for query, _ in pairs], [product for _, product in pairs]

    def with_own(own, more):
        more = more or [[] for _ in own]
        return exclusions([[column, *columns] for column, columns in zip(own, more, strict=True)])

    return Anchors(
        queries=torch.tensor(queries_of, dtype=torch.int64),
        products=torch.tensor(products_of, dtype=torch.int64),
        not_negative_products=with_own(products_of, products),
        not_negative_queries=with_own(queries_of, queries),
    )


def diagonal(count):
    return anchors_of([(row, row) for row in range(count)])


def random_anchors(count, query_count, product_count, *, seed=0):
    """Return anchors among more products than queries, some of them twice, with random exclusions."""
    random = np.random.default_rng(seed)
    pairs = [(int(random.integers(query_count)), int(random.integers(product_count))) for _ in range(count)]
    pairs[-1] = pairs[0]

    def more(columns):
        return [random.permutation(columns)[: random.integers(columns)].tolist() for _ in pairs]

    return anchors_of(pairs, products=more(product_count), queries=more(query_count))


def in_batch_by_loops(queries, products, anchors, *, temperature, directions):
    """Return the losses as the formula says them, one exponential after another."""
    losses = []
    for row in range(len(anchors)):
        query, product = queries[anchors.queries[row]], products[anchors.products[row]]
        negatives = {}
        for side, embeddings, excluded in (
            ("product", products, anchors.not_negative_products),
            ("query", queries, anchors.not_negative_queries),
        ):
            own = excluded.columns[excluded.indptr[row] : excluded.indptr[row + 1]].tolist()
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


def cosent_by_pairs(queries, products, relevance, *, temperature):
    """Return the loss from the matrix of all margins."""
    cosine = (queries * products).sum(dim=1)
    margins = (cosine[:, None] - cosine[None, :]) / temperature
    total = (margins.exp() * (relevance[:, None] < relevance[None, :])).sum()
    return torch.log1p(total).expand(len(cosine))


def listwise_by_loops(queries, products, relevance, query_keys, *, temperature):
    """Return the parts of each query's cross-entropy, one query after another."""
    scores = (queries * products).sum(dim=1) / temperature
    losses = torch.zeros_like(scores)
    for key in set(query_keys.tolist()):
        rows = query_keys == key
        if relevance[rows].sum() > 0:
            targets = relevance[rows] / relevance[rows].sum()
            losses[rows] = -targets * scores[rows].log_softmax(dim=0)
    return losses


def gradients(loss, *inputs):
    """Return the gradients of the sum of `loss` of copies of the inputs."""
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    loss(*inputs).sum().backward()
    return [value.grad for value in inputs]


def test_cosine_target_has_the_values_of_the_formula():
    """Cosines 0.5, 0.5, -0.5, 0.5 and 1 with relevance 1, 0, 0, 0.25 and 1."""
    queries = at(0, 0, 0, 0, 0)
    products = at(60, 60, 120, 60, 0)

    losses = cosine_target(queries, products, exact([1, 0, 0, 0.25, 1]))

    graded = (0.25 * 0.5 + 0.75 * 0.5) ** 2
    torch.testing.assert_close(losses, exact([0.25, 0.25, 0, graded, 0]))


def test_cosine_target_at_a_negative_cosine_only_pulls():
    (loss,) = cosine_target(at(0), at(180), exact([0.25]))

    assert loss.item() == pytest.approx((0.25 * 2) ** 2)


def test_cosine_target_equals_the_formula_of_the_example_on_a_batch():
    queries, products = unit(16), unit(16, seed=1)
    relevance = torch.linspace(0, 1, 16, dtype=torch.float64)

    losses = cosine_target(queries, products, relevance)

    cosine = nn.functional.cosine_similarity(queries, products)
    expected = torch.square(relevance * (1 - cosine) + torch.clamp((1 - relevance) * cosine, min=0.0))
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("relevance", "sign"), [(1.0, 1), (0.0, -1)])
def test_a_step_of_cosine_target_moves_the_cosine_the_right_way(relevance, sign):
    queries = at(0).requires_grad_()
    products = at(60)

    cosine_target(queries, products, exact([relevance])).sum().backward()

    moved = nn.functional.normalize(queries - 0.1 * queries.grad, dim=1)
    assert sign * ((moved * products).sum() - 0.5).item() > 0


ROWS = exclusions([[4, 1], [], [2], [0, 3, 1]])


def test_a_block_of_exclusions_holds_the_columns_of_its_rows():
    block = ROWS.block(1, 4)

    assert block.indptr.tolist() == [0, 0, 1, 4]
    assert block.columns.tolist() == [2, 0, 3, 1]


def test_exclusions_name_the_row_of_every_column():
    assert ROWS.rows().tolist() == [0, 0, 2, 3, 3, 3]


def test_an_empty_block_of_exclusions_holds_nothing():
    block = ROWS.block(2, 2)

    assert block.indptr.tolist() == [0]
    assert block.columns.tolist() == []
    assert block.rows().tolist() == []


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
def test_what_is_excluded_neither_counts_nor_gets_a_gradient(directions):
    """The last query and product are excluded for every anchor: as if they were not there."""
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
def test_the_order_of_anchors_and_texts_only_orders_the_losses(directions):
    queries, products = unit(4), unit(4, seed=1)
    options = {"temperature": 1.0, "directions": directions}
    anchors = anchors_of([(0, 0), (1, 1), (2, 2)], products=[[1], [], [3]], queries=[[], [3], [0]])

    losses = in_batch(queries, products, anchors, **options)

    # Rows are now counted from the end (3 - row), and the anchors come the other way round.
    flipped = anchors_of([(1, 1), (2, 2), (3, 3)], products=[[0], [], [2]], queries=[[3], [0], []])
    other = in_batch(queries.flip(0), products.flip(0), flipped, **options)
    torch.testing.assert_close(other, losses.flip(0))


@pytest.mark.parametrize("directions", SUBSETS, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_anchor_without_negatives_has_loss_zero_and_no_gradient(directions, dtype):
    """The first anchor excludes everything, the second nothing but its own texts."""
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


def test_an_anchor_without_negatives_makes_no_nan_on_the_way_back():
    """A NaN that a later step masks is still an error to who looks for one with anomaly detection."""
    queries = unit(1).requires_grad_()

    with torch.autograd.set_detect_anomaly(True):
        losses = in_batch(queries, unit(1), diagonal(1), temperature=0.05, directions=ALL_DIRECTIONS)
        losses.sum().backward()

    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_without_exclusions_the_own_texts_are_negatives_too():
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
def test_gradients_of_in_batch_are_those_of_finite_differences(directions):
    anchors = random_anchors(5, 3, 4)

    def loss(queries, products, temperature):
        return in_batch(queries, products, anchors, temperature=temperature, directions=directions)

    inputs = [unit(3), unit(4, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_in_batch_is_float32_and_finite_at_a_small_temperature():
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
def test_directions_without_query_to_product_are_refused_with_what_was_found(directions):
    with pytest.raises(ValueError, match="'query_to_product'") as caught:
        in_batch(unit(2), unit(2), diagonal(2), temperature=0.05, directions=directions)

    assert str(sorted(directions)) in str(caught.value)


def test_cosent_has_the_value_computed_by_hand():
    """Cosines 0.5, 0 and 1 with relevance 1, 0.1 and 0: two of three orders are wrong."""
    losses = cosent(at(0, 0, 0), at(60, 90, 0), exact([1.0, 0.1, 0.0]), temperature=0.5)

    e = math.exp
    expected = math.log(1 + e((0 - 0.5) / 0.5) + e((1 - 0.5) / 0.5) + e((1 - 0) / 0.5))
    torch.testing.assert_close(losses, exact([expected] * 3))


@pytest.mark.parametrize(
    "relevance",
    [
        [0.1, 1, 0, 0.01, 1, 0, 0.1, 0.1, 0, 1, 0.01, 0],
        [0, 1] * 6,
        [1, 0.5, *[0] * 10],
        [0, *[1] * 11],
        [row / 11 for row in range(12)],
        [1 - row / 11 for row in range(12)],
    ],
    ids=["graded", "binary", "few high", "one low", "rising", "falling"],
)
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_cosent_equals_the_sum_over_all_pairs_of_pairs(relevance, temperature):
    queries, products, relevance = unit(12), unit(12, seed=1), exact(relevance)

    losses = cosent(queries, products, relevance, temperature=temperature)
    found = gradients(lambda q, p: cosent(q, p, relevance, temperature=temperature), queries, products)

    expected = cosent_by_pairs(queries, products, relevance, temperature=temperature)
    torch.testing.assert_close(losses, expected)
    expected = gradients(
        lambda q, p: cosent_by_pairs(q, p, relevance, temperature=temperature), queries, products
    )
    torch.testing.assert_close(found, expected)


def test_the_order_of_the_pairs_does_not_change_cosent():
    queries, products = unit(9), unit(9, seed=1)
    relevance = exact([0, 1, 0.1, 0.1, 0, 1, 0, 0.1, 0.01])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))

    losses = cosent(queries, products, relevance, temperature=0.05)
    shuffled = cosent(queries[order], products[order], relevance[order], temperature=0.05)

    torch.testing.assert_close(shuffled, losses)


@pytest.mark.parametrize(("count", "relevance"), [(1, 0.0), (1, 1.0), (3, 0.0), (3, 1.0)])
def test_cosent_of_equally_relevant_pairs_is_zero_with_gradients_zero(count, relevance):
    queries, temperature = unit(count).requires_grad_(), exact(0.05).requires_grad_()

    losses = cosent(queries, unit(count, seed=1), torch.full((count,), relevance), temperature=temperature)
    losses.sum().backward()

    assert losses.tolist() == [0] * count
    assert torch.equal(queries.grad, torch.zeros_like(queries))
    assert temperature.grad.item() == 0


def test_cosent_falls_when_a_wrong_order_is_put_right():
    relevance = torch.tensor([1.0, 0.0])

    wrong = cosent(at(0, 0), at(90, 0), relevance, temperature=0.05)[0]
    right = cosent(at(0, 0), at(0, 90), relevance, temperature=0.05)[0]

    assert wrong.item() == pytest.approx(20, abs=1e-6)
    assert right.item() == pytest.approx(0, abs=1e-6)


def test_gradients_of_cosent_are_those_of_finite_differences():
    relevance = exact([0, 1, 0.1, 0.1, 0, 1])

    def loss(queries, products, temperature):
        return cosent(queries, products, relevance, temperature=temperature)

    inputs = [unit(6), unit(6, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_cosent_stays_finite_where_all_orders_are_wrong_at_a_small_temperature():
    queries = at(0, 0, 0, 0).float().requires_grad_()

    losses = cosent(queries, at(180, 180, 0, 0).float(), torch.tensor([1.0, 1, 0, 0]), temperature=0.001)
    losses.sum().backward()

    assert losses[0].item() == pytest.approx(2000 + math.log(4), rel=1e-6)
    assert torch.isfinite(queries.grad).all()


@pytest.mark.parametrize("levels", [4, 20_000])
def test_cosent_of_twenty_thousand_pairs_in_float32_is_close_to_float64(levels):
    queries, products = unit(20_000, 4), unit(20_000, 4, seed=1)
    relevance = torch.randint(levels, (20_000,), generator=torch.Generator().manual_seed(2)) / levels

    def loss(queries):
        return cosent(queries, products.to(queries.dtype), relevance, temperature=0.05)[:1]

    exactly = loss(queries)
    torch.testing.assert_close(loss(queries.float()).double(), exactly, rtol=1e-5, atol=0)
    (found,), (expected,) = gradients(loss, queries.float()), gradients(loss, queries)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def test_cosent_of_twenty_thousand_pairs_equals_the_sum_over_pairs_of_levels():
    """Over levels a < b the sum of exp(s_i - s_j) is that of exp(s_i) times that of exp(-s_j)."""
    queries, products = unit(20_000, 4), unit(20_000, 4, seed=1)
    levels = torch.randint(4, (20_000,), generator=torch.Generator().manual_seed(2))

    losses = cosent(queries, products, levels / 4, temperature=0.5)

    scores = (queries * products).sum(dim=1) / 0.5
    total = sum(
        scores[levels == low].exp().sum() * (-scores[levels == high]).exp().sum()
        for low, high in combinations(range(4), 2)
    )
    torch.testing.assert_close(losses, torch.log1p(total).expand(20_000))


def test_listwise_has_the_value_computed_by_hand():
    """Cosines 0.5, 0 and 1 of one query, relevance 0.5, 0 and 0.25: targets 2/3, 0 and 1/3."""
    losses = listwise(
        at(0, 0, 0), at(60, 90, 0), exact([0.5, 0, 0.25]), torch.tensor([7, 7, 7]), temperature=0.5
    )

    total = math.log(math.exp(1) + math.exp(0) + math.exp(2))
    torch.testing.assert_close(losses, exact([2 / 3 * (total - 1), 0, 1 / 3 * (total - 2)]))


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_listwise_equals_one_query_after_another(temperature):
    """Five queries in any order, one of them without relevance, one with a single pair."""
    queries, products = unit(12), unit(12, seed=1)
    keys = torch.tensor([5, -3, 5, 90, 11, -3, 5, 90, 90, 2, -3, 5])
    relevance = exact([1, 0.1, 0, 0, 0.3, 1, 0.01, 0, 0, 1, 0, 1])

    losses = listwise(queries, products, relevance, keys, temperature=temperature)
    found = gradients(
        lambda q, p: listwise(q, p, relevance, keys, temperature=temperature), queries, products
    )

    expected = listwise_by_loops(queries, products, relevance, keys, temperature=temperature)
    torch.testing.assert_close(losses, expected)
    expected = gradients(
        lambda q, p: listwise_by_loops(q, p, relevance, keys, temperature=temperature), queries, products
    )
    torch.testing.assert_close(found, expected)


def test_listwise_losses_of_a_query_do_not_depend_on_the_other_queries():
    queries, products = unit(6), unit(6, seed=1)
    keys, relevance = torch.tensor([1, 0, 1, 0, 1, 2]), exact([1, 1, 0, 0.1, 0.1, 1])

    losses = listwise(queries, products, relevance, keys, temperature=0.05)

    for key in range(3):
        rows = keys == key
        alone = listwise(queries[rows], products[rows], relevance[rows], keys[rows], temperature=0.05)
        torch.testing.assert_close(losses[rows], alone)


def test_relevance_counts_in_proportion_only_in_listwise():
    queries, products, keys = unit(4), unit(4, seed=1), torch.tensor([0, 0, 1, 1])
    relevance = exact([1, 0.5, 0.2, 0.8])

    losses = listwise(queries, products, relevance, keys, temperature=0.05)
    halved = listwise(queries, products, relevance / 2, keys, temperature=0.05)

    torch.testing.assert_close(halved, losses)


def test_listwise_of_queries_without_relevance_is_zero_with_gradients_zero():
    queries = unit(3).requires_grad_()

    losses = listwise(queries, unit(3, seed=1), torch.zeros(3), torch.tensor([0, 0, 1]), temperature=0.05)
    losses.sum().backward()

    assert losses.tolist() == [0, 0, 0]
    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_gradients_of_listwise_are_those_of_finite_differences():
    relevance, keys = exact([0, 1, 0.1, 0.5, 0, 1]), torch.tensor([0, 1, 0, 0, 1, 2])

    def loss(queries, products, temperature):
        return listwise(queries, products, relevance, keys, temperature=temperature)

    inputs = [unit(6), unit(6, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_listwise_is_float32_and_finite_at_a_small_temperature():
    """Scores of 1000 and -1000 in one query, of -1000 alone in the other: each softmax has its own peak."""
    queries = at(0, 0, 0, 0).float().requires_grad_()
    products, keys = at(0, 180, 180, 180).float(), torch.tensor([0, 0, 1, 1])

    losses = listwise(queries, products, exact([1, 1, 1, 1]), keys, temperature=0.001)
    losses.sum().backward()

    half = math.log(2) / 2
    torch.testing.assert_close(losses, torch.tensor([0, 1000, half, half]))
    assert torch.isfinite(queries.grad).all()


def test_listwise_weight_counts_queries_with_some_relevance():
    keys = np.array([5, 5, -3, 9, 9, 9, 7])
    relevance = np.array([0, 0.1, 0, 1, 0.5, 0, 1])

    assert listwise_weight(relevance, keys) == 3
    assert listwise_weight(np.zeros(7), keys) == 0
    assert listwise_weight(np.array([]), np.array([], dtype=np.int64)) == 0


def test_gradients_of_texts_that_occur_often_are_the_same_to_the_bit():
    """Plain indexing adds them up in the order in which threads come by, from 32,768 numbers on."""
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
