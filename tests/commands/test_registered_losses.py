"""Losses that are registered from outside `src`: their flags, checks, training and model card."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
import torch
import yaml
from pydantic import Field

import aisle
from aisle.cli import train_main
from aisle.losses.anchors import Anchors
from aisle.losses.embedding_rows import pair_cosines, rows_of
from aisle.losses.parameters import Parameters
from aisle.losses.registry import loss_named, register, registered_losses, unregister
from aisle.losses.specification import Comparison, Loss
from tests.commands.conftest import write_rows
from tests.commands.triplet_loss import TRIPLET, triplet


@dataclass(frozen=True)
class MarginMseParameters(Parameters):
    """The parameters of margin_mse."""

    score_scale: Annotated[float, Field(gt=0)] = 1.0
    """Differences of cosines are multiplied by it before they are compared with the teacher's."""

    def problems(self) -> Iterator[str]:
        """Yield a message for an impossible scale."""
        if self.score_scale > 1000:
            yield f"--score_scale {self.score_scale:g}: must be at most 1000"


def margin_mse(query_embeddings, product_embeddings, query_keys, teacher_scores, *, score_scale):
    """Return for each pair the mean of (scale (cos_i - cos_j) - (t_i - t_j))^2 over its query's pairs j."""
    scores = pair_cosines(query_embeddings, product_embeddings) * score_scale - teacher_scores
    same = (query_keys[:, None] == query_keys[None, :]).to(scores.dtype)
    return (same * (scores[:, None] - scores[None, :]) ** 2).sum(dim=1) / same.sum(dim=1)


def queries_with_two_products(batch, parameters):
    _, query, sizes = np.unique(batch.query_keys, return_inverse=True, return_counts=True)
    return (sizes > 1)[query]


MARGIN_MSE = Loss(
    name="pair_margin_mse",
    function=margin_mse,
    help="fits differences of cosines to a teacher's differences of scores",
    source="https://arxiv.org/abs/2010.02666",
    other_names=("MarginMSE",),
    inputs=("query_keys", "teacher_scores"),
    over_batch=True,
    parameters=MarginMseParameters,
    keeps_queries_together=True,
    comparison=Comparison(
        find=queries_with_two_products,
        nothing="no query has two products in a batch of {batch} pairs",
        remedy="Give a higher --per_device_train_batch_size",
    ),
)


@dataclass(frozen=True)
class HingeParameters(Parameters):
    """The parameters of in_batch_hinge."""

    in_batch_hinge_margin: float = 0.5
    """How much higher than a negative a positive should score."""


def in_batch_hinge(query_embeddings, product_embeddings, anchors: Anchors, *, margin):
    """Return for each anchor the sum of max(0, margin - cos(q, p) + cos(q, n)) over its negatives n."""
    queries = rows_of(query_embeddings, anchors.queries)
    own = pair_cosines(queries, rows_of(product_embeddings, anchors.products))
    losses = (margin - own[:, None] + queries @ product_embeddings.T).clamp(min=0)
    excluded = anchors.not_negative_products
    kept = torch.ones_like(losses)
    kept[excluded.rows, excluded.columns] = 0
    return (losses * kept).sum(dim=1)


IN_BATCH_HINGE = Loss(
    name="in_batch_hinge",
    function=in_batch_hinge,
    help="keeps a query's product ahead of the others by a margin",
    source="https://arxiv.org/abs/1503.03832",
    inputs=("anchors",),
    over_batch=True,
    unit="positive",
    parameters=HingeParameters,
)


@pytest.fixture
def registered():
    """Register losses until the test ends."""
    names = []

    def add(*losses):
        for loss in losses:
            register(loss)
            names.append(loss.name)

    yield add
    for name in names:
        unregister(name)


HEADER = ["query", "product", "teacher_score"]
ROWS = [
    ("red sofa", "sofa in red velvet", 0.9),
    ("red sofa", "blue velvet sofa", 0.4),
    ("red sofa", "desk lamp", -0.2),
    ("lamp", "wooden desk lamp", 1.5),
    ("lamp", "outdoor lamp", 1.25),
    ("bed", "bed of oak", 0.5),
]
HELD_OUT = [("chair", "garden chair"), ("table", "round table")]


@pytest.fixture
def train(tiny_bert, tmp_path, capfd):
    """Train for a step on rows in one batch; return the exit code, the output on one line, and the run."""

    def run(rows, *flags, header=HEADER, held_out=HELD_OUT):
        paths = [
            write_rows(tmp_path / "train.csv", header, rows),
            write_rows(
                tmp_path / "validation.csv", ["query", "product", "label"][: len(held_out[0])], held_out
            ),
        ]
        given = ["--use_peft", "--model_name_or_path", tiny_bert, "--output_dir", tmp_path / "run"]
        given += ["--train_file", paths[0], "--validation_file", paths[1], "--max_train_steps", 1]
        given += ["--logging_steps", 1, "--dropout", 0, "--max_length", 16, *flags]
        code = train_main([str(one) for one in given])
        printed = capfd.readouterr()
        return code, " ".join((printed.out + printed.err).split()), tmp_path / "run"

    return run


def cosines(model, queries, products):
    """The cosines of all queries with all products, by the model before training."""
    encoder = aisle.load_encoder(str(model))
    return encoder.encode_queries(queries) @ encoder.encode_products(products).T


def logged_loss(run_dir):
    return json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])["loss"]


def test_a_registered_loss_learns_from_teacher_scores_with_its_own_parameter(registered, train, tiny_bert):
    registered(MARGIN_MSE)
    code, said, run_dir = train(ROWS, "--loss", "pair_margin_mse", "--score_scale", 3)
    assert code == 0, said
    assert "teacher's score: teacher_score" in said
    found = cosines(tiny_bert, [q for q, _, _ in ROWS], [p for _, p, _ in ROWS]).diagonal()
    total = 0.0
    for query, _, score in ROWS:
        others = [(c, t) for (q, _, t), c in zip(ROWS, found, strict=True) if q == query]
        own = found[[row[2] for row in ROWS].index(score)]
        total += np.mean([(3 * (own - c) - (score - t)) ** 2 for c, t in others])
    assert logged_loss(run_dir) == pytest.approx(total / len(ROWS), rel=1e-4)
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (saved["loss"], saved["score_scale"], saved["group_by_query"]) == ("pair_margin_mse", 3.0, True)
    card = (run_dir / "README.md").read_text()
    assert "pair_margin_mse (MarginMSE): fits differences of cosines to a teacher's differences" in card
    assert "Score scale" in card
    assert "Temperature" not in card


def test_a_registered_loss_contrasts_positives_with_the_batch(registered, train, tiny_bert):
    registered(IN_BATCH_HINGE)
    pairs = [row[:2] for row in ROWS]
    flags = ["--loss", "in_batch_hinge", "--in_batch_hinge_margin", 0.75]
    code, said, run_dir = train(pairs, *flags, header=HEADER[:2])
    assert code == 0, said
    scores = cosines(tiny_bert, [q for q, _ in pairs], [p for _, p in pairs])
    total = sum(
        max(0.0, 0.75 - scores[row, row] + scores[row, other])
        for row, (query, _) in enumerate(pairs)
        for other, (partner, _) in enumerate(pairs)
        if partner != query  # the query's other products are positives too
    )
    assert logged_loss(run_dir) == pytest.approx(total / len(pairs), rel=1e-4)


TRIPLE_HEADER = ["query", "product", "label", "negative_1", "negative_2"]
TRIPLE_ROWS = [
    (
        "red sofa",
        "sofa in red velvet",
        1,
        "desk lamp",
        "blue velvet sofa",
    ),  # the second is a positive: next row
    ("red sofa", "blue velvet sofa", 1, "sofa in red velvet", "oak"),  # the first is a positive: row above
    ("lamp", "outdoor lamp", 1, "red sofa", "red sofa"),  # listed twice, counted once
    ("bed", "bed of oak", 1, "", ""),
    ("bed", "garden chair", 0, "oak", ""),  # not a positive
    ("chair", "wooden chair", 1, "garden chair", "blue velvet sofa"),
]
TRIPLES = [
    ("red sofa", "sofa in red velvet", "desk lamp"),
    ("red sofa", "blue velvet sofa", "oak"),
    ("lamp", "outdoor lamp", "red sofa"),
    ("chair", "wooden chair", "garden chair"),
    ("chair", "wooden chair", "blue velvet sofa"),
]
JUDGED_HELD_OUT = [("table", "round table", 1), ("table", "desk lamp", 0)]


def test_a_registered_loss_learns_from_triples(registered, train, tiny_bert):
    registered(TRIPLET)
    flags = ["--loss", "own_triplet", "--own_triplet_margin", 0.35]
    code, said, run_dir = train(TRIPLE_ROWS, *flags, header=TRIPLE_HEADER, held_out=JUDGED_HELD_OUT)
    assert code == 0, said
    encoder = aisle.load_encoder(str(tiny_bert))
    total = 0.0
    for query, right, wrong in TRIPLES:
        scores = encoder.encode_queries([query]) @ encoder.encode_products([right, wrong]).T
        total += max(0.0, 0.35 - scores[0, 0] + scores[0, 1])
    assert total > 0
    assert logged_loss(run_dir) == pytest.approx(total / len(TRIPLES), rel=1e-4)
    assert "own_triplet (TripletLoss): keeps a query's product ahead" in (run_dir / "README.md").read_text()


def test_a_loss_over_triples_is_refused_without_hard_negatives(registered, train):
    registered(TRIPLET)
    code, said, _ = train([row[:2] for row in ROWS], "--loss", "own_triplet", header=HEADER[:2])
    assert code == 2
    assert "--loss own_triplet: needs hard negatives, and the training pairs have none; give" in said
    rows = [(*row[:2], "", "") for row in ROWS]
    header = ["query", "product", "negative_1", "negative_2"]
    code, said, _ = train(rows, "--loss", "own_triplet", header=header)
    assert code == 2
    assert "--loss own_triplet: needs hard negatives, and the training pairs have none; give" in said


def test_a_loss_over_triples_is_refused_if_all_hard_negatives_are_known_to_be_right(registered, train):
    registered(TRIPLET)
    rows = [("bed", "bed of oak", "oak"), ("bed", "oak", "bed of oak")]
    code, said, _ = train(rows, "--loss", "own_triplet", header=["query", "product", "negative_1"])
    assert code == 2
    assert "--loss own_triplet: has nothing to learn from: no positive has a hard negative" in said


def test_help_names_registered_losses_and_their_parameters(registered, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    registered(MARGIN_MSE, IN_BATCH_HINGE, TRIPLET)
    with pytest.raises(SystemExit):
        train_main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "pair_margin_mse (MarginMSE) fits differences of cosines",
        "--score_scale FLOAT",
        "before they are compared with the teacher's",
        "--in_batch_hinge_margin FLOAT",
        "own_triplet (TripletLoss) keeps a query's product ahead of its own hard negatives",
        "--own_triplet_margin FLOAT",
        "in_batch (MultipleNegativesRanking, InfoNCE) ranks",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ("", "is blank"),
        ("nan", "is not a finite number"),
        ("-1e39", "is not between -1e+09 and 1e+09"),
        ("good", "is not a number"),
    ],
)
def test_a_teacher_score_that_is_not_a_number_is_a_bad_row(registered, train, score, reason):
    registered(MARGIN_MSE)
    code, said, _ = train([*ROWS, ("lamp", "lamp shade", score)], "--loss", "pair_margin_mse")
    assert code == 2
    assert f"teacher_score {reason}" in said


def test_missing_teacher_scores_are_refused(registered, train):
    registered(MARGIN_MSE)
    code, said, _ = train([row[:2] for row in ROWS], "--loss", "pair_margin_mse", header=HEADER[:2])
    assert code == 2
    assert "teacher_score" in said


def test_a_registered_loss_has_its_own_checks(registered, train):
    registered(MARGIN_MSE)
    code, said, _ = train(ROWS, "--loss", "pair_margin_mse", "--score_scale", 2000)
    assert (code, "--score_scale 2000: must be at most 1000" in said) == (2, True)
    code, said, _ = train(ROWS, "--loss", "pair_margin_mse", "--per_device_train_batch_size", 1)
    assert code == 2
    assert "has nothing to learn from: no query has two products in a batch of 1 pairs" in said


def test_settings_of_another_loss_are_named_as_unused(registered, train):
    registered(MARGIN_MSE)
    flags = ["--label_column", "none", "--score_scale", 2, "--teacher_score_column", "teacher_score"]
    _, said, _ = train(ROWS, *flags)
    assert "--score_scale is not used: the in_batch loss has none" in said
    assert "--teacher_score_column is not used: in_batch does not learn from teacher scores" in said


def altered(**changes):
    return Loss(**{"name": "other", "function": margin_mse, "help": "", "source": "", **changes})


@dataclass(frozen=True)
class TakenParameters(Parameters):
    """A parameter with the name of another loss's parameter."""

    temperature: float = 1.0
    """A temperature."""


def scaled(query_embeddings, product_embeddings, *, temperature):
    return pair_cosines(query_embeddings, product_embeddings) / temperature


def judged_triplet(query_embeddings, product_embeddings, triples, relevance, *, margin):
    return triplet(query_embeddings, product_embeddings, triples, margin=margin)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (altered(name="cosent"), "the name is taken"),
        (replace(TRIPLET, unit="pair"), r"\['triples'\] and its unit is 'pair'; a loss that"),
        (replace(MARGIN_MSE, unit="triple"), "its unit is 'triple'; a loss that takes triples"),
        (
            replace(TRIPLET, function=judged_triplet, inputs=("triples", "relevance")),
            "anchors, triples, positive_sets or scored_lists must be the only input",
        ),
        (altered(inputs=("query_keys",)), r"its function takes \['query_keys', 'score_scale', 'teacher_s"),
        (
            altered(function=scaled, parameters=TakenParameters),
            "'cosent' has a parameter temperature",
        ),
    ],
)
def test_a_loss_that_cannot_work_is_not_registered(loss, message):
    before = registered_losses()
    with pytest.raises(ValueError, match=message):
        register(loss)
    assert registered_losses() == before


def test_aisle_s_own_losses_are_found_in_their_files():
    assert [loss.name for loss in registered_losses()] == [
        *("arcface", "circle", "contrastive", "cosent", "cosine_target", "in_batch", "kl_divergence"),
        *("listwise", "margin_mse", "multi_similarity", "online_contrastive", "triplet"),
    ]
    assert loss_named("cosine_target").default_for == "labelled"
    assert loss_named("in_batch").default_for == "unlabelled"
