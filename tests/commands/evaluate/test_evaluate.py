"""infer_index.py evaluate: the rows, further indexes, cached embeddings, seeds and refused flags."""

import json
from pathlib import Path

import numpy as np
import pytest

from aisle.commands.indexing import catalog_embeddings
from aisle.commands.output import Output
from aisle.evaluation.document import Evaluation
from aisle.evaluation.runs import read_trec_run
from aisle.index import open_index
from aisle.models.loading import load_encoder
from aisle.search import rankings
from tests.commands.evaluate.evaluated_shop import build, evaluate, write_table


@pytest.fixture(scope="module")
def shop(shop, tiny_bert, tmp_path_factory):
    """The shop of the other tests, and an index of its base model."""
    folder = tmp_path_factory.mktemp("base") / "base-index"
    return shop | {"base_index": build(tiny_bert, shop["catalog"], folder, "--precision", "fp32")}


def rows_of(found):
    return {row["name"]: row for row in found["retrieval"]["rows"]}


def test_bm25_base_tuned_and_hybrid_are_compared(flags, capfd):
    code, found, said = evaluate(capfd, *flags)

    rows = rows_of(found)
    assert code == 0
    assert {name: row["kind"] for name, row in rows.items()} == {
        "bm25": "bm25",
        "base": "base",
        "tuned": "tuned",
        "hybrid": "hybrid",
    }
    assert found["retrieval"]["products"] == 6
    assert found["retrieval"]["queries"] == 4
    # zeppelin is in no title; "oak bed for two people" finds the bed before the table.
    assert rows["bm25"]["metrics"]["mrr@10"]["value"] == pytest.approx(3 / 4)
    assert rows["bm25"]["metrics"]["precision@1"]["value"] == pytest.approx(3 / 4)
    assert rows["bm25"]["unanswered"] == 1
    assert set(rows["base"]["metrics"]) == {
        *(f"{name}@{k}" for name in ("recall", "mrr", "ndcg") for k in (1, 10, 100)),
        "precision@1",
    }
    assert rows["base"]["differences"] == {}
    assert rows["tuned"]["differences"]["ndcg@10"]["p_value"] <= 1
    assert (found["base"], found["tuned"]) == ("base", "tuned")
    for name in rows:
        assert name in said


def test_every_row_equals_the_ranking_of_the_python_api(flags, shop, tiny_bert, capfd, tmp_path):
    evaluate(capfd, *flags, "--run_file", tmp_path / "run.trec")

    index = open_index(shop["index"])
    asked = ["red sofa", "blue lamp", "zeppelin", "oak bed for two people"]
    texts = index.products.column("__text__").to_pylist()
    ids = index.products.column("product_id").to_pylist()
    tuned = index.search(load_encoder(str(shop["run"]), device="cpu").encode_queries(asked), top_k=6)
    base = load_encoder(tiny_bert, device="cpu")
    scores = base.encode_queries(asked) @ base.encode_products(texts).T
    runs = {
        name: read_trec_run(tmp_path / f"run.trec{end}") for name, end in (("tuned", ""), ("base", ".base"))
    }
    for number, query_id in enumerate("1234"):
        assert list(runs["tuned"][query_id]) == tuned.product_ids[number].tolist()
        assert list(runs["base"][query_id]) == [ids[row] for row in np.argsort(-scores[number])]
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.trec",
        "run.trec.bm25",
        "run.trec.base",
        "run.trec.hybrid",
    }


def test_figures_do_not_depend_on_the_chunk_size(flags, capfd, monkeypatch):
    found = []
    for size in (1, 3, 1000):
        monkeypatch.setattr(rankings, "CHUNK_QUERIES", size)
        _, document, _ = evaluate(capfd, *flags)
        document["provenance"] = None
        for part in ("before", "after"):
            for change in (*document["improved"], *document["worsened"]):
                for answer in change[part]:
                    answer["score"] = pytest.approx(answer["score"], abs=1e-6)
        found.append(document)
    assert found[0]["retrieval"] == found[1]["retrieval"] == found[2]["retrieval"]
    assert found[0]["improved"] == found[2]["improved"]
    assert found[0]["ann_recall@10"] == found[2]["ann_recall@10"] == 1.0


def test_the_figures_of_the_chosen_mode_stay_at_the_top_of_the_document(flags, capfd):
    for mode, name in (("dense", "tuned"), ("hybrid", "hybrid")):
        _, found, _ = evaluate(capfd, *flags, "--mode", mode)
        metrics = rows_of(found)[name]["metrics"]
        assert {metric: found[metric] for metric in metrics} == {
            metric: estimate["value"] for metric, estimate in metrics.items()
        }
        assert found["tuned"] == name
        assert found["ann_recall@10"] == 1.0
        assert found["products"] == 6


def test_an_index_of_a_base_model_gives_the_row_base(shop, flags, capfd):
    _, found, _ = evaluate(capfd, "--index_dir", shop["base_index"], *flags[2:])

    assert list(rows_of(found)) == ["bm25", "base", "hybrid"]
    assert (found["base"], found["tuned"]) == ("base", None)


def test_the_base_row_of_a_run_equals_the_index_of_its_base(shop, flags, capfd):
    _, ours, _ = evaluate(capfd, *flags)
    _, theirs, _ = evaluate(capfd, "--index_dir", shop["base_index"], *flags[2:])

    assert rows_of(ours)["base"]["metrics"] == rows_of(theirs)["base"]["metrics"]


def test_rows_can_be_chosen(flags, capfd):
    _, found, _ = evaluate(capfd, *flags, "--rows", "tuned", "bm25")

    assert list(rows_of(found)) == ["bm25", "tuned"]
    assert found["base"] is None


def test_the_row_base_can_be_left_out_or_be_another_model(flags, tiny_model, capfd):
    _, without, _ = evaluate(capfd, *flags, "--base_model_row", "none")
    _, other, _ = evaluate(capfd, *flags, "--base_model_row", tiny_model("distilbert"))

    assert list(rows_of(without)) == ["bm25", "tuned", "hybrid"]
    assert other["provenance"]["configuration"]["base_model_row"] == str(tiny_model("distilbert"))
    assert list(rows_of(other)) == ["bm25", "base", "tuned", "hybrid"]


def test_a_compared_index_is_a_row_with_its_name(flags, shop, capfd):
    _, found, _ = evaluate(capfd, *flags, "--compare", shop["base_index"])

    rows = rows_of(found)
    assert rows["base-index"]["kind"] == "other"
    assert rows["base-index"]["metrics"] == rows["base"]["metrics"]
    assert rows["base-index"]["differences"]["ndcg@10"]["mean"] == 0
    assert not [note for note in found["notes"] if "base-index" in note.partition(",")[0]]


def test_a_compared_index_with_other_products_gives_a_note(flags, shop, tiny_bert, tmp_path, capfd):
    catalog = write_table(tmp_path / "few.csv", ["product_id", "title"], [("a", "red sofa"), ("z", "desk")])
    few = build(tiny_bert, catalog, tmp_path / "few")
    _, found, said = evaluate(capfd, *flags, "--compare", few)

    (note,) = [each for each in found["notes"] if each.startswith("few has")]
    assert "few has 2 products, 1 of them among the 6 of the index" in note
    assert note in said


def test_a_second_evaluation_does_not_embed_the_catalogue_again(flags, shop, capfd, monkeypatch):
    _, first, _ = evaluate(capfd, *flags)
    monkeypatch.setattr(catalog_embeddings, "embed_shards", lambda *_, **__: pytest.fail("embedded again"))
    _, second, said = evaluate(capfd, *flags)

    assert rows_of(first) == rows_of(second)
    assert "embeddings of 6 products are kept in" in said
    kept = list(Path(f"{shop['index']}.base").iterdir())
    assert np.load(kept[0]).shape == (6, 32)


def test_a_changed_catalogue_is_embedded_again_and_replaces_the_old_embeddings(shop, tmp_path, capfd):
    index_dir = build(shop["run"], shop["catalog"], tmp_path / "index")
    flags = ["--index_dir", index_dir, "--queries", shop["queries"], "--qrels", shop["qrels"]]
    evaluate(capfd, *flags)
    before = {path.name for path in (tmp_path / "index.base").iterdir()}
    rows = [("a", "red sofa"), ("b", "blue lamp"), ("c", "oak table")]
    build(shop["run"], write_table(tmp_path / "new.csv", ["product_id", "title"], rows), index_dir)
    _, found, _ = evaluate(capfd, *flags)
    after = {path.name for path in (tmp_path / "index.base").iterdir()}

    assert found["products"] == 3
    assert len(before) == len(after) == 1
    assert before != after


def test_unknown_queries_and_products_are_counted_and_listed(flags, tmp_path, capfd):
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n1\tgone\t1\n9\ta\t1\n")
    code, found, said = evaluate(capfd, *flags[:4], "--qrels", qrels, "--rows", "bm25")

    assert code == 0
    assert found["retrieval"]["unknown_queries"] == ["9"]
    assert found["retrieval"]["unknown_products"] == found["unknown_products"] == ["gone"]
    assert found["retrieval"]["queries"] == 1
    assert found["recall@10"] == 0.5
    assert "judged queries that are not in the queries file, and are left out: 1 of 2 ('9')" in said
    assert "count as missed where they are relevant: 1 of 2 ('gone')" in said


def test_the_share_of_unjudged_products_is_reported(flags, capfd):
    _, found, said = evaluate(capfd, *flags, "--rows", "tuned")

    # six products for each of four queries, five of which are judged
    assert rows_of(found)["tuned"]["unjudged"]["10"] == pytest.approx(19 / 24)
    assert "not judged among the top 10, and taken as not relevant: tuned 79%" in said


def test_one_query_and_a_query_without_a_relevant_product(flags, tmp_path, capfd):
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t0\n")
    _, found, said = evaluate(capfd, *flags[:4], "--qrels", qrels)

    assert found["retrieval"]["queries"] == 1
    assert found["retrieval"]["without_relevant"] == 1
    assert "queries without a relevant product, which are left out: 1" in said
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t0\n")
    code, _, said = evaluate(capfd, *flags[:4], "--qrels", qrels)
    assert code == 2
    assert "no judged query (of 1) has a product with relevance above 0" in said


def test_the_json_document_is_read_back_as_an_evaluation(flags, capfd):
    _, found, _ = evaluate(capfd, *flags)

    fields = {name: found[name] for name in Evaluation.__dataclass_fields__}
    assert json.loads(json.dumps(Evaluation.from_dict(fields).to_dict())) == fields


def test_the_same_seed_gives_the_same_figures(flags, capfd):
    documents = [evaluate(capfd, *flags, "--seed", seed)[1] for seed in (1, 1, 2)]

    assert documents[0]["retrieval"] == documents[1]["retrieval"]
    intervals = [rows_of(document)["base"]["metrics"]["ndcg@10"]["low"] for document in documents]
    values = [rows_of(document)["base"]["metrics"]["ndcg@10"]["value"] for document in documents]
    assert values[0] == values[2]
    assert intervals[0] == intervals[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--queries", "q.csv"], "--queries and --qrels: give both or neither"),
        ([], "nothing to measure with: give --queries and --qrels, or --pairs"),
        (["--pairs", "p.csv", "--rows", "bm25"], "--rows: needs --queries and --qrels"),
        (["--protocol", "joint_pool"], "--protocol joint_pool: needs --pairs"),
    ],
)
def test_flags_that_cannot_be_combined_give_one_message(shop, given, message, capfd):
    code, found, said = evaluate(capfd, "--index_dir", shop["index"], *given)

    assert (code, found) == (2, None)
    assert message in said


def test_an_evaluation_without_index_and_model_is_refused(shop, capfd):
    code, _, said = evaluate(capfd, "--pairs", shop["catalog"])
    assert code == 2
    assert "--model or --index_dir: give the encoder to measure" in said


def test_a_column_that_the_catalogue_lacks_is_refused_before_anything_is_embedded(flags, capfd, monkeypatch):
    monkeypatch.setattr("aisle.commands.evaluate.run.load_models", lambda *_, **__: pytest.fail("loaded"))
    code, _, said = evaluate(capfd, *flags, "--slice_column", "colour")
    assert code == 2
    assert "--slice_column colour: the index has no such column; it has title, department" in said


def test_a_tuned_model_is_named_tuned_without_a_row_for_its_base(flags, capfd):
    _, found, _ = evaluate(capfd, *flags, "--rows", "tuned", "--base_model_row", "none")

    assert [(row["name"], row["kind"]) for row in found["retrieval"]["rows"]] == [("tuned", "tuned")]


def test_every_logged_line_is_in_the_json_document(flags, shop, tmp_path, tiny_bert, capfd, monkeypatch):
    """Except lines on files, and lines with figures, which start with the name of a row."""
    said = []
    monkeypatch.setattr(Output, "log", lambda self, message: said.append(message))
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("1 0 a 1\n1 0 b -1\n1 0 gone 1\n9 0 a 1\n2 0 b 0\n3 0 c 1\n")
    pairs = write_table(tmp_path / "pairs.csv", ["query", "product"], [("red sofa", "red sofa"), ("a", "b")])
    catalog = write_table(tmp_path / "few.csv", ["product_id", "title"], [("a", "red sofa"), ("z", "desk")])
    few = build(tiny_bert, catalog, tmp_path / "few")
    said.clear()
    _, found, _ = evaluate(capfd, *flags[:4], "--qrels", qrels, "--pairs", pairs, "--compare", few)

    known = [*found["notes"], found["headline"], *(f"to try: {line}" for line in found["what_to_try"])]
    known.append(found["pairs"]["note"])
    figures = ("tuned through the graph", "hybrid through the graph", "base: embeddings of 6 products")
    assert [line for line in said if line not in known and not line.startswith(figures)] == []
    for expected in (
        "judgements with a label below 0, which count as not relevant: 1",
        "queries without judgements, which are not asked: 1 of 4",
        "queries without a relevant product, which are left out: 1",
        "queries without an answer, which count as 0: bm25 1",
        "warning: judged queries that are not in the queries file, and are left out: 1 of 4 ('9')",
        "label: none: every pair is a positive",
        "few has 2 products, 1 of them among the 6 of the index",
    ):
        assert any(expected in line for line in found["notes"]), expected
