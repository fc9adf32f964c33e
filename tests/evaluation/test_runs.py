import gzip
import math

import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.runs import read_trec_run, to_run, write_trec_run


def test_a_run_names_products_and_skips_padding():
    rows = np.array([[2, 0], [1, -1]])
    scores = np.array([[0.5, 0.25], [1.0, -np.inf]], dtype=np.float32)

    run = to_run(["q1", "q2"], ["a", "b", "c"], rows, scores)

    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {"b": 1.0}}


def test_a_run_keeps_queries_with_an_empty_ranking():
    assert to_run(["q"], list("abcd"), [[]], [[]]) == {"q": {}}


def test_a_run_needs_one_ranking_per_query():
    with pytest.raises(EvaluationError, match="2 query ids, 1 lists of rows and 1"):
        to_run(["q1", "q2"], ["a"], [[0]], [[1.0]])


def test_a_run_refuses_a_query_id_given_twice():
    with pytest.raises(EvaluationError, match="'q2' twice"):
        to_run(["q1", "q2", "q2"], ["a"], [[0]] * 3, [[1.0]] * 3)


def test_a_written_run_has_trec_s_six_fields_best_first(tmp_path):
    write_trec_run(tmp_path / "run", {"q1": {"b": 0.5, "a": 0.5, "c": 2}, "q2": {"a": -1.0}}, tag="tuned")

    assert (tmp_path / "run").read_text() == (
        "q1 Q0 c 1 2.0 tuned\nq1 Q0 a 2 0.5 tuned\nq1 Q0 b 3 0.4999999701976776 tuned\nq2 Q0 a 1 -1.0 tuned\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_is_read_back_to_the_last_bit(tmp_path):
    generator = np.random.default_rng(0)
    run = {f"q{i}": {f"p{j}": float(generator.normal()) for j in range(20)} for i in range(5)}
    run["q0"]["é"] = float(np.float32(0.1))
    run["q1"]["last"] = -math.inf

    write_trec_run(tmp_path / "run", run)

    assert read_trec_run(tmp_path / "run") == run


def test_tabs_blank_lines_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "run").write_text("\ufeffq\tQ0\ta\t1\t1e-3\tx\n\n", encoding="utf-8")

    assert read_trec_run(tmp_path / "run") == {"q": {"a": 0.001}}


def test_a_run_with_the_suffix_gz_is_gzipped_to_the_same_bytes_each_time(tmp_path):
    run = {"q": {"é": 0.5, "a": 0.25}}
    for name in ("run.gz", "again.GZ", "run"):
        write_trec_run(tmp_path / name, run)

    assert gzip.decompress((tmp_path / "run.gz").read_bytes()) == (tmp_path / "run").read_bytes()
    assert (tmp_path / "run.gz").read_bytes() == (tmp_path / "again.GZ").read_bytes()
    assert read_trec_run(tmp_path / "run.gz") == run


def test_a_truncated_or_invalid_gzip_file_is_refused(tmp_path):
    write_trec_run(tmp_path / "run.gz", {"q": {f"p{row}": float(row) for row in range(100)}})
    (tmp_path / "cut.gz").write_bytes((tmp_path / "run.gz").read_bytes()[:-20])
    (tmp_path / "text.gz").write_text("q Q0 a 1 0.5 x\n")

    for name in ("cut.gz", "text.gz"):
        with pytest.raises(EvaluationError, match=rf"{name}: the run cannot be read: "):
            read_trec_run(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 b 2 0.5", r"line 2: a line of a run file has 6 fields .* found 5: 'q Q0 b 2 0.5'"),
        ("q Q0 b 2 0.5 x y", r"line 2: .* found 7"),
        ("q Q0 b 2 high x", r"line 2: the score must be a number, found 'high'"),
        ("q Q0 b 2 nan x", r"line 2: the score must be a number, found 'nan'"),
        ("q Q0 b two 0.5 x", r"line 2: the rank must be a whole number, found 'two'"),
        ("q Q0 a 2 0.5 x", r"line 2: product 'a' comes twice for query 'q'"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_line(line, message, tmp_path):
    (tmp_path / "bad.run").write_text(f"q Q0 a 1 0.9 x\n{line}\n")

    with pytest.raises(EvaluationError, match=rf"bad\.run, {message}"):
        read_trec_run(tmp_path / "bad.run")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_run_file_is_refused(content, tmp_path):
    (tmp_path / "run").write_text(content)

    with pytest.raises(EvaluationError, match="run file is empty"):
        read_trec_run(tmp_path / "run")


def test_a_run_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"q Q0 \xe9 1 0.5 x\n")

    with pytest.raises(EvaluationError, match="none: the run cannot be read: No such file"):
        read_trec_run(tmp_path / "none")
    with pytest.raises(EvaluationError, match="latin: a run file is UTF-8 text"):
        read_trec_run(tmp_path / "latin")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({}, "the run is empty"),
        ({"q": {}}, "the run is empty"),
        ({"q": {"a b": 1.0}}, "the product id 'a b' must not"),
        ({"q 1": {"a": 1.0}}, "the query id 'q 1' must not"),
        ({"q": {"": 1.0}}, "the product id '' must not"),
        ({"q": {"a": math.nan}}, "query 'q', product 'a': a score must be a number, found NaN"),
    ],
)
def test_a_run_that_the_format_cannot_hold_is_refused_and_the_old_file_stays(run, message, tmp_path):
    (tmp_path / "run").write_text("old")

    with pytest.raises(EvaluationError, match=message):
        write_trec_run(tmp_path / "run", run)

    assert (tmp_path / "run").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="none/run: the run cannot be written: No such file"):
        write_trec_run(tmp_path / "none" / "run", {"q": {"a": 1.0}})
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="file/run: the run cannot be written: Not a directory"):
        write_trec_run(tmp_path / "file" / "run", {"q": {"a": 1.0}})


def ranked_by_trec_eval(path):
    """Return {query: products, best first} in trec_eval's order: float32, ties from Z to A."""
    found = {}
    for line in path.read_text().splitlines():
        query, _, product, _, score, _ = line.split()
        found.setdefault(query, []).append((np.float32(score), product))
    return {
        query: [product for _, product in sorted(ranked, reverse=True)] for query, ranked in found.items()
    }


def ndcg_at_10(ranking, judged):
    """Return nDCG@10 with linear gains, by its formula."""
    gains = [judged.get(product, 0.0) for product in ranking[:10]]
    ideal = sorted(judged.values(), reverse=True)[:10]
    dcg, best = (sum(gain / math.log2(rank + 2) for rank, gain in enumerate(side)) for side in (gains, ideal))
    return dcg / best


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_trec_eval_s_order_of_ties_gives_the_same_metrics(levels, tmp_path):
    """BM25's scores often tie; trec_eval's order of ties gave another nDCG."""
    generator = np.random.default_rng(levels)
    qrels, run = {}, {}
    for query in map(str, range(30)):
        products = [f"p{number}" for number in generator.permutation(40)]
        scores = generator.integers(0, levels, 40) / levels
        run[query] = dict(zip(products, scores.tolist(), strict=True))
        qrels[query] = {product: 1.0 for product in generator.choice(products, 6, replace=False)}

    write_trec_run(tmp_path / "run", run)
    ranked = ranked_by_trec_eval(tmp_path / "run")

    assert ranked == {
        query: sorted(scores, key=lambda product: (-scores[product], product))
        for query, scores in run.items()
    }
    ours = evaluate_run(qrels, run, cutoffs=(10,)).values["ndcg@10"]
    assert ours == pytest.approx(np.mean([ndcg_at_10(ranked[query], qrels[query]) for query in qrels]))
    assert evaluate_run(qrels, read_trec_run(tmp_path / "run"), cutoffs=(10,)).values["ndcg@10"] == ours


def test_scores_that_are_equal_as_float32_are_separated(tmp_path):
    run = {"q": {"a": 0.1 + 2e-12, "b": 0.1 + 1e-12, "c": 0.1, "d": float(np.nextafter(np.float32(0.1), 0))}}

    write_trec_run(tmp_path / "run", run)

    assert ranked_by_trec_eval(tmp_path / "run") == {"q": list("abcd")}
    assert list(read_trec_run(tmp_path / "run")["q"]) == list("abcd")


def test_scores_without_a_number_below_them_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="several scores are -inf, and there is no lower number"):
        write_trec_run(tmp_path / "run", {"q": {"a": -math.inf, "b": -math.inf}})


def test_equal_scores_of_a_file_are_in_the_order_of_its_ranks(tmp_path):
    (tmp_path / "run").write_text(
        "q Q0 z 1 0 solr\nq Q0 b 3 0 solr\nq Q0 y 2 0 solr\nr Q0 b 0 1 x\nr Q0 a 0 1 x\n"
    )

    found = read_trec_run(tmp_path / "run")

    assert {query: list(scores) for query, scores in found.items()} == {"q": ["z", "y", "b"], "r": ["b", "a"]}
    qrels = {"q": {"z": 1.0}, "r": {"b": 1.0}}
    assert evaluate_run(qrels, found, cutoffs=(1,)).values["mrr@1"] == 1.0


def test_ranks_that_contradict_the_scores_are_refused_as_distances_would_be(tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 0.2 x\nq Q0 b 2 0.9 x\n")

    with pytest.raises(
        EvaluationError, match=r"query 'q': ranks and scores contradict .* 'a' has rank 1 and score 0\.2"
    ):
        read_trec_run(tmp_path / "run")
