"""Training on a teacher's scores, from the command line."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

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
JUDGED = ["query", "product", "relevance"]
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


def test_pairs_need_no_labels_beside_judged_ones_and_scores_without_use_are_named(train, tmp_path):
    judged = tmp_path / "judged.jsonl"
    rows = [("chair", "garden chair", 1), ("chair", "lamp", 0)]
    judged.write_text("\n".join(json.dumps(dict(zip(JUDGED, row, strict=True))) for row in rows))
    code, said, run_dir = train("--loss", "kl_divergence", "--validation_file", judged, columns=COLUMNS[:4])
    assert code == 0, said
    assert json.loads((run_dir / "metrics.json").read_text())["selection"] == "roc_auc"
    assert "the hard negatives are not used: there is no column of the teacher's scores" in said
    flags = ["--validation_file", judged, "--overwrite_output_dir"]
    code, said, _ = train("--loss", "in_batch", *flags, columns=COLUMNS[:2])
    assert (code, "the validation pairs have labels and the train pairs have none" in said) == (2, True), said
    flags = ["--negative_scores_column", "negative_teacher_scores", "--overwrite_output_dir"]
    flags += ["--lora_target_modules", "gone"]  # refused later, so that nothing is trained
    code, said, _ = train("--loss", "in_batch", "--label_column", "none", *flags)
    assert code == 2, said
    assert "--negative_scores_column is not used: in_batch does not learn from scores of negatives" in said


@pytest.fixture(scope="module")
def teachers(tiny_bert, tmp_path_factory):
    """Folders of two cross-encoders, and the first one's scores by sentence-transformers."""
    from sentence_transformers import CrossEncoder

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1)
        model.classifier.weight.data.mul_(50)  # so that scores differ
        folders.append(tmp_path_factory.mktemp("teacher"))
        for part in (model, tokenizer):
            part.save_pretrained(folders[-1])
    oracle = CrossEncoder(str(folders[0]), activation_fn=torch.nn.Identity(), device="cpu")
    return folders, lambda pairs: np.array(oracle.predict(pairs), np.float64)


PAIRS = ["query", "product", "", "hard_negatives"]


def logged_loss(run_dir):
    return json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])["loss"]


def test_a_teacher_scores_each_pair_once_and_its_margins_are_learned(train, teachers, tiny_bert, tmp_path):
    (folder, other), score = teachers
    flags = ["--teacher_cache", tmp_path / "scores", "--loss", "margin_mse", "--temperature", 0.5]
    flags += ["--checkpointing_steps", 1, "--teacher"]
    code, said, run_dir = train(*flags, folder, columns=PAIRS)
    assert code == 0, said
    assert "teacher: 7 pairs; scoring the 7 that" in said
    assert "teacher: 7 pairs in" in said
    encoder = aisle.load_encoder(str(tiny_bert))
    expected = []
    for query, scored in LISTS.items():
        cosines = (encoder.encode_queries([query]) @ encoder.encode_products(list(scored)).T)[0]
        apart = cosines / 0.5 - score([(query, product) for product in scored])
        expected.append(((apart[:, None] - apart) ** 2).sum() / (len(apart) * (len(apart) - 1)))
    assert logged_loss(run_dir) == pytest.approx(np.mean(expected), rel=1e-4)
    assert any((tmp_path / "scores").iterdir())
    assert not (run_dir / ".teacher").exists()
    code, said, _ = train(*flags, other, "--resume_from_checkpoint", "latest", columns=PAIRS)
    assert (code, "teacher's fingerprint" in said) == (2, True), said


def test_a_teacher_scores_the_products_of_a_batch_for_all_its_queries(train, teachers, tiny_bert):
    (folder, _), score = teachers
    flags = ["--teacher", folder, "--temperature", 0.5, "--loss"]
    rows = [row[:2] for row in ROWS[1:]]
    code, said, _ = train(*flags, "margin_mse", rows=rows, columns=PAIRS)
    assert (code, "no query has two products with a teacher's score" in said) == (2, True), said
    flags += ["kl_divergence", "--teacher_lists", "in_batch"]
    code, said, run_dir = train(*flags, rows=rows, columns=PAIRS)
    assert code == 0, said
    assert "teacher: 9 pairs; scoring the 6" in said  # the refused run, for another loss, has scored 3
    encoder = aisle.load_encoder(str(tiny_bert))
    products = [product for _, product in rows]
    expected = []
    for query, _ in rows:
        cosines = (encoder.encode_queries([query]) @ encoder.encode_products(products).T)[0]
        p, q = (
            np.exp(one - one.max()) / np.exp(one - one.max()).sum()
            for one in (score([(query, product) for product in products]), cosines / 0.5)
        )
        expected.append((p * np.log(p / q)).sum())
    assert logged_loss(run_dir) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "in_batch", "--teacher", "a/b"], "--teacher: is for a loss that learns from its scores"),
        (["--teacher", "a/b"], "give --loss kl_divergence or margin_mse"),
        (
            ["--loss", "margin_mse", "--teacher_lists", "in_batch"],
            "--teacher_lists in_batch: needs --teacher",
        ),
        (["--teacher_cache", "scores"], "--teacher_cache scores: needs --teacher"),
        (
            ["--loss", "margin_mse", "--teacher", "a/b", "--teacher_score_column", "teacher_score"],
            "--teacher_score_column and --teacher: both give the scores of a teacher",
        ),
        (["--loss", "margin_mse", "--teacher", "./gone"], "./gone: there is no such folder"),
    ],
)
def test_settings_of_a_teacher_that_cannot_work_are_refused(train, flags, message):
    code, said, _ = train(*flags)
    assert (code, message in said) == (2, True), said
