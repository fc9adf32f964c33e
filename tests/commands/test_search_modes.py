"""query and evaluate in lexical and hybrid mode, and the weight tuned on judgements."""

import json

import numpy as np
import pyarrow as pa
import pytest

from aisle.cli import index_main
from aisle.commands.indexing.hybrid_tuning import quality_by_weight, tuned_weight
from aisle.errors import DataError
from aisle.index import open_index
from aisle.index.fusion import Candidates
from aisle.models.loading import load_encoder
from tests.commands.conftest import write_rows

PRODUCTS = [("a", "red sofa"), ("b", "blue lamp"), ("c", "oak table"), ("d", "oak bed")]
LEXICAL = ["--mode", "lexical", "--top_k", 4]


@pytest.fixture
def index_dir(tiny_bert, tmp_path, capfd):
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], PRODUCTS)
    flags = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0
    capfd.readouterr()
    return tmp_path / "index"


@pytest.fixture
def judged(tmp_path):
    queries = write_rows(
        tmp_path / "q.csv", ["query_id", "query"], [(1, "sofa"), (2, "lamp"), (3, "zeppelin")]
    )
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n3\tc\t1\n")
    return queries, qrels


def ask(capfd, *flags):
    code = index_main([*map(str, flags), "--json"])
    out = capfd.readouterr().out
    return code, json.loads(out) if code == 0 else None


def test_lexical_answers_hold_only_products_with_a_word_of_the_query(index_dir, capfd):
    _, found = ask(capfd, "query", "--index_dir", index_dir, *LEXICAL, "oak", "zeppelin")

    assert [[r["product_id"] for r in answer["results"]] for answer in found] == [["c", "d"], []]
    assert found[0]["results"][0]["payload"] == {"title": "oak table"}


def test_lexical_search_needs_no_encoder(index_dir, capfd, monkeypatch):
    monkeypatch.setattr("aisle.search.encoders.encoder_of_index", lambda *_, **__: pytest.fail("loaded"))

    code, _ = ask(capfd, "query", "--index_dir", index_dir, *LEXICAL, "oak")

    assert code == 0


def test_hybrid_at_weight_zero_puts_the_words_first_and_still_answers_in_full(index_dir, capfd):
    flags = ["--mode", "hybrid", "--hybrid_weight", 0, "--top_k", 4]
    _, found = ask(capfd, "query", "--index_dir", index_dir, *flags, "lamp")

    ids = [result["product_id"] for result in found[0]["results"]]
    assert ids[0] == "b"
    assert sorted(ids) == ["a", "b", "c", "d"]


def test_reciprocal_rank_fusion_is_a_flag(index_dir, capfd):
    flags = ["--mode", "hybrid", "--fusion", "rrf", "--top_k", 4]
    _, found = ask(capfd, "query", "--index_dir", index_dir, *flags, "zeppelin")

    # no product has the word, so only the dense ranks count
    assert [r["score"] for r in found[0]["results"]] == pytest.approx([1 / 61, 1 / 62, 1 / 63, 1 / 64])


def test_a_weight_above_one_is_the_user_s_mistake(index_dir, capfd):
    code, _ = ask(capfd, "query", "--index_dir", index_dir, "--mode", "hybrid", "--hybrid_weight", 1.5, "oak")

    assert code == 2


def test_evaluate_by_words_counts_queries_without_an_answer(index_dir, judged, capfd, tmp_path):
    queries, qrels = judged
    flags = ["--index_dir", index_dir, "--queries", queries, "--qrels", qrels, "--run_file", tmp_path / "run"]
    code, found = ask(capfd, "evaluate", *flags, "--mode", "lexical")

    assert code == 0
    assert found["mrr@10"] == pytest.approx(2 / 3)
    assert found["unanswered"] == ["3"]
    assert found["ann_recall@10"] is None
    assert [line.split()[:4] for line in (tmp_path / "run").read_text().splitlines()] == [
        ["1", "Q0", "a", "1"],
        ["2", "Q0", "b", "1"],
    ]


def test_evaluate_of_both_measures_the_graph_too(index_dir, judged, capfd):
    queries, qrels = judged
    flags = ["--index_dir", index_dir, "--queries", queries, "--qrels", qrels]
    _, found = ask(capfd, "evaluate", *flags, "--mode", "hybrid", "--hybrid_weight", 0)

    assert found["mrr@10"] > 2 / 3
    assert found["unanswered"] == []
    assert found["ann_recall@10"] == 1.0


def test_the_weight_follows_the_side_that_ranks_the_judged_products_first():
    ties = np.arange(2)
    sure = {"rows": np.arange(2), "depth": 2, "highest": 4.0}
    dense_right = Candidates(dense=np.array([0.9, 0.1]), lexical=np.array([1.0, 2.0]), **sure)
    ids = pa.chunked_array([["a", "b"]])
    for product, best in (("a", [0.0, 1.0]), ("b", [1.0, 0.0])):
        found = quality_by_weight({"q": dense_right}, {"q": {product: 1.0}}, product_ids=ids, tie_ranks=ties)

        assert [found[0.0], found[1.0]] == pytest.approx(
            [0.63093 if side == 0.0 else 1.0 for side in best], abs=1e-5
        )
        assert len(found) == 21


def tune(index_dir, tiny_bert, queries, qrels):
    index = open_index(index_dir)
    return tuned_weight(
        index.directory,
        index.manifest,
        load_encoder(tiny_bert, device="cpu"),
        queries_file=str(queries),
        qrels_file=str(qrels),
    )


def test_a_weight_is_tuned_from_the_files_of_a_version(index_dir, judged, tiny_bert):
    weight = tune(index_dir, tiny_bert, *judged)

    assert 0.0 <= weight <= 1.0
    assert weight in [step / 20 for step in range(21)]


def test_judgements_of_unknown_products_cannot_tune(index_dir, judged, tiny_bert, tmp_path):
    qrels = tmp_path / "other.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\tnone\t1\n")

    with pytest.raises(DataError, match=r"other\.tsv and the catalogue have no relevant product id"):
        tune(index_dir, tiny_bert, judged[0], qrels)
