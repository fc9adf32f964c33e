"""infer_index.py evaluate: every row uses exact search, and a separate line shows what the graph misses."""

import numpy as np
import pytest

from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.index import ann_recall, open_index
from aisle.index.hybrid_search import search_hybrid
from aisle.models.loading import load_encoder
from tests.commands.evaluate.evaluated_shop import build, evaluate, write_adapter, write_table

WORDS = ("red", "blue", "oak", "wool", "sofa", "lamp", "table", "bed", "rug", "chair", "garden", "small")
COUNT = 400


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """A catalogue with a graph so sparse that it misses most of the exact results."""
    folder = tmp_path_factory.mktemp("sparse")
    generator = np.random.default_rng(0)
    titles = [" ".join(generator.choice(WORDS, 4)) for _ in range(COUNT)]
    products = [(f"p{row:03}", title) for row, title in enumerate(titles)]
    queries = [(f"q{row}", titles[row * 7]) for row in range(20)]
    qrels = [(f"q{row}", f"p{row * 7:03}", 1) for row in range(20)]
    return {
        "index": build(
            write_adapter(folder / "run", tiny_bert),
            write_table(folder / "products.csv", ["product_id", "title"], products),
            folder / "index",
            *("--precision", "fp32", "--M", 2, "--ef_construction", 2, "--ef_search", 1),
        ),
        "run": folder / "run",
        "queries": write_table(folder / "queries.csv", ["query_id", "query"], queries),
        "qrels": write_table(folder / "qrels.csv", ["query_id", "product_id", "relevance"], qrels),
        "asked": dict(queries),
        "judged": {query: {product: float(grade)} for query, product, grade in qrels},
    }


@pytest.fixture(scope="module")
def searched(shop):
    """Return a function that searches for a row with the Python API, exactly or through the graph."""
    index = open_index(shop["index"])
    asked = load_encoder(str(shop["run"]), device="cpu").encode_queries(list(shop["asked"].values()))

    def search(row, *, exact):
        if row == "tuned":
            return index.search(asked, top_k=10, exact=exact)
        return search_hybrid(index, list(shop["asked"].values()), asked, top_k=10, exact=exact)

    return search


def ndcg(found, shop):
    run = {
        query: dict(zip(ids.tolist(), scores.tolist(), strict=True))
        for query, ids, scores in zip(shop["asked"], found.product_ids, found.scores, strict=True)
    }
    return evaluate_run(shop["judged"], run, cutoffs=(10,)).per_query["ndcg@10"]


def test_rows_are_ranked_exactly_and_a_separate_line_shows_the_graphs_loss(shop, flags, searched, capfd):
    code, found, said = evaluate(capfd, *flags)

    assert code == 0
    rows = {row["name"]: row["metrics"] for row in found["retrieval"]["rows"]}
    assert [loss["name"] for loss in found["graph"]] == ["tuned", "hybrid"]
    for loss in found["graph"]:
        exact, graph = (searched(loss["name"], exact=exact) for exact in (True, False))
        before, after = ndcg(exact, shop), ndcg(graph, shop)
        assert rows[loss["name"]]["ndcg@10"]["value"] == pytest.approx(before.mean())
        assert loss["exact"] == pytest.approx(before.mean())
        assert loss["graph"] == pytest.approx(after.mean())
        assert loss["difference"]["value"] == pytest.approx((after - before).mean())
        assert loss["changed"] == np.count_nonzero(np.abs(after - before) > 1e-12)
        assert loss["recall_at_10"] == ann_recall(
            graph.rows, exact.rows, approximate_scores=graph.scores, exact_scores=exact.scores
        )
    assert found["ann_recall@10"] == found["graph"][0]["recall_at_10"] < 0.9
    assert found["graph"][0]["graph"] < found["graph"][0]["exact"]
    assert f"ann_recall@10 {found['ann_recall@10']:.4f}, nDCG@10 {found['graph'][0]['graph']:.3f} for" in said


def test_ef_search_changes_only_the_line_on_the_graph(flags, capfd):
    _, narrow, _ = evaluate(capfd, *flags, "--ef_search", 1)
    _, wide, _ = evaluate(capfd, *flags, "--ef_search", COUNT)

    assert narrow["retrieval"] == wide["retrieval"]
    assert wide["graph"][0]["recall_at_10"] > narrow["graph"][0]["recall_at_10"]


def test_a_compared_index_is_ranked_exactly_too(shop, flags, capfd):
    _, found, _ = evaluate(capfd, *flags, "--rows", "tuned", "--compare", shop["index"])

    tuned, same = found["retrieval"]["rows"]
    assert same["metrics"] == tuned["metrics"]


def test_an_exact_index_has_no_line_figure_or_report_section_on_a_graph(shop, flags, capfd, tmp_path):
    catalog = shop["index"].parent / "products.csv"
    index = build(shop["run"], catalog, tmp_path / "index", "--precision", "fp32", "--backend", "exact")
    exact = ["--index_dir", index, *flags[2:]]
    _, with_graph, _ = evaluate(capfd, *flags)
    code, found, said = evaluate(capfd, *exact, "--report", tmp_path / "report")

    assert code == 0
    assert found["retrieval"] == with_graph["retrieval"]
    assert (found["graph"], found["ann"]) == ([], [])
    assert found["ann_recall@10"] is found["ann_recall_at_10"] is found["ef_search"] is None
    assert found["provenance"]["configuration"]["ef_search"] is None
    assert "graph" not in said
    assert "ef_search" not in said
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="retrieval"' in page
    assert 'id="graph"' not in page

    code, _, said = evaluate(capfd, *exact, "--ef_search", 50)
    assert code == 2
    assert "--ef_search: backend 'exact' has nothing to tune, found 50; leave it out" in said
