"""The language of BM25: chosen at build, kept by every command that makes a version, named in reports."""

import json

import pytest

from aisle.cli import index_main
from aisle.index import open_index
from tests.commands.conftest import write_rows

GERMAN = [
    ("a", "Häuser aus Holz für Kinder"),
    ("b", "Lampe mit Schirm und Kabel"),
    ("c", "Stuhl für den Garten"),
]


def run(capfd, command, *flags):
    code = index_main([command, *map(str, flags), "--json"])
    captured = capfd.readouterr()
    return code, json.loads(captured.out) if code == 0 else None, captured.err


@pytest.fixture
def build(tiny_bert, tmp_path, capfd):
    def build(rows, *flags):
        catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], rows)
        index_dir = tmp_path / "index"
        needed = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", index_dir, "--threads", 1]
        code, _, err = run(capfd, "build", *needed, *flags)
        assert code == 0, err
        return index_dir, err

    return build


def first_by_words(capfd, index_dir, query):
    _, found, _ = run(capfd, "query", "--index_dir", index_dir, "--mode", "lexical", "--top_k", 3, query)
    return [result["product_id"] for result in found[0]["results"]]


def test_the_language_is_found_from_the_texts_and_printed(build, capfd):
    index_dir, err = build(GERMAN)

    assert "words (BM25): german: Snowball stems" in err
    assert first_by_words(capfd, index_dir, "haus") == ["a"]
    assert first_by_words(capfd, index_dir, "für") == []


def test_the_next_build_keeps_the_language_and_a_flag_changes_it(build, capfd):
    build(GERMAN)
    english = [("a", "house of wood for kids"), ("b", "lamp with a shade"), ("c", "chairs for the garden")]

    index_dir, kept = build(english)
    assert "german: Snowball stems" in kept
    assert "as in the version before" in kept
    _, changed = build(english, "--language", "english")
    assert "english: Snowball stems" in changed
    assert first_by_words(capfd, index_dir, "chair") == ["c"]
    build(english, "--language", "none")
    assert first_by_words(capfd, index_dir, "chair") == []
    assert first_by_words(capfd, index_dir, "chairs for") == ["c", "a"]


@pytest.mark.parametrize("command", ["upsert", "delete", "compact", "tune"])
def test_every_command_that_makes_a_version_splits_words_as_the_build_did(command, build, capfd, tmp_path):
    index_dir, _ = build([*GERMAN, ("d", "Regal")], "--language", "german")
    added = write_rows(tmp_path / "new.csv", ["product_id", "title"], [("e", "Bücher im Regal")])
    flags = {"upsert": ["--catalog", added], "delete": ["d"], "compact": [], "tune": []}[command]

    code, _, err = run(capfd, command, "--index_dir", index_dir, *flags)

    assert code == 0, err
    index = open_index(index_dir)
    assert index.manifest.command == command
    assert index.analyser.language == "german"
    assert first_by_words(capfd, index_dir, "haus") == ["a"]
    if command == "upsert":
        assert first_by_words(capfd, index_dir, "buch") == ["e"]


def test_info_shows_how_words_are_split(build, capfd):
    index_dir, _ = build(GERMAN, "--language", "german")

    _, document, _ = run(capfd, "info", "--index_dir", index_dir)

    assert document["analyser"]["language"] == "german"
    assert "und" in document["analyser"]["stop_words"]


def test_evaluate_names_the_analyser_of_bm25(build, capfd, tmp_path):
    index_dir, _ = build(GERMAN, "--language", "german")
    queries = write_rows(tmp_path / "q.csv", ["query_id", "query"], [(1, "haus"), (2, "lampen")])
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n")
    flags = ["--index_dir", index_dir, "--queries", queries, "--qrels", qrels]

    code, document, err = run(capfd, "evaluate", *flags, "--rows", "bm25", "--mode", "lexical")

    assert code == 0, err
    assert document["mrr@10"] == 1.0
    said = "german: Snowball stems, "
    assert said in document["provenance"]["configuration"]["bm25_analyser"]
    assert any(said in note for note in document["notes"])
    assert said in err


def test_an_index_of_other_rules_is_refused_with_the_remedy(build, capfd, monkeypatch):
    index_dir, _ = build(GERMAN)
    monkeypatch.setattr("aisle.index.analyser.RULES", 2)

    code, _, err = run(capfd, "query", "--index_dir", index_dir, "--mode", "lexical", "haus")

    assert code == 2
    assert "build the index again" in err


CASES = [
    ("xbox series s", "1"),
    ("playstation 4", "3"),
    ("C++", "9"),
    ("R&B", "11"),
    ("lego", "12"),
    ("சோபா", "16"),
    ("沙发", "18"),
    ("ソファ", "19"),
    ("iphone 15 pro 128 gb", "21"),
    ("GS-00105", "22"),
    ("22", "22"),
    ("6", "6"),
]


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_signs_single_letters_scripts_and_ids_are_found_in_both_modes(mode, minilm, tmp_path, capfd):
    from tests.index.test_analyser import PRODUCTS

    rows = [(str(number), title) for number, title in enumerate(PRODUCTS, start=1)]
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], rows)
    flags = ["--model", minilm, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert run(capfd, "build", *flags)[0] == 0

    asked = ["--index_dir", tmp_path / "index", "--mode", mode, *(query for query, _ in CASES)]
    _, found, _ = run(capfd, "query", *asked)

    assert [answer["results"][0]["product_id"] for answer in found] == [best for _, best in CASES]
    assert all(
        result["score"] < 1 for answer in found for result in answer["results"][1:] if mode == "hybrid"
    )


def test_an_id_that_no_product_has_gives_no_other_product_a_full_score(minilm, tmp_path, capfd):
    """The best of poor answers had 1.0000, like a product found by its id."""
    rows = [("GS-00105", "pruning saw"), ("GS-00200", "GS hedge shears"), ("X-1", "garden hose")]
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], rows)
    flags = ["--model", minilm, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert run(capfd, "build", *flags)[0] == 0

    hybrid = ["--index_dir", tmp_path / "index", "--mode", "hybrid", "--top_k", 3]
    _, found, _ = run(capfd, "query", *hybrid, "GS-99999", "GS-00105")

    assert found[0]["results"][0]["score"] < 0.7
    assert (found[1]["results"][0]["product_id"], found[1]["results"][0]["score"]) == ("GS-00105", 1.0)
    assert found[1]["results"][1]["score"] < 0.9


def test_min_score_in_hybrid_mode_is_a_cosine_that_nonsense_does_not_reach(minilm, tmp_path, capfd):
    rows = [("sofa-1", "red velvet sofa"), ("lamp-1", "desk lamp with a metal arm"), ("mug-1", "coffee mug")]
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], rows)
    flags = ["--model", minilm, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert run(capfd, "build", *flags)[0] == 0

    hybrid = ["--index_dir", tmp_path / "index", "--mode", "hybrid", "--top_k", 3]
    queries = ["velvet couch", "qwzx plorf gnarr", "mug-1"]
    _, found, _ = run(capfd, "query", *hybrid, "--min_score", 0.5, *queries)
    _, dense, _ = run(capfd, "query", "--index_dir", tmp_path / "index", "--top_k", 3, *queries)

    assert [[result["product_id"] for result in answer["results"]] for answer in found] == [
        ["sofa-1"],
        [],
        ["mug-1"],  # searched by its id
    ]
    cosines = {r["product_id"]: r["score"] for r in dense[0]["results"]}
    assert found[0]["results"][0]["cosine"] == pytest.approx(cosines["sofa-1"], abs=1e-6)
    assert [result["rank"] for answer in found for result in answer["results"]] == [1, 1]


@pytest.fixture
def tuning(tmp_path):
    queries = write_rows(tmp_path / "tune.csv", ["query_id", "query"], [(1, "haus"), (2, "lampe")])
    qrels = tmp_path / "tune.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n")
    return ["--tune_queries", queries, "--tune_qrels", qrels]


def test_a_nightly_build_keeps_the_tuned_hybrid_weight(build, tuning, monkeypatch):
    monkeypatch.setattr("aisle.commands.indexing.hybrid_tuning.tune_weight", lambda _: 0.35)
    index_dir, tuned = build(GERMAN, *tuning)
    assert "weight 0.35 for embeddings, 0.65 for words, tuned on" in tuned

    _, kept = build([*GERMAN, ("d", "Regal aus Holz")])

    assert "weight 0.35 for embeddings, 0.65 for words, kept from version 1" in kept
    assert open_index(index_dir).manifest.hybrid_weight == 0.35


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--language", "none"], "another analyser"),
        (["--text_template", "{title}!"], "the texts had another template, '{title}'"),
        (["--max_length", "8"], "another encoder"),
        (["--dimensions", "16"], "another encoder"),
    ],
)
def test_a_weight_tuned_for_other_settings_is_dropped_with_the_reason(flags, why, build, tuning, monkeypatch):
    monkeypatch.setattr("aisle.commands.indexing.hybrid_tuning.tune_weight", lambda _: 0.35)
    index_dir, _ = build(GERMAN, *tuning)

    _, said = build(GERMAN, *flags)

    assert "weight 0.35 for embeddings, 0.65 for words, of version 1, is not kept" in said
    assert why in said
    assert open_index(index_dir).manifest.hybrid_weight is None


def test_a_build_without_an_earlier_tuned_weight_does_not_mention_it(build):
    build(GERMAN)

    assert "hybrid search" not in build(GERMAN)[1]
