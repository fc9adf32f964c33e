"""Training on a teacher's scores, from the command line."""

import json

import numpy as np
import pytest

import aisle
from aisle.cli import train_main

ROWS = [
    ("red sofa", "sofa in red velvet", 2.0, ["desk lamp", "oak table"], [-1.0, -2.5]),
    ("red sofa", "blue velvet sofa", 0.5, [], []),
    ("lamp", "outdoor lamp", 1.25, ["desk lamp"], [1.5]),
    ("bed", "bed of oak", 0.5, [], []),  # a single scored product
]
LISTS = {
    "red sofa": {"sofa in red velvet": 2.0, "desk lamp": -1.0, "oak table": -2.5, "blue velvet sofa": 0.5},
    "lamp": {"outdoor lamp": 1.25, "desk lamp": 1.5},
}
COLUMNS = ["query", "product", "teacher_score", "hard_negatives", "negative_teacher_scores"]


@pytest.fixture
def train(tiny_bert, tmp_path, capfd):
    """Train for a step on rows in one batch; return the exit code, the output on one line, and the run."""

    def run(*flags, rows=ROWS, columns=COLUMNS):
        path, held_out = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=False))) for row in rows))
        held_out.write_text('{"query": "chair", "product": "garden chair"}\n{"query": "rug", "product": "r"}')
        given = ["--use_peft", "--model_name_or_path", tiny_bert, "--output_dir", tmp_path / "run"]
        given += ["--train_file", path, "--validation_file", held_out, "--max_train_steps", 1]
        given += ["--logging_steps", 1, "--dropout", 0, "--max_length", 16, *flags]
        code = train_main([str(one) for one in given])
        printed = capfd.readouterr()
        return code, " ".join((printed.out + printed.err).split()), tmp_path / "run"

    return run


def test_margin_mse_learns_from_the_scores_of_pairs_and_hard_negatives(train, tiny_bert):
    code, said, run_dir = train("--loss", "margin_mse", "--temperature", 0.5)
    assert code == 0, said
    assert "teacher's score: teacher_score, of negatives: negative_teacher_scores" in said
    encoder = aisle.load_encoder(str(tiny_bert))
    expected = []
    for query, scored in LISTS.items():
        cosines = (encoder.encode_queries([query]) @ encoder.encode_products(list(scored)).T)[0]
        apart = cosines / 0.5 - np.array(list(scored.values()))
        pairs = (apart[:, None] - apart) ** 2
        expected.append(pairs.sum() / (len(apart) * (len(apart) - 1)))
    logged = json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert "margin_mse (MarginMSELoss): fits the differences" in (run_dir / "README.md").read_text()


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (ROWS, COLUMNS[:2], "--loss kl_divergence: needs a teacher's score of each training pair, and there"),
        (
            ROWS[2:],
            COLUMNS[:3],
            "has nothing to learn from: no query has two products with a teacher's score",
        ),
    ],
)
def test_data_without_lists_of_scores_is_refused(train, rows, columns, message):
    code, said, _ = train("--loss", "kl_divergence", rows=rows, columns=columns)
    assert (code, message in said) == (2, True), said


def test_hard_negatives_without_scores_and_scores_without_use_are_named(train):
    code, said, _ = train("--loss", "kl_divergence", columns=COLUMNS[:4])
    assert code == 0, said
    assert "the hard negatives are not used: there is no column of the teacher's scores" in said
    flags = ["--negative_scores_column", "negative_teacher_scores"]
    code, said, _ = train("--loss", "in_batch", "--label_column", "none", *flags, "--overwrite_output_dir")
    assert code == 0, said
    assert "--negative_scores_column is not used: in_batch does not learn from scores of negatives" in said
