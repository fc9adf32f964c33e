"""Settings and data with which a run learns nothing or little."""

import json
import math

import pytest
import yaml

from aisle.cli import train_main
from tests.commands.conftest import write_rows

HEADER = ["query", "product", "relevance"]


@pytest.fixture
def train(tiny_bert, tmp_path, capfd):
    """Train for a step on pairs; return the exit code, the output on one line, and the run's folder."""

    def run(rows, *flags):
        path = write_rows(tmp_path / "pairs.csv", HEADER[: len(rows[0])], rows)
        given = ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run")]
        given += ["--train_file", str(path), "--max_length", "16", "--max_train_steps", "1", *map(str, flags)]
        code = train_main(given)
        said = capfd.readouterr()
        return code, " ".join((said.out + said.err).split()), tmp_path / "run"

    return run


def lists(queries, *, per_query=10):
    """Queries with a relevant product and others."""
    return [
        (f"query {query}", f"product {query} {item}", float(item == 0))
        for query in range(queries)
        for item in range(per_query)
    ]


def test_listwise_keeps_the_products_of_a_query_together(train):
    """Two products of the same of 1,000 queries are rarely in the same batch of 20 by chance."""
    flags = ["--loss", "listwise", "--per_device_train_batch_size", 20, "--temperature", 1]
    code, said, run_dir = train(lists(1000), *flags)
    assert code == 0
    assert "--group_by_query: turned on, as the listwise loss ranks a query's products within a batch" in said
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["group_by_query"] is True
    assert "learns from" not in said
    line = json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])
    # At this temperature the loss of a list of ten is about log 10; that of a pair alone is 0.
    assert line["loss"] == pytest.approx(math.log(10), abs=0.5)


ONE_A_QUERY = lists(40, per_query=1)
CLICKS = [row[:2] for row in ONE_A_QUERY]
IRRELEVANT = [(*row[:2], 0.0) for row in ONE_A_QUERY]
HALF = [(*row[:2], float(number % 2)) for number, row in enumerate(ONE_A_QUERY)]


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (IRRELEVANT, [], "--loss cosine_target: needs positives, and every training pair's relevance is 0"),
        (IRRELEVANT, ["--loss", "in_batch"], "--loss in_batch: needs positives"),
        (IRRELEVANT, ["--loss", "cosent"], "--loss cosent: needs positives"),
        (
            CLICKS,
            ["--per_device_train_batch_size", 1],
            "--loss in_batch: has nothing to learn from: no positive",
        ),
        (
            HALF,
            ["--loss", "cosent", "--per_device_train_batch_size", 1],
            "--loss cosent: has nothing to learn",
        ),
        (HALF, ["--loss", "listwise"], "--loss listwise: has nothing to learn from: no query has two judged"),
        (ONE_A_QUERY, ["--loss", "listwise"], "every training pair has relevance 1"),
        (ONE_A_QUERY, ["--loss", "cosent"], "every training pair has relevance 1"),
        (HALF, ["--learning_rate", 0], "--learning_rate"),
        (HALF, ["--temperature", 0, "--loss", "cosent"], "--temperature"),
        (HALF, ["--num_warmup_steps", 2], "--num_warmup_steps 2: must be at most"),
        (HALF, ["--lora_target_modules", "pooler.dense"], "no linear layer named pooler.dense"),
    ],
    ids=[
        *("irrelevant", "irrelevant in_batch", "irrelevant cosent", "in_batch of one", "cosent of one"),
        *("listwise of one", "listwise of equal", "cosent of equal", "no rate", "no temperature"),
        *("warm-up", "pooler"),
    ],
)
def test_a_run_that_would_learn_nothing_is_refused_at_its_start(train, rows, flags, message):
    code, said, run_dir = train(rows, *flags)
    assert code == 2
    assert message in said
    assert "before training" not in said
    assert not (run_dir / "aisle.json").exists()


ONE_OFTEN = [("query", f"product {n}") for n in range(8)] + [(f"q {n}", f"p {n}") for n in range(8)]


def test_a_batch_without_a_negative_is_refused_with_its_reason(train, tmp_path):
    """Eight pairs of the same query, kept together, fill a batch of eight."""
    validation = write_rows(tmp_path / "v.csv", HEADER[:2], [("v", "w"), ("x", "y")])
    flags = ["--validation_file", validation, "--per_device_train_batch_size", 8]
    code, said, run_dir = train(ONE_OFTEN, *flags, "--group_by_query")
    assert code == 2
    assert "--loss in_batch: batch " in said
    assert "of the first epoch has 8 pairs and no negative: all pairs have the same query" in said
    assert "or leave out --group_by_query" in said
    assert not (run_dir / "aisle.json").exists()
    code, said, _ = train([*ONE_OFTEN, ("q 9", "p 9")], *flags, "--overwrite_output_dir")
    assert code == 0
    assert "warning: the last batch 3 of the first epoch has 1 pairs and no negative: a single pair" in said


@pytest.mark.parametrize(
    ("rows", "flags", "warning"),
    [
        (
            [*lists(1, per_query=2), *((f"q {n}", f"p {n}", 1.0) for n in range(50))],
            ["--loss", "listwise", "--validation_share", 0.02],
            "warning: the listwise loss learns from",
        ),
        (
            ONE_A_QUERY,
            ["--loss", "cosine_target"],
            "warning: the relevance of every training pair is 1, so that cosine_target draws all texts",
        ),
        (HALF, ["--loss", "cosent", "--temperature", 20], "--temperature 20: is outside 0.005 to 1"),
        (HALF, ["--loss", "cosent", "--temperature", 1e-4], "--temperature 0.0001: is outside 0.005 to 1"),
        (
            HALF,
            ["--gradient_accumulation_steps", 50],
            "--gradient_accumulation_steps 50: a step takes 3,200 pairs and there are 36",
        ),
        (HALF, ["--weight_decay", 40], "--weight_decay 40: every step takes 2% off"),
    ],
    ids=["few lists", "equal labels", "high temperature", "low temperature", "accumulation", "decay"],
)
def test_a_run_that_would_learn_little_warns_at_its_start(train, rows, flags, warning):
    _, said, _ = train(rows, *flags)
    assert warning in said
    assert said.index(warning) < said.index("before training")


def test_a_warm_up_of_the_whole_run_warns(train):
    _, said, _ = train(HALF, "--max_train_steps", 2, "--num_warmup_steps", 2)
    assert "--num_warmup_steps 2: is the whole run" in said


def test_usual_settings_do_not_warn(train):
    code, said, _ = train(lists(8), "--loss", "cosent")
    assert code == 0
    assert "warning: --" not in said
    assert "learns from" not in said


def test_validation_pairs_of_one_class_make_the_last_evaluation_the_best(train, tmp_path):
    validation = write_rows(tmp_path / "v.csv", HEADER, [(f"v {n}", f"w {n}", 1.0) for n in range(4)])
    flags = ["--validation_file", validation, "--max_train_steps", 3, "--eval_steps", 1]
    code, said, run_dir = train(HALF, *flags)
    assert code == 0
    assert said.count("so the last evaluation counts as the best") == 1
    assert json.loads((run_dir / "metrics.json").read_text())["best"]["step"] == 3
