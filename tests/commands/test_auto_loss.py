"""--loss auto: loss, rank and learning rate from the labels; what is printed is what is trained."""

import json

import datasets
import pytest
import yaml

from aisle.cli import train_main
from aisle.commands.train import auto_choice
from aisle.commands.train.auto_choice import FEW_QUERIES, choose
from aisle.data.pairs import Pairs


def pairs(*, queries=20, per_query=5, relevance=None, groups=False):
    """Return pairs; `relevance` has the labels of each query's pairs."""
    rows = [
        (f"query {query}", f"product {query} {item}") for query in range(queries) for item in range(per_query)
    ]
    columns = {"query": [query for query, _ in rows], "product": [product for _, product in rows]}
    if relevance is not None:
        columns["relevance"] = [float(one) for _ in range(queries) for one in relevance]
    if groups:
        columns["group"] = columns["query"]
    return Pairs(datasets.Dataset.from_dict(columns))


@pytest.mark.parametrize(
    ("given", "loss", "why"),
    [
        ({}, "in_batch", "there are no labels"),
        ({"groups": True}, "in_batch", "texts of other groups are negatives"),
        ({"relevance": [1, 1, 1, 1, 1]}, "in_batch", "all labels are the same"),
        ({"relevance": [1, 0, 0, 0, 0]}, "cosent", "20% of the pairs are positives, below 30%"),
        ({"relevance": [0.9, 0.1, 0.1, 0, 0]}, "cosent", "20% of the pairs are positives, below 30%"),
        ({"relevance": [0.1, 0.1, 0.2, 0, 0]}, "cosent", "0% of the pairs are positives, below 30%"),
        ({"relevance": [1, 1, 0, 0, 0]}, "in_batch", "40% of the judged pairs are positives, and a search"),
        ({"relevance": [1, 1, 0.1, 0, 0]}, "in_batch", "40% of the graded pairs are positives, and a search"),
        (
            {"relevance": [1, 1, 0, 0, 0], "queries": FEW_QUERIES - 1},
            "cosent",
            "3 queries have a positive, too few",
        ),
        ({"relevance": [1, 1, 0, 0, 0], "queries": FEW_QUERIES}, "in_batch", "40% of the judged pairs"),
    ],
)
def test_the_loss_follows_from_the_labels(given, loss, why):
    chosen = choose(pairs(**given))
    assert chosen.loss == loss
    assert chosen.why_loss.startswith(why)


@pytest.mark.parametrize(
    ("count", "rank", "rate", "feed_forward"), [(1999, 8, 5e-4, False), (2000, 16, 1e-3, True)]
)
def test_rank_and_learning_rate_follow_from_the_number_of_pairs(count, rank, rate, feed_forward):
    chosen = choose(pairs(queries=count, per_query=1))
    assert (chosen.lora_rank, chosen.learning_rate, chosen.feed_forward) == (rank, rate, feed_forward)


def test_the_labels_are_summarised_in_words():
    labels = choose(pairs(relevance=[1, 0.5, 0, 0, 0])).labels
    assert str(labels) == "100 judged pairs, 5.0 a query, 3 relevance levels, 20% positives"
    assert str(choose(pairs()).labels) == "100 pairs without labels, 5.0 a query"
    assert str(choose(pairs(groups=True)).labels) == "100 texts with their groups"


@pytest.fixture
def train(judged_csv, tiny_bert, tmp_path, capfd):
    """Train for two steps with --loss auto; return the output on one line, and the saved settings."""

    def run(*flags):
        given = ["--model_name_or_path", tiny_bert, "--train_file", judged_csv, "--loss", "auto"]
        given += ["--output_dir", tmp_path / "run", "--max_train_steps", 2, "--max_length", 16, *flags]
        code = train_main([str(one) for one in given])
        printed = capfd.readouterr()
        said = " ".join((printed.out + printed.err).split())
        assert code == 0, said
        return said, yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())

    return run


NAMES = ("loss", "lora_rank", "lora_alpha", "learning_rate", "lora_target_modules")
LAYERS = ["query", "key", "value", "dense"]


def test_the_chosen_settings_are_printed_saved_recorded_and_kept_by_a_resumed_run(
    train, tmp_path, monkeypatch
):
    monkeypatch.setattr(auto_choice, "MANY_PAIRS", 30)
    said, saved = train("--use_peft", "--checkpointing_steps", 1)
    assert "--loss auto: in_batch, because 60% of the judged pairs are positives" in said
    assert "rank 16, alpha 32 on query, key, value, dense, learning rate 0.001;" in said
    assert tuple(saved[name] for name in NAMES) == ("in_batch", 16, 32, 1e-3, LAYERS)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["loss"] == "in_batch"
    assert metrics["auto"]["loss"].startswith("60% of the judged pairs are positives")
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], sorted(adapter["target_modules"])) == (
        16,
        32,
        sorted(LAYERS),
    )
    (tmp_path / "run" / "aisle.json").unlink()
    said, again = train("--use_peft", "--resume_from_checkpoint", "latest")
    assert "resuming from" in said
    assert again["loss"] == "in_batch"


def test_flags_that_are_given_win(train):
    said, saved = train(
        *("--use_peft", "--lora_rank", 4, "--learning_rate", 2e-4, "--lora_target_modules", "query")
    )
    assert tuple(saved[name] for name in NAMES) == ("in_batch", 4, 8, 2e-4, ["query"])
    assert "rank 4, alpha 8 on query, learning rate 0.0002; without these flags, 8 and 0.0005" in said


def test_without_an_adapter_only_the_loss_is_chosen(train):
    said, saved = train()
    assert tuple(saved[name] for name in NAMES[:4]) == ("in_batch", 8, 16, 2e-5)
    assert "without these flags" not in said
