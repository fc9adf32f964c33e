"""infer_index.py evaluate: formats of the inputs, ties, and the run files that it writes."""

import csv
import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from aisle.evaluation.runs import read_trec_run
from tests.commands.array_index import write_index
from tests.commands.evaluate.evaluated_shop import (
    QRELS,
    QUERIES,
    build,
    evaluate,
    write_adapter,
    write_shop,
    write_table,
)

QUERY_HEADER = ["query_id", "query"]
QREL_HEADER = ["query-id", "corpus-id", "score"]


def write_any(path, header, rows):
    """Write a table in the format of the file's extension; without a known extension, as TREC's qrels."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
        elif name.endswith(".json"):
            json.dump([dict(zip(header, row, strict=True)) for row in rows], file)
        elif name.endswith((".csv", ".tsv")):
            csv.writer(file, delimiter="\t" if ".tsv" in name else ",").writerows([header, *rows])
        else:
            file.writelines(f"{query} 0 {product} {grade}\n" for query, product, grade in rows)
    return path


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """Files of a shop and the index of its base model; for reading only."""
    folder = tmp_path_factory.mktemp("shop")
    files = write_shop(folder)
    files["index"] = build(tiny_bert, files["catalog"], folder / "index", "--precision", "fp32")
    return files


@pytest.fixture
def by_words(flags):
    """Flags of an evaluation without an encoder; the test adds queries and judgements."""
    return [*flags[:2], "--rows", "bm25"]


@pytest.fixture
def not_a_number(tiny_bert, tmp_path):
    """A model with NaN weights, as a broken training leaves them."""
    folder = tmp_path / "nan"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: np.full_like(value, np.nan) for name, value in weights.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def expected(shop):
    """BM25 figures of the shop; test_evaluate.py compares them with hand-computed values."""
    return {"recall@1": 3 / 4 - 1 / 8, "mrr@10": 3 / 4, "precision@1": 3 / 4, "queries": 4}


@pytest.mark.parametrize(
    "name", ["q.csv", "q.tsv", "q.jsonl", "q.json", "q.parquet", "q.csv.gz", "q.jsonl.gz"]
)
def test_queries_are_read_from_every_format(name, by_words, shop, expected, tmp_path, capfd):
    queries = write_any(tmp_path / name, QUERY_HEADER, QUERIES)
    code, found, _ = evaluate(capfd, *by_words, "--queries", queries, "--qrels", shop["qrels"])

    assert code == 0
    assert {figure: found[figure] for figure in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        "q.csv",
        "q.tsv",
        "q.jsonl",
        "q.parquet",
        "q.trec",
        "q",
        "q.csv.gz",
        "q.tsv.gz",
        "q.jsonl.gz",
        "q.trec.gz",
    ],
)
def test_judgements_are_read_from_every_format(name, by_words, shop, expected, tmp_path, capfd):
    qrels = write_any(tmp_path / name, QREL_HEADER, QRELS)
    code, found, _ = evaluate(capfd, *by_words, "--queries", shop["queries"], "--qrels", qrels)

    assert code == 0
    assert {figure: found[figure] for figure in expected} == pytest.approx(expected)
    assert found["retrieval"]["judgements"] == 5


def test_flags_name_the_columns_of_ids(by_words, expected, tmp_path, capfd):
    queries = write_any(tmp_path / "q.csv", ["number", "query"], QUERIES)
    qrels = write_any(tmp_path / "j.csv", ["number", "sku", "score"], QRELS)
    files = ["--queries", queries, "--qrels", qrels]
    code, found, _ = evaluate(capfd, *by_words, *files, "--id_column", "sku", "--query_id_column", "number")

    assert code == 0
    assert {figure: found[figure] for figure in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet", "p.csv.gz", "p.jsonl.gz"])
def test_judged_pairs_are_read_from_every_format(name, tiny_bert, tmp_path, capfd):
    """Only equal texts have cosine 1, so positives and negatives are separated perfectly."""
    rows = [("red sofa", "red sofa", 1), ("blue lamp", "blue lamp", 1), ("red sofa", "wool rug", 0)]
    pairs = write_any(tmp_path / name, ["query", "product", "label"], rows)
    code, found, _ = evaluate(capfd, "--model", tiny_bert, "--pairs", pairs)

    assert code == 0
    assert found["pairs"]["pairs"] == 3
    assert found["pairs"]["rows"][0]["metrics"]["roc_auc"]["value"] == 1.0


def test_a_damaged_gzip_file_gives_a_message_and_no_traceback(by_words, shop, tmp_path, capfd):
    path = write_any(tmp_path / "q.csv.gz", QUERY_HEADER, QUERIES * 50)
    path.write_bytes(path.read_bytes()[:-12])
    code, _, said = evaluate(capfd, *by_words, "--queries", path, "--qrels", shop["qrels"])

    assert code == 2
    assert "q.csv.gz: the gzip stream is damaged or truncated" in said


def test_a_repeated_judgement_counts_once_and_contradicting_judgements_are_refused(
    by_words, shop, tmp_path, capfd
):
    twice = write_any(tmp_path / "twice.tsv", QREL_HEADER, [*QRELS, *QRELS])
    _, found, _ = evaluate(capfd, *by_words, "--queries", shop["queries"], "--qrels", twice)
    torn = write_any(tmp_path / "torn.tsv", QREL_HEADER, [*QRELS, ("1", "a", 0)])
    code, _, said = evaluate(capfd, *by_words, "--queries", shop["queries"], "--qrels", torn)

    assert found["retrieval"]["judgements"] == 5
    assert found["mrr@10"] == pytest.approx(3 / 4)
    assert code == 2
    assert "product 'a' is judged 0 for query '1', but 1 in" in said


def test_when_all_products_tie_every_system_ranks_them_by_id(tiny_bert, tmp_path, capfd):
    rows = [(name, "red sofa") for name in "dbca"]
    catalog = write_table(tmp_path / "catalog.csv", ["product_id", "title"], rows)
    tuned = write_adapter(tmp_path / "run", tiny_bert)
    index_dir = build(tuned, catalog, tmp_path / "index", "--precision", "fp32")
    queries = write_table(tmp_path / "q.csv", QUERY_HEADER, [("1", "sofa")])
    qrels = write_table(tmp_path / "qrels.tsv", QREL_HEADER, [("1", "c", 1)], "\t")
    flags = ["--index_dir", index_dir, "--queries", queries, "--qrels", qrels]
    code, found, _ = evaluate(capfd, *flags, "--run_file", tmp_path / "run.trec")

    assert code == 0
    for row in found["retrieval"]["rows"]:
        assert row["metrics"]["mrr@10"]["value"] == pytest.approx(1 / 3), row["name"]
    assert list(read_trec_run(tmp_path / "run.trec")["1"]) == list("abcd")
    for end in ("", ".bm25", ".base", ".hybrid"):
        lines = [line.split() for line in (tmp_path / f"run.trec{end}").read_text().splitlines()]
        # trec_eval's order: by the score as float32; equal scores by product id from Z to A
        by_trec_eval = sorted(((np.float32(line[4]), line[2]) for line in lines), reverse=True)
        assert [product for _, product in by_trec_eval] == list("abcd"), end
    assert found["retrieval"]["rows"][2]["differences"]["mrr@10"]["p_corrected"] == 1


def test_tied_pairs_score_at_chance_without_a_rank_correlation(tiny_bert, tmp_path, capfd):
    rows = [("red sofa", "red sofa", grade) for grade in (1, 0.5, 0)]
    pairs = write_table(tmp_path / "pairs.csv", ["query", "product", "label"], rows)
    code, found, said = evaluate(capfd, "--model", tiny_bert, "--pairs", pairs)

    metrics = found["pairs"]["rows"][0]["metrics"]
    assert code == 0
    assert metrics["roc_auc"]["value"] == 0.5
    assert metrics["spearman"]["value"] is None
    assert "Spearman is undefined: all 3 scores are equal" in said


def test_a_system_that_answers_no_query_has_figures_of_zero_and_no_run_file(flags, tmp_path, capfd):
    queries = write_table(tmp_path / "q.csv", QUERY_HEADER, [("1", "zeppelin"), ("2", "quark")])
    flags = [*flags[:2], "--queries", queries, *flags[4:], "--run_file", tmp_path / "run.trec"]
    code, found, said = evaluate(capfd, *flags)

    bm25 = found["retrieval"]["rows"][0]
    assert code == 0
    assert {estimate["value"] for estimate in bm25["metrics"].values()} == {0}
    assert bm25["unanswered"] == 2
    assert bm25["unjudged"]["10"] == 0
    assert "queries without an answer, which count as 0: bm25 2" in said
    assert f"warning: bm25 answers no query; {tmp_path}/run.trec.bm25 is not written" in said
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", "run.trec", "run.trec.hybrid"}


def test_one_query_has_figures_without_intervals(flags, tmp_path, capfd):
    qrels = write_table(tmp_path / "qrels.tsv", QREL_HEADER, QRELS[:1], "\t")
    code, found, said = evaluate(capfd, *flags[:4], "--qrels", qrels)

    assert code == 0
    assert "1 query, 6 products" in said
    for row in found["retrieval"]["rows"]:
        assert row["metrics"]["mrr@10"]["value"] > 0
        assert row["metrics"]["mrr@10"]["low"] is row["metrics"]["mrr@10"]["high"] is None


def test_nan_scores_are_refused_with_the_model_named(flags, not_a_number, tmp_path, capfd):
    pairs = write_table(
        tmp_path / "pairs.csv", ["question", "product", "label"], [("a sofa", "b", 1), ("c", "d", 0)]
    )
    asked = (
        [*flags, "--base_model_row", not_a_number],
        ["--model", not_a_number, "--pairs", pairs],
        ["--model", not_a_number, "--pairs", pairs, "--protocol", "joint_pool"],
    )
    for given in asked:
        code, found, said = evaluate(capfd, *given)
        assert (code, found) == (2, None)
        assert "base: " in said
        assert "nan" in said.lower()


def test_a_run_file_named_gz_is_gzipped_with_the_files_of_the_other_rows(flags, tmp_path, capfd):
    evaluate(capfd, *flags, "--run_file", tmp_path / "run.trec")
    _, _, said = evaluate(capfd, *flags, "--run_file", tmp_path / "run.trec.gz")

    for plain, zipped in (
        ("run.trec", "run.trec.gz"),
        ("run.trec.bm25", "run.trec.bm25.gz"),
        ("run.trec.hybrid", "run.trec.hybrid.gz"),
    ):
        text = gzip.decompress((tmp_path / zipped).read_bytes()).decode()
        assert text == (tmp_path / plain).read_text()
        assert f": {tmp_path / zipped}" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/run.trec", "there is no folder {tmp_path}/none; make it first"),
        ("file/run.trec", "there is no folder {tmp_path}/file; make it first"),
        (".", "this is not a file; name one"),
    ],
)
def test_a_run_file_that_cannot_be_written_is_refused_before_anything_is_ranked(
    name, message, flags, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(
        "aisle.commands.evaluate.compare_retrieval.rank_all", lambda *_, **__: pytest.fail("ranked")
    )
    (tmp_path / "file").write_text("")
    code, found, said = evaluate(capfd, *flags, "--run_file", tmp_path / name)

    assert (code, found) == (2, None)
    assert f"--run_file {tmp_path / name}: {message.format(tmp_path=tmp_path)}" in said


def test_a_run_file_in_a_read_only_folder_is_refused(flags, tmp_path, capfd, monkeypatch):
    """The folder's permissions are simulated, because root, who may run the tests, can write anywhere."""
    monkeypatch.setattr("aisle.commands.evaluate.trec_files.os.access", lambda *_: False)
    code, _, said = evaluate(capfd, *flags, "--run_file", tmp_path / "run.trec")

    assert code == 2
    assert f"the folder {tmp_path} cannot be written to; name a file elsewhere" in said


def test_ids_with_white_space_are_refused_for_a_run_file_before_anything_is_ranked(
    flags, shop, tmp_path, capfd
):
    index_dir = tmp_path / "index"
    write_index(index_dir, count=2, product_ids=["one", "number two"])
    queries = write_table(tmp_path / "q.csv", QUERY_HEADER, [("my query", "red sofa")])
    qrels = write_table(tmp_path / "qrels.csv", QREL_HEADER, [("my query", "a", 1)])
    run_file = ["--rows", "bm25", "--run_file", tmp_path / "run.trec"]
    one = write_table(tmp_path / "one.csv", QREL_HEADER, [("1", "one", 1)])
    asked = ["--queries", shop["queries"], "--qrels", one]
    _, _, product = evaluate(capfd, "--index_dir", index_dir, *asked, *run_file, "--mode", "lexical")
    _, _, query = evaluate(capfd, *flags[:2], "--queries", queries, "--qrels", qrels, *run_file)

    assert "fields are separated by white space, which the product id 'number two' has in it" in product
    assert "fields are separated by white space, which the query id 'my query' has in it" in query
    assert not (tmp_path / "run.trec").exists()


def test_a_missing_index_to_compare_is_refused_before_the_base_embeds_the_catalogue(
    shop, flags, tmp_path, tiny_model, capfd, monkeypatch
):
    monkeypatch.setattr(
        "aisle.commands.evaluate.compare_retrieval.embed_base", lambda *_, **__: pytest.fail("embedded")
    )
    base = ["--base_model_row", tiny_model("distilbert")]
    code, _, said = evaluate(capfd, *flags, *base, "--compare", tmp_path / "none")

    assert code == 2
    assert f"{tmp_path}/none" in said
