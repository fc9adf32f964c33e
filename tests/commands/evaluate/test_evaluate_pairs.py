"""infer_index.py evaluate --pairs: judged pairs, and question-answer pairs by the joint-pool protocol."""

import numpy as np
import pytest

from aisle.commands.evaluate.compare_pairs import pair_scores
from aisle.data.files import iter_rows
from aisle.data.pairs import PairColumns, read_pairs
from aisle.evaluation.joint_pool import joint_pool
from aisle.evaluation.pair_metrics import score_pairs
from aisle.models.loading import load_encoder
from tests.commands.evaluate.evaluated_shop import build, evaluate, write_adapter, write_shop, write_table

LABELLED = [
    ("red sofa", "red sofa", "E"),
    ("red sofa", "blue lamp", "I"),
    ("lamp", "blue lamp", "E"),
    ("lamp", "lamp shade", "S"),
    ("oak bed", "oak table", "S"),
    ("oak bed", "wool rug", "I"),
]
MAP = "E=1,S=0.1,I=0"
RELEVANCE = np.array([1, 0, 1, 0.1, 0.1, 0])


@pytest.fixture(scope="module")
def run_dir(tiny_bert, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "run", tiny_bert)


@pytest.fixture
def pairs_csv(tmp_path):
    return write_table(tmp_path / "pairs.csv", ["search", "product", "esci_label"], LABELLED)


@pytest.fixture
def pair_flags(run_dir, pairs_csv):
    return ["--model", run_dir, "--pairs", pairs_csv, "--query_column", "search"]


def cosines(model):
    encoder = load_encoder(str(model), device="cpu")
    queries = encoder.encode_queries([query for query, _, _ in LABELLED])
    return (queries * encoder.encode_products([product for _, product, _ in LABELLED])).sum(axis=1)


def test_base_and_tuned_score_the_same_pairs_without_an_index(pair_flags, run_dir, tiny_bert, capfd):
    code, found, said = evaluate(capfd, *pair_flags, "--pairs_label_map", MAP)

    assert code == 0
    assert found["pairs"]["pairs"] == 6
    assert [(row["name"], row["kind"]) for row in found["pairs"]["rows"]] == [
        ("base", "base"),
        ("tuned", "tuned"),
    ]
    for row, model in zip(found["pairs"]["rows"], (tiny_bert, run_dir), strict=True):
        expected = score_pairs(cosines(model), RELEVANCE)
        assert row["metrics"]["roc_auc"]["value"] == pytest.approx(expected.roc_auc)
        assert row["metrics"]["spearman"]["value"] == pytest.approx(expected.spearman)
        among = RELEVANCE != 0.1
        by_grade = score_pairs(cosines(model)[among], RELEVANCE[among])
        assert row["by_grade"]["0"]["value"] == pytest.approx(by_grade.roc_auc)
    assert found["retrieval"] is None
    assert "ROC-AUC of the highest grade against 0.1" in said


def test_the_label_map_of_the_judgements_applies_to_pairs_too(pair_flags, capfd):
    _, one, _ = evaluate(capfd, *pair_flags, "--label_map", MAP)
    _, other, _ = evaluate(capfd, *pair_flags, "--pairs_label_map", MAP)

    assert one["pairs"] == other["pairs"]


def test_rankings_and_pairs_in_one_command_have_separate_label_maps(run_dir, pairs_csv, tmp_path, capfd):
    shop = write_shop(tmp_path / "shop")
    index_dir = build(run_dir, shop["catalog"], tmp_path / "index")
    flags = ["--index_dir", index_dir, "--queries", shop["queries"], "--qrels", shop["qrels"]]
    flags += ["--pairs", pairs_csv, "--query_column", "search", "--pairs_label_map", MAP]
    _, found, _ = evaluate(capfd, *flags)

    assert found["retrieval"]["queries"] == 4
    assert [row["name"] for row in found["pairs"]["rows"]] == ["base", "tuned"]


def test_labels_of_a_single_class_are_reported_without_an_error(run_dir, tmp_path, capfd):
    pairs = write_table(
        tmp_path / "p.csv", ["query", "product"], [("sofa", "red sofa"), ("lamp", "blue lamp")]
    )
    code, found, said = evaluate(capfd, "--model", run_dir, "--pairs", pairs)

    assert code == 0
    assert found["pairs"]["rows"][0]["metrics"]["roc_auc"]["value"] is None
    assert found["pairs"]["note"] in said


def test_words_without_a_label_map_give_a_message_and_no_traceback(pair_flags, capfd):
    code, _, said = evaluate(capfd, *pair_flags)
    assert code == 2
    assert "label_map" in said


def test_scores_do_not_depend_on_the_number_of_pairs_at_a_time(pairs_csv, run_dir):
    columns = PairColumns(query="search")
    label_map = {"E": 1.0, "S": 0.1, "I": 0.0}
    pairs = read_pairs(iter_rows([pairs_csv]), columns=columns, label_map=label_map, on_bad_row="error").pairs
    encoder = load_encoder(str(run_dir), device="cpu")
    whole = pair_scores(encoder, pairs)
    assert whole == pytest.approx(cosines(run_dir), abs=1e-6)
    for size in (1, 4):
        assert pair_scores(encoder, pairs, chunk_pairs=size) == pytest.approx(whole, abs=1e-6)


@pytest.fixture
def questions(tmp_path):
    rows = [("where is my order", "see your account"), ("can I return it", "yes, within 30 days")]
    rows += [("do you ship abroad", "to all of Europe"), ("is there a warranty", "two years")]
    return write_table(tmp_path / "faq.csv", ["question", "answer"], rows), rows


def test_the_joint_pool_needs_no_index(questions, run_dir, tiny_bert, capfd):
    path, rows = questions
    flags = ["--protocol", "joint_pool", "--pairs", path, "--product_column", "answer", "--model", run_dir]
    code, found, said = evaluate(capfd, *flags)

    assert code == 0
    assert [row["name"] for row in found["joint_pool"]] == ["base", "tuned"]
    for row, model in zip(found["joint_pool"], (tiny_bert, run_dir), strict=True):
        encoder = load_encoder(str(model), device="cpu")
        expected = joint_pool(
            encoder.encode_queries([question for question, _ in rows]),
            encoder.encode_products([answer for _, answer in rows]),
        )
        assert row["precision_at_1"]["value"] == pytest.approx(expected.precision_at_1)
        assert row["mrr"]["value"] == pytest.approx(expected.mrr)
        assert row["texts"] == 8
    assert found["pairs"] is None
    assert "joint pool of 8 texts" in said


def test_a_joint_pool_without_a_positive_pair_is_refused_before_a_model_is_loaded(
    tiny_bert, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("aisle.commands.evaluate.run.load_models", lambda *_, **__: pytest.fail("loaded"))
    header, rows = ["question", "answer", "label"], [("where is it", "on its way", 0.4)]
    labelled = write_table(tmp_path / "labelled.csv", header, rows)
    flags = ["--protocol", "joint_pool", "--product_column", "answer", "--model", tiny_bert, "--pairs"]

    code, found, said = evaluate(capfd, *flags, labelled)

    assert (code, found) == (2, None)
    assert "none of the 1 pairs of --pairs is positive (relevance above 0.5)" in " ".join(said.split())
    assert "--positive_threshold" in said


def test_the_joint_pool_uses_only_positive_pairs(questions, tiny_bert, tmp_path, capfd):
    _, rows = questions
    labelled = write_table(
        tmp_path / "labelled.csv",
        ["question", "answer", "label"],
        [(*row, 1) for row in rows] + [("where is my order", "two years", 0)],
    )
    flags = ["--protocol", "joint_pool", "--product_column", "answer", "--model", tiny_bert, "--pairs"]
    _, found, said = evaluate(capfd, *flags, labelled)

    assert "4 of 5 pairs are positive and taken" in said
    assert [(row["name"], row["texts"]) for row in found["joint_pool"]] == [("base", 8)]


def test_the_json_document_warns_of_few_pairs_and_counts_the_pairs_read(pair_flags, capfd):
    _, found, said = evaluate(capfd, *pair_flags, "--pairs_label_map", MAP)

    assert found["notes"] == [
        "pairs: 6; query: search, product: product, label: esci_label",
        "warning: 2 pairs of 6 are positive: the intervals of so few are too narrow to be believed",
        "warning: 4 pairs of 6 are negative: the intervals of so few are too narrow to be believed",
    ]
    assert all(note in said for note in found["notes"])


def test_enough_pairs_of_both_classes_have_no_warning(run_dir, tmp_path, capfd):
    rows = [("red sofa", "red sofa", 1), ("red sofa", "wool rug", 0)] * 10
    pairs = write_table(tmp_path / "pairs.csv", ["query", "product", "label"], rows)
    _, found, _ = evaluate(capfd, "--model", run_dir, "--pairs", pairs)

    assert not [note for note in found["notes"] if "warning" in note]


def test_a_small_pool_and_repeated_texts_are_noted(run_dir, tmp_path, capfd):
    """The model finds the partner of every text, except where two texts are equal."""
    rows = [("red sofa", "red sofa", 1), ("red sofa", "red sofa", 1), ("oak", "bed", 1), ("rug", "lamp", 0)]
    pairs = write_table(tmp_path / "pairs.csv", ["question", "answer", "label"], rows)
    columns = ["--query_column", "question", "--product_column", "answer", "--protocol", "joint_pool"]
    _, found, said = evaluate(capfd, "--model", run_dir, "--pairs", pairs, *columns)

    assert found["notes"] == [
        "pairs: 4; query: question, product: answer, label: label",
        "joint pool: 3 of 4 pairs are positive and taken",
        "warning: the pool is of 3 questions: the intervals of so few are too narrow to be believed",
        "warning: 1 of 3 questions have come before: only the partner in the same row counts as right, so "
        "that no model reaches 1; leave the repeated rows out",
        "warning: 1 of 3 answers have come before: only the partner in the same row counts as right, so "
        "that no model reaches 1; leave the repeated rows out",
    ]
    assert all(note in said for note in found["notes"])
