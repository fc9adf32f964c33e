"""Losses of metric learning: values by hand, nested loops, and equality with pytorch-metric-learning."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    MultiSimilarityLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import BatchEasyHardMiner
from pytorch_metric_learning.reducers import DoNothingReducer

from aisle.losses.arcface import arcface
from aisle.losses.circle import circle
from aisle.losses.contrastive import contrastive
from aisle.losses.multi_similarity import multi_similarity
from aisle.losses.online_contrastive import online_contrastive
from aisle.losses.positive_sets import PositiveSets
from aisle.losses.triplet import triplet
from tests.losses.anchors import anchors_of, diagonal, exclusions, random_anchors
from tests.losses.vectors import at, exact, gradients, unit

KINDS = ["all", "hard", "semi_hard"]


def negatives_of(anchors, row, count):
    start, end = anchors.not_negative_products.ends[row : row + 2]
    return sorted(set(range(count)) - set(anchors.not_negative_products.columns[start:end].tolist()))


def by_loops(term, queries, products, anchors):
    """Return term(cosine of the pair, cosines of its negatives) of each anchor."""
    found = []
    for row, (query, own) in enumerate(zip(anchors.queries.tolist(), anchors.products.tolist(), strict=True)):
        wrong = [queries[query] @ products[column] for column in negatives_of(anchors, row, len(products))]
        found.append(term(queries[query] @ products[own], wrong))
    return torch.stack(found)


def triplet_term(own, wrong, *, margin, mining):
    if not wrong:
        return own * 0
    losses = [(margin - own + one).clamp(min=0) for one in wrong]
    if mining == "all":
        return sum(losses) / len(losses)
    if mining == "hard":
        return (margin - own + max(wrong)).clamp(min=0)
    below = [one for one in wrong if one < own]
    return (margin - own + (max(below) if below else min(wrong))).clamp(min=0)


def contrastive_term(own, wrong, *, margin, mining):
    apart = [(margin - 1 + one).clamp(min=0) ** 2 for one in wrong] or [own * 0]
    return ((1 - own) ** 2 + (max(apart) if mining == "hard" else sum(apart) / len(apart))) / 2


def test_triplet_has_the_values_computed_by_hand():
    """Cosines with the query: .5 (its product), then cos 45 = .71, cos 75 = .26 and cos 90 = 0."""
    embeddings = at(0), at(60, 45, 75, 90)
    anchors = anchors_of([(0, 0)])
    c45, c75 = math.cos(math.radians(45)), math.cos(math.radians(75))

    found = [triplet(*embeddings, anchors, margin=0.4, mining=mining).item() for mining in KINDS]

    expected = [((c45 - 0.1) + (c75 - 0.1) + 0) / 3, c45 - 0.1, c75 - 0.1]
    assert found == pytest.approx(expected)
    # Without a negative below the positive, semi-hard takes the lowest: cos 45 of cos 45 and 1.
    found = triplet(at(0), at(60, 45, 0), anchors_of([(0, 0)]), margin=0.4, mining="semi_hard").item()
    assert found == pytest.approx(0.4 - 0.5 + c45)


def test_contrastive_has_the_values_computed_by_hand():
    """Distances .5, .5, 1 and 0 with relevance 1, 0, 0 and .25, margin .75."""
    losses = contrastive(at(0, 0, 0, 0), at(60, 60, 90, 0), exact([1, 0, 0, 0.25]), margin=0.75)
    expected = [0.25, 0.25**2, 0, 0.75 * 0.75**2]
    torch.testing.assert_close(losses, exact(expected) / 2)


def test_online_contrastive_has_the_values_computed_by_hand():
    """Distances .5 to the product, .29 and 1 to the others, margin .5."""
    near = 0.5 - (1 - math.cos(math.radians(45)))
    for mining, apart in (("hard", near**2), ("all", near**2 / 2)):
        (found,) = online_contrastive(at(0), at(60, 45, 90), anchors_of([(0, 0)]), margin=0.5, mining=mining)
        assert found.item() == pytest.approx((0.25 + apart) / 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("function", "term", "mining"),
    [
        *((triplet, triplet_term, mining) for mining in KINDS),
        *((online_contrastive, contrastive_term, mining) for mining in ("hard", "all")),
    ],
)
def test_values_and_gradients_equal_nested_loops(function, term, mining, seed):
    queries, products = unit(6, seed=seed), unit(9, seed=seed + 10)
    anchors = random_anchors(11, 6, 9, seed=seed)
    options = {"margin": 0.7, "mining": mining}
    computed = partial(function, anchors=anchors, **options)
    expected = partial(by_loops, partial(term, **options), anchors=anchors)

    losses = computed(queries, products)

    torch.testing.assert_close(losses, expected(queries=queries, products=products))
    torch.testing.assert_close(
        gradients(lambda q, p: computed(q, p), queries, products),
        gradients(lambda q, p: expected(queries=q, products=p), queries, products),
    )
    blocks = [function(queries, products, anchors.block(start, start + 4), **options) for start in (0, 4, 8)]
    torch.testing.assert_close(torch.cat(blocks), losses)


@pytest.mark.parametrize("function", [triplet, online_contrastive])
@pytest.mark.parametrize("mining", ["all", "hard"])
def test_an_anchor_without_negatives_has_no_nan(function, mining):
    queries = unit(1).requires_grad_()
    losses = function(queries, unit(1), diagonal(1), margin=0.5, mining=mining)
    losses.sum().backward()
    assert losses.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(queries.grad).all()


LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])


def library(loss, **options):
    return loss(distance=CosineSimilarity(), reducer=DoNothingReducer(), **options)


def anchors_of_labels(pairs):
    same = [[j for j in range(8) if LABELS[j] == LABELS[i]] for i, _ in pairs]
    return anchors_of(pairs, products=same)


def all_pairs():
    return [(i, j) for i in range(8) for j in range(8) if i != j and LABELS[i] == LABELS[j]]


def test_triplet_over_all_negatives_equals_the_librarys_terms():
    embeddings = unit(8)
    found = library(TripletMarginLoss, margin=0.3)(embeddings, LABELS)["loss"]
    anchor, positive, _ = found["indices"]
    pairs = all_pairs()
    expected = [found["losses"][(anchor == i) & (positive == j)].mean() for i, j in pairs]

    losses = triplet(embeddings, embeddings, anchors_of_labels(pairs), margin=0.3, mining="all")

    torch.testing.assert_close(losses, torch.stack(expected))


@pytest.mark.parametrize(("mining", "strategy"), [("hard", "hard"), ("semi_hard", "semihard")])
def test_triplet_with_mined_negatives_equals_the_librarys_terms(mining, strategy):
    embeddings = unit(8, 3)
    miner = BatchEasyHardMiner(pos_strategy="easy", neg_strategy=strategy, distance=CosineSimilarity())
    anchor, positive, _, negative = miner(embeddings, LABELS)
    compare = library(TripletMarginLoss, margin=0.9)
    found = compare(embeddings, LABELS, (anchor, positive, negative))["loss"]["losses"]
    pairs = list(zip(anchor.tolist(), positive.tolist(), strict=True))

    losses = triplet(embeddings, embeddings, anchors_of_labels(pairs), margin=0.9, mining=mining)

    assert len(pairs) >= 4
    torch.testing.assert_close(losses, found)


def test_online_contrastive_equals_squares_of_the_librarys_terms():
    """The library's terms for cosines are max(0, 1 - cos) and max(0, cos - neg_margin), not squared."""
    embeddings = unit(8, 3)
    pairs = all_pairs()
    found = library(ContrastiveLoss, pos_margin=1, neg_margin=0.5)(embeddings, LABELS)
    (a1, p), (a2, _) = (found[f"{side}_loss"]["indices"] for side in ("pos", "neg"))
    own, wrong = (found[f"{side}_loss"]["losses"] ** 2 for side in ("pos", "neg"))
    expected = [(own[(a1 == i) & (p == j)][0] + wrong[a2 == i].max()) / 2 for i, j in pairs]

    losses = online_contrastive(embeddings, embeddings, anchors_of_labels(pairs), margin=0.5, mining="hard")

    torch.testing.assert_close(losses, torch.stack(expected))


def sets_of_labels():
    rows = [i for i in range(8) if sum(LABELS[i] == LABELS) > 1]
    alike = [[j for j in range(8) if LABELS[j] == LABELS[i]] for i in rows]
    return PositiveSets(
        torch.tensor(rows),
        exclusions([[j for j in columns if j != i] for i, columns in zip(rows, alike, strict=True)]),
        exclusions(alike),
    )


QUERY_LOSSES = [
    (partial(multi_similarity, alpha=2, beta=50, base=0.5), partial(library, MultiSimilarityLoss)),
    (partial(circle, margin=0.4, gamma=80), partial(library, CircleLoss)),
]


@pytest.mark.parametrize(("function", "loss"), QUERY_LOSSES, ids=["multi_similarity", "circle"])
def test_losses_of_queries_equal_the_library_over_labels(function, loss):
    embeddings, sets = unit(8, 3), sets_of_labels()
    whole = loss()(embeddings, LABELS)["loss"]["losses"].reshape(-1)

    losses = function(embeddings, embeddings, sets)

    torch.testing.assert_close(losses, whole[sets.queries])
    blocks = [function(embeddings, embeddings, sets.block(start, start + 3)) for start in (0, 3, 6)]
    torch.testing.assert_close(torch.cat(blocks), losses)
    expected = gradients(lambda e: loss()(e, LABELS)["loss"]["losses"].reshape(-1)[sets.queries], embeddings)
    # The library rescales embeddings, which removes the part of the gradient along them.
    rescaled = partial(torch.nn.functional.normalize, dim=1)
    found = gradients(lambda e: function(rescaled(e), rescaled(e), sets), embeddings)
    torch.testing.assert_close(found, expected)


def multi_similarity_by_loops(own, wrong):
    terms = [sum(math.exp(-2 * (one - 0.5)) for one in own), sum(math.exp(50 * (one - 0.5)) for one in wrong)]
    return math.log(1 + terms[0]) / 2 + math.log(1 + terms[1]) / 50


def circle_by_loops(own, wrong):
    right = sum(math.exp(-80 * max(0, 1.4 - one) * (one - 0.6)) for one in own)
    return math.log(1 + right * sum(math.exp(80 * max(0, one + 0.4) * (one - 0.4)) for one in wrong))


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [(QUERY_LOSSES[0][0], multi_similarity_by_loops), (QUERY_LOSSES[1][0], circle_by_loops)],
    ids=["multi_similarity", "circle"],
)
def test_a_single_positive_and_a_single_negative_have_their_loss(function, by_hand):
    """The library's forward returns 0 here, which a process with a single query must not do."""
    embeddings = at(0), at(20, 60, 70)
    one = PositiveSets(torch.tensor([0]), exclusions([[0]]), exclusions([[0, 2]]))
    cosines = [math.cos(math.radians(angle)) for angle in (20, 60)]

    assert function(*embeddings, one).item() == pytest.approx(by_hand(cosines[:1], cosines[1:]))
    two = PositiveSets(torch.tensor([0]), exclusions([[0, 1]]), exclusions([[0, 1]]))
    expected = by_hand(cosines, [math.cos(math.radians(70))])
    assert function(*embeddings, two).item() == pytest.approx(expected)


def test_arcface_has_the_value_computed_by_hand():
    """A text at 30 degrees from its group and 60 from the other; margin 15 degrees; scale 2."""
    losses = arcface(at(30), at(30), torch.tensor([0]), 3 * at(0, 90), margin=math.pi / 12, scale=2)
    own, other = 2 * math.cos(math.radians(45)), 2 * math.cos(math.radians(60))
    assert losses.item() == pytest.approx(math.log(math.exp(own) + math.exp(other)) - own)


def test_arcface_and_its_gradients_equal_the_library():
    embeddings = torch.cat([unit(8), -unit(4, seed=3)[:1]])  # and an angle beyond pi - margin
    labels = torch.tensor([*LABELS.tolist(), 3])
    weights = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights[3] = unit(4, seed=3)[0] * 2
    loss = library(ArcFaceLoss, num_classes=4, embedding_size=8, margin=np.degrees(0.5), scale=16)

    def expected(values, vectors):
        loss.W.data = vectors.detach().T.contiguous()
        return loss(values, labels)["loss"]["losses"]

    def found(values, vectors):
        return arcface(values, values, labels, vectors, margin=0.5, scale=16)

    torch.testing.assert_close(found(embeddings, weights), expected(embeddings, weights).detach())
    values, vectors = embeddings[:8].clone().requires_grad_(), weights.clone().requires_grad_()
    arcface(values, values, labels[:8], vectors, margin=0.5, scale=16).sum().backward()
    other = embeddings[:8].clone().requires_grad_()
    loss.W.grad = None
    loss.W.data = weights.T.contiguous()
    loss(other, labels[:8])["loss"]["losses"].sum().backward()
    torch.testing.assert_close(vectors.grad, loss.W.grad.T)
    # The library rescales embeddings itself, which removes the part of the gradient along them.
    along = (values.grad * values).sum(dim=1, keepdim=True) * values
    torch.testing.assert_close((values.grad - along).detach(), other.grad)


def test_arcface_is_finite_for_a_text_that_equals_its_group_or_its_opposite():
    texts = at(0, 180).float().requires_grad_()
    losses = arcface(texts, texts, torch.tensor([0, 0]), at(0, 90).float(), margin=0.5, scale=64)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(texts.grad).all()
