"""`aisle query --explain` says why each product has its rank, in words and as JSON."""

import json

import pytest

from aisle.cli import main
from tests.service.served_shop import write_served_shop


@pytest.fixture(scope="module")
def index_dir(minilm_dir, tmp_path_factory):
    return write_served_shop(tmp_path_factory.mktemp("explained"), minilm_dir).index_dir


@pytest.fixture
def query(index_dir, capsys):
    def run(*flags):
        assert main(["query", "--index_dir", str(index_dir), *flags]) == 0
        return capsys.readouterr().out

    return run


def test_an_explanation_has_words_scores_ranks_filter_and_version(query):
    shown = query("--explain", "--mode", "hybrid", "--where", "price < 60", "--top_k", "2", "blue lamps")
    (answer,) = json.loads(
        query(
            "--explain", "--mode", "hybrid", "--where", "price < 60", "--top_k", "2", "--json", "blue lamps"
        )
    )

    first, second = answer["results"]
    explained = first["explain"]
    assert (first["product_id"], first["rank"], first["cosine"]) == ("p004", 1, explained["scores"]["dense"])
    assert [word["word"] for word in explained["words"]] == ["blue", "lamps"]
    lines = [line.strip() for line in shown.splitlines()]
    for part in (
        "p004: rank 1 of 6 for 'blue lamps', hybrid score",
        "word    'lamps' BM25",
        f"cosine  {explained['scores']['dense']:.4f}, rank {explained['ranks']['dense']}",
        f"BM25    {explained['scores']['bm25']:.4f}, rank 1",
        "fused",
        "filter  price < 60: true (price = 40.0)",
        "index   version 1, encoder ",
        f"{second['product_id']}: rank 2 of 6 for 'blue lamps'",
    ):
        assert any(line.startswith(part) for line in lines), part
    for result in answer["results"]:
        assert result["explain"]["text"] in shown


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_the_products_and_scores_are_those_without_an_explanation(query, mode):
    flags = ("--mode", mode, "--exact", "--top_k", "4", "--json", "oak table", "sofa")

    plain, explained = json.loads(query(*flags)), json.loads(query("--explain", *flags))

    assert [len(answer["results"]) for answer in explained] == [4 if mode != "lexical" else 2] * 2
    for answer in explained:
        for result in answer["results"]:
            assert result.pop("explain")["settings"]["mode"] == mode
    assert explained == plain


def test_an_answer_without_products_says_why(query):
    assert "no product satisfies --where 'price < 0'" in query("--explain", "--where", "price < 0", "sofa")
    nothing = query("--explain", "--mode", "lexical", "nothing")
    assert "no product was found" in nothing
    assert "rank 1 of" not in nothing
