"""Triples and natural language inference, from flags to a saved model measured on rated sentence pairs."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

import aisle
from aisle.cli import main
from aisle.errors import ConfigError, DataError

NOUNS = ["sofa", "lamp", "table", "chair", "bed", "rug", "desk", "shelf"]
NLI = [
    {"premise": f"a red {noun}", "hypothesis": text, "label": label}
    for number, noun in enumerate(NOUNS)
    for text, label in (
        (f"a {noun}", 0),
        (f"the {noun} is here", 0),
        (f"a blue {noun} {number}", 2),
        (f"maybe a {noun}", 1),
        (f"unclear {noun}", -1),
    )
]
STS = [
    (f"a {first}", f"one {second}", 5 if first == second else (number + other) % 4)
    for number, first in enumerate(NOUNS)
    for other, second in enumerate(NOUNS)
]
SETTINGS = {
    "train_format": "nli",
    "use_peft": True,
    "max_train_steps": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.001,
    "logging_steps": 1,
    "loss": "in_batch",
}


@pytest.fixture(scope="module")
def sts(tmp_path_factory):
    path = tmp_path_factory.mktemp("sts") / "sts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("split", "sentence1", "sentence2", "score"), *(("dev", *row) for row in STS)]
        )
    return str(path)


@pytest.fixture
def train(tiny_bert, tmp_path):
    def call(rows, **settings):
        given = {"model_name_or_path": tiny_bert, **SETTINGS, **settings}
        return aisle.train(train_data=rows, output_dir=tmp_path / "run", **given)

    return call


def test_triples_are_trained_and_selected_by_the_rank_correlation_of_rated_pairs(train, sts, capsys):
    finished = train(NLI, validation_data=sts, label_max=5, selection="spearman", warmup_share=0.5)
    metrics = finished.metrics
    encoder = aisle.load_encoder(finished.run_dir)
    queries, products = (encoder.encode_queries([row[side] for row in STS]) for side in (0, 1))
    expected = spearmanr(np.sum(queries * products, axis=1), [row[2] for row in STS]).statistic

    assert metrics["selection_metric"] == "spearman"
    assert metrics["train_pairs"] == 2 * len(NOUNS)
    assert metrics["validation_pairs"] == len(STS)
    assert metrics["best"]["spearman"] == pytest.approx(expected, abs=1e-6)
    assert metrics["best"]["spearman"] == max(entry["spearman"] for entry in metrics["history"])
    logged = [json.loads(line) for line in (finished.run_dir / "log.jsonl").read_text().splitlines()]
    assert [entry["learning_rate"] for entry in logged] == pytest.approx([0.0005, 0.001, 0.0005, 0])

    capsys.readouterr()
    arguments = ["evaluate", "--model", str(finished.run_dir), "--pairs", sts, "--label_max", "5", "--json"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["pairs"]["rows"]
    tuned = next(row for row in rows if row["name"] == "tuned")
    assert tuned["metrics"]["spearman"]["value"] == pytest.approx(expected, abs=1e-6)


def test_triples_in_columns_of_other_names_validate_on_triples_too(train, tmp_path):
    rows = [{"a": f"red {noun}", "b": noun, "c": f"no {noun}"} for noun in NOUNS]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished = train(rows, train_format="triples", validation_data=str(path))
    assert finished.metrics["selection_metric"] == "mrr"
    assert finished.metrics["validation_pairs"] == len(NOUNS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection": "spearman"}, "--selection spearman: needs labelled pairs"),
        ({"label_max": 5}, "--label_max: the data has no label column"),
        ({"train_format": "triples"}, "--train_format triples needs a column of anchors"),
    ],
)
def test_settings_that_do_not_fit_the_triples_are_one_message(train, settings, message):
    with pytest.raises((ConfigError, DataError)) as refused:
        train(NLI, **settings)
    assert str(refused.value).partition("\n")[0].find(message) >= 0


def test_the_rank_correlation_needs_more_than_two_levels(train):
    pairs = [{"query": f"a {noun}", "product": noun, "relevance": n % 2} for n, noun in enumerate(NOUNS)]
    with pytest.raises(ConfigError, match=r"--selection spearman: needs graded pairs, .* 2 distinct values"):
        train(NLI, validation_data=pairs, selection="spearman")
