"""infer_index.py evaluate --run: the shop's present engine, with which all other rows are compared."""

import csv

import pytest

from aisle.evaluation.retrieval_metrics import evaluate_run
from tests.commands.evaluate.evaluated_shop import QRELS, evaluate

ENGINE = {"1": "ba", "2": "ab", "3": "abc", "4": "ed"}
"""Query -> products of the engine, best first."""


def write_run(path, answers, *, equal=False):
    """Write rankings; with `equal`, all scores are equal, so the ranks give the order."""
    lines = [
        f"{query} Q0 {product} {rank} {0 if equal else 1 / rank} solr\n"
        for query, products in answers.items()
        for rank, product in enumerate(products, start=1)
    ]
    path.write_text("".join(lines))
    return path


def qrels():
    judged = {}
    for query, product, grade in QRELS:
        judged.setdefault(query, {})[product] = float(grade)
    return judged


@pytest.mark.parametrize("equal", [False, True])
def test_the_present_engine_is_the_first_row_and_the_baseline(flags, tmp_path, capfd, equal):
    path = write_run(tmp_path / "solr.trec", ENGINE, equal=equal)
    code, found, said = evaluate(capfd, *flags, "--run", path)

    assert code == 0
    rows = {row["name"]: row for row in found["retrieval"]["rows"]}
    assert list(rows) == ["solr", "bm25", "base", "tuned", "hybrid"]
    assert (found["base"], found["tuned"]) == ("solr", "tuned")
    # The right product is second, second, third and second: 1/2, 1/2, 1/3, 1/2.
    assert rows["solr"]["metrics"]["mrr@10"]["value"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    answers = {
        query: {product: -rank for rank, product in enumerate(products)} for query, products in ENGINE.items()
    }
    ndcg = evaluate_run(qrels(), answers).values["ndcg@10"]
    assert rows["solr"]["metrics"]["ndcg@10"]["value"] == pytest.approx(ndcg)
    for name in ("bm25", "base", "tuned", "hybrid"):
        gained = rows[name]["metrics"]["ndcg@10"]["value"] - ndcg
        assert rows[name]["differences"]["ndcg@10"]["mean"] == pytest.approx(gained)
    assert rows["solr"]["differences"] == {}
    assert found["headline"].startswith("tuned is not clearly better than solr")
    for change in (*found["improved"], *found["worsened"]):
        shown = [answer["product_id"] for answer in change["before"]]
        assert shown == list(ENGINE[change["query_id"]])
    assert found["provenance"]["inputs"][2]["role"] == "present engine"
    assert "solr ranks at most 3 products per query: compared with the others, its figures @10, @100" in said


def test_unanswered_queries_score_zero_and_unjudged_queries_are_counted(flags, tmp_path, capfd):
    path = write_run(tmp_path / "solr.trec", {"1": "ab", "8": "ab", "2": "xb"})
    _, found, said = evaluate(capfd, *flags, "--run", path, "--rows", "bm25", "--mode", "lexical")

    solr = found["retrieval"]["rows"][0]
    assert solr["unanswered"] == 2
    assert solr["metrics"]["mrr@10"]["value"] == pytest.approx((1 + 1 / 2) / 4)
    assert "solr: queries that nobody has judged, which are left out: 1 of 3" in said
    assert "solr: products that are not in the index: 1 of 3; they keep their ranks" in said
    assert {"solr: products that are not in the index: 1 of 3; they keep their ranks"} <= set(found["notes"])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"01": "ab"}, "have no query id in common; both must use the same ids. In --run "),
        ({"1": "xy"}, "have no product id in common; both must use the same ids. In --run "),
    ],
)
def test_an_engine_run_without_common_ids_is_refused_before_a_model_is_loaded(
    flags, tmp_path, capfd, monkeypatch, answers, message
):
    monkeypatch.setattr("aisle.commands.evaluate.run.load_models", lambda *_, **__: pytest.fail("loaded"))
    code, found, said = evaluate(capfd, *flags, "--run", write_run(tmp_path / "solr.trec", answers))

    assert (code, found) == (2, None)
    assert message in said


def test_the_engines_run_is_not_written_again(flags, tmp_path, capfd):
    path = write_run(tmp_path / "solr.trec", ENGINE)
    evaluate(
        capfd, *flags, "--run", path, "--rows", "bm25", "--mode", "lexical", "--run_file", tmp_path / "b"
    )

    assert {file.name for file in tmp_path.iterdir()} == {"solr.trec", "b"}


def test_the_table_of_products_to_judge_can_be_given_as_judgements(flags, shop, tmp_path, capfd):
    path = write_run(tmp_path / "solr.trec", ENGINE)
    given = [*flags, "--run", path, "--rows", "bm25", "--mode", "lexical"]
    _, found, said = evaluate(capfd, *given, "--report", tmp_path / "report")

    with (tmp_path / "report" / "to_judge.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # bm25 finds only the judged product of queries 1 and 2, no product for 3, and bed and table (oak) for 4.
    assert [(row["query_id"], row["product_id"], row["best_rank"], row["systems"]) for row in rows] == [
        ("1", "b", "1", "solr"),
        ("2", "a", "1", "solr"),
        ("3", "a", "1", "solr"),
        ("4", "e", "1", "solr"),
        ("3", "b", "2", "solr"),
    ]
    assert rows[0]["query"] == "red sofa"
    assert rows[0]["title"] == "blue lamp"
    assert {row["relevance"] for row in rows} == {""}
    assert found["to_judge"] == len(rows)
    assert f"{len(rows)} products to judge next: {tmp_path}/report/to_judge.csv" in said

    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "relevance": 0} for row in rows)
    _, again, _ = evaluate(capfd, *given[:4], "--qrels", shop["qrels"], filled, *given[6:])
    assert again["retrieval"]["judgements"] == found["retrieval"]["judgements"] + len(rows)
    assert {row["unjudged"]["10"] for row in again["retrieval"]["rows"]} == {0.0}

    with filled.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{**rows[0], "relevance": 0}, *rows[1:]])
    _, partly, said = evaluate(capfd, *given[:4], "--qrels", shop["qrels"], filled, *given[6:])
    assert partly["retrieval"]["judgements"] == found["retrieval"]["judgements"] + 1
    note = f"judgements with a blank label, which are left out as not judged yet: {len(rows) - 1}"
    assert note in said
    assert note in partly["notes"]


def test_changed_queries_show_ids_for_as_many_ranks_as_the_metric_counts(flags, capfd):
    _, ten, _ = evaluate(capfd, *flags)
    _, two, _ = evaluate(capfd, *flags, "--cutoffs", 2)

    changed = [*ten["improved"], *ten["worsened"]]
    assert changed
    assert {len(change["after"]) for change in changed} == {6}
    assert {len(change["after"]) for change in (*two["improved"], *two["worsened"])} <= {2}
