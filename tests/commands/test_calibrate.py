"""`calibrate`, and the searches, builds and reports that use its thresholds."""

import json
from itertools import pairwise

import pytest

from aisle.cli import index_main
from aisle.index import open_index
from tests.commands.conftest import write_rows

COLOURS = ("red", "blue", "green", "oak")
NOUNS = ("sofa", "lamp", "table", "bed", "rug")
PRODUCTS = [(f"{c}{n}", f"{c} {n}") for c in COLOURS for n in NOUNS]
QUERIES = [(f"q{n}", n) for n in NOUNS]
JUDGED = [
    (query_id, product, int(title.endswith(noun)))
    for query_id, noun in QUERIES
    for product, title in PRODUCTS
]


def run(capfd, *flags):
    code = index_main([*map(str, flags), "--json"])
    captured = capfd.readouterr()
    return code, json.loads(captured.out) if code == 0 else None, captured.err


@pytest.fixture
def build(tiny_bert, tmp_path, capfd):
    def build(*flags, products=PRODUCTS):
        catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], products)
        needed = [
            "--model",
            tiny_bert,
            "--catalog",
            catalog,
            "--index_dir",
            tmp_path / "index",
            "--threads",
            1,
        ]
        code, document, said = run(capfd, "build", *needed, *flags)
        assert code == 0, said
        return document, said

    return build


@pytest.fixture
def judged(tmp_path):
    queries = write_rows(tmp_path / "queries.csv", ["query_id", "query"], QUERIES)
    qrels = write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], JUDGED)
    return ["--queries", queries, "--qrels", qrels]


@pytest.fixture
def index_dir(build, judged, tmp_path, capfd):
    build()
    code, _, said = run(capfd, "calibrate", "--index_dir", tmp_path / "index", *judged)
    assert code == 0, said
    return tmp_path / "index"


def answers(capfd, index_dir, *flags):
    code, found, said = run(capfd, "query", "--index_dir", index_dir, "--top_k", 20, *flags)
    assert code == 0, said
    return [[result["product_id"] for result in answer["results"]] for answer in found]


def test_the_document_has_the_thresholds_and_the_index_a_new_version(build, judged, tmp_path, capfd):
    build()

    code, document, said = run(capfd, "calibrate", "--index_dir", tmp_path / "index", *judged)

    assert code == 0, said
    assert document["version"] == 2
    calibration = document["calibration"]
    assert (calibration["queries"], calibration["version"]) == (5, 1)
    assert list(calibration["modes"]) == ["dense", "lexical", "hybrid"]
    assert (calibration["modes"]["dense"]["pairs"], calibration["modes"]["dense"]["relevant"]) == (100, 20)
    assert [point["p"] for point in calibration["modes"]["dense"]["points"]][:3] == [0.01, 0.02, 0.03]
    assert "dense: 100 pairs, 20% of them relevant" in said
    assert "highest p that leaves most queries a product in mode dense: " in said
    _, info, shown = run(capfd, "info", "--index_dir", tmp_path / "index")
    assert info["calibration"] == calibration
    assert "dense, lexical, hybrid; by 5 judged queries on version 1 of 20 products" in " ".join(
        shown.split()
    )


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_nonsense_finds_nothing_and_a_query_its_products(index_dir, mode, capfd):
    flags = ["--mode", mode, "--min_score", "calibrated", "--p", 0.5]

    nonsense, sofas = answers(capfd, index_dir, *flags, "zeppelin", "sofa")

    assert nonsense == []
    assert set(sofas) == {f"{colour}sofa" for colour in COLOURS}


def test_a_higher_probability_never_adds_a_product(index_dir, capfd):
    flags = ["--min_score", "calibrated", "red sofa", "--p"]

    found = [set(answers(capfd, index_dir, *flags, p)[0]) for p in (0.01, 0.2, 0.5, 0.9, 1)]

    assert all(more >= fewer for more, fewer in pairwise(found))
    assert len(found[0]) > len(found[-1])


def test_a_number_is_a_score_as_before(index_dir, capfd):
    assert answers(capfd, index_dir, "sofa", "--min_score", 1.01) == [[]]
    assert len(answers(capfd, index_dir, "sofa", "--min_score", -1)[0]) == 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--p", 0.5], "--p: is for --min_score calibrated"),
        (["--min_score", "calibrated", "--p", 0], "p"),
        (["--min_score", "often"], "min_score"),
        (["--min_score", "calibrated", "--mode", "hybrid", "--fusion", "rrf"], "needs --fusion convex"),
        (["--min_score", "calibrated", "--mode", "hybrid", "--hybrid_weight", 0.9], "for the weight 0.5"),
    ],
)
def test_thresholds_that_cannot_work_are_refused(index_dir, flags, message, capfd):
    code, _, said = run(capfd, "query", "--index_dir", index_dir, "sofa", *flags)

    assert code == 2
    assert message in said
    assert "Traceback" not in said


def test_an_index_that_is_not_calibrated_names_the_command(build, tmp_path, capfd):
    build()

    code, _, said = run(
        capfd, "query", "--index_dir", tmp_path / "index", "sofa", "--min_score", "calibrated"
    )

    assert code == 2
    assert "aisle calibrate --index_dir" in said


def test_judgements_that_list_only_relevant_products_need_the_unjudged(build, judged, tmp_path, capfd):
    build()
    relevant = [row for row in JUDGED if row[2]]
    write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], relevant)

    code, _, said = run(capfd, "calibrate", "--index_dir", tmp_path / "index", *judged)
    assert code == 2
    assert "--unjudged not_relevant" in said
    assert len(list((tmp_path / "index/versions").iterdir())) == 1
    flags = [*judged, "--unjudged", "not_relevant", "--depth", 20]
    code, document, _ = run(capfd, "calibrate", "--index_dir", tmp_path / "index", *flags)
    assert code == 0
    assert document["calibration"]["modes"]["dense"]["pairs"] == 100
    assert document["calibration"]["modes"]["dense"]["relevant"] == 20


def test_missing_files_and_ids_are_refused(build, judged, tmp_path, capfd):
    build()
    needed = ["--index_dir", tmp_path / "index"]

    code, _, said = run(capfd, "calibrate", *needed, "--queries", "none.csv", "--qrels", "none.tsv")
    assert code == 2
    assert "none.csv: there is no such file" in said
    write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], [("qsofa", "P9", 1)])
    code, _, said = run(capfd, "calibrate", *needed, *judged)
    assert code == 2
    assert "'P9'" in said


# --- builds


def test_a_nightly_build_keeps_the_calibration(index_dir, build):
    before = open_index(index_dir).calibration

    document, said = build(products=[*PRODUCTS, ("shelf", "oak shelf")])

    assert open_index(index_dir).calibration == before
    assert document["calibration_not_kept_because"] is None
    assert "the calibration is kept from version 2" in said


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--language", "none"], "another analyser"),
        (["--text_template", "{title}!"], "the texts had another template, '{title}'"),
        (["--max_length", "8"], "another encoder"),
    ],
)
def test_a_build_with_other_scores_drops_the_calibration_and_says_why(index_dir, build, flags, why):
    document, said = build(*flags)

    assert open_index(index_dir).calibration is None
    assert why in document["calibration_not_kept_because"]
    assert "the calibration of version 2 is not kept, because" in said


def test_a_newly_tuned_weight_asks_for_another_calibration(index_dir, build, judged, monkeypatch):
    monkeypatch.setattr("aisle.commands.indexing.hybrid_tuning.tune_weight", lambda _: 0.35)

    _, said = build("--tune_queries", judged[1], "--tune_qrels", judged[3])

    assert "its hybrid scores are for the weight 0.5, not 0.35: run aisle calibrate" in said
    assert open_index(index_dir).calibration is not None
