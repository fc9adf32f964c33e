"""query --where from the command line."""

import json

import pytest

from aisle.cli import index_main


@pytest.fixture
def index_dir(tiny_bert, catalog_csv, tmp_path):
    given = ["--model", str(tiny_bert), "--catalog", str(catalog_csv), "--index_dir", str(tmp_path / "index")]
    assert index_main(["build", *given, "--threads", "1"]) == 0
    return tmp_path / "index"


def test_only_products_that_satisfy_the_condition_are_found(index_dir, capfd):
    capfd.readouterr()
    flags = ["--top_k", "500", "--where", "price < 20 and brand in ['Acme', 'Zenith']", "--json"]

    assert index_main(["query", "--index_dir", str(index_dir), *flags, "red sofa", "blue lamp"]) == 0

    for answer in json.loads(capfd.readouterr().out):
        assert sorted(result["payload"]["price"] for result in answer["results"]) == list(range(10, 20))


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_lexical_and_hybrid_search_find_only_products_that_satisfy_the_condition(
    index_dir, capfd, mode, fusion
):
    capfd.readouterr()
    flags = ["--mode", mode, "--fusion", fusion, "--top_k", "500", "--where", "price >= 20", "--json"]

    assert index_main(["query", "--index_dir", str(index_dir), *flags, "sofa"]) == 0

    found = json.loads(capfd.readouterr().out)[0]["results"]
    with_the_word = [result for result in found if "sofa" in result["payload"]["title"]]
    assert with_the_word == found[: len(with_the_word)] != []
    assert min(result["payload"]["price"] for result in found) >= 20
    assert len(found) == {"lexical": len(with_the_word), "hybrid": 30}[mode]


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_lexical_and_hybrid_search_may_find_nothing(index_dir, capfd, mode):
    capfd.readouterr()
    flags = ["--mode", mode, "--where", "price < 0", "--json"]

    assert index_main(["query", "--index_dir", str(index_dir), *flags, "sofa"]) == 0

    assert json.loads(capfd.readouterr().out) == [{"query": "sofa", "results": []}]


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_no_satisfying_product_is_logged_once(index_dir, capfd, json_flag):
    capfd.readouterr()
    flags = ["--where", "price < 0", *json_flag, "red sofa", "blue lamp"]

    assert index_main(["query", "--index_dir", str(index_dir), *flags]) == 0

    said = capfd.readouterr()
    assert (said.out + said.err).count("no product satisfies --where 'price < 0'") == 1
    if json_flag:
        assert json.loads(said.out) == [
            {"query": "red sofa", "results": []},
            {"query": "blue lamp", "results": []},
        ]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--where", "cost < 5"], "no column 'cost'"),
        (["--where", "price < 'x'"], "'price' holds numbers"),
        (["--where", ""], "empty"),
    ],
)
def test_a_filter_that_cannot_be_answered_is_refused_before_the_encoder_is_loaded(
    index_dir, capfd, monkeypatch, flags, part
):
    monkeypatch.setattr("aisle.search.encoders.encoder_of_index", None)
    capfd.readouterr()

    assert index_main(["query", "--index_dir", str(index_dir), *flags, "sofa"]) == 2

    message = capfd.readouterr().err
    assert part in message
    assert "Traceback" not in message
