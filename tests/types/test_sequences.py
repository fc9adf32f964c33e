"""Public functions take many texts, ids or numbers from any iterable, or refuse: none are lost in silence."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aisle.data.files import expand_files
from aisle.data.judgements import read_queries
from aisle.errors import AisleError, DataError, EvaluationError, ModelError, SearchError
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.retrieval_metrics import evaluate_run, metric_names
from aisle.evaluation.runs import to_run
from aisle.evaluation.significance import holm
from aisle.index import build_index, delete_products, open_index
from aisle.index.fusion import tune_weight
from aisle.models.loading import load_encoder
from aisle.types.sequences import as_sequence

TEXTS = ["red sofa", "oak table", "desk lamp", "red sofa"]
IDS = ["a", "b", "c", "d"]
EMBEDDINGS = np.eye(4, dtype=np.float32)
QRELS = {"q1": {"a": 1.0, "b": 0.5}, "q2": {"c": 1.0}}
RUN = {"q1": {"b": 0.9, "a": 0.8}, "q2": {"c": 0.7}}
WRONG = ("red sofa", b"red sofa", {"red sofa": 1}, pd.DataFrame({"text": TEXTS}), None, 3)


def build(folder, **changes):
    given = {
        "product_ids": IDS,
        "payload": pa.table({"title": TEXTS}),
        "embeddings": [EMBEDDINGS],
        "dim": 4,
        "fingerprint": "f" * 64,
        "encoder": {"model": "m"},
        "texts": TEXTS,
    }
    build_index(folder, **given | changes)
    return open_index(folder)


@pytest.fixture
def index(tmp_path):
    return build(tmp_path / "index")


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return load_encoder(tiny_bert, device="cpu")


@pytest.mark.parametrize("given", [iter, tuple, np.array, pd.Series, lambda texts: (one for one in texts)])
@pytest.mark.parametrize("side", ["encode_queries", "encode_products"])
def test_texts_of_any_iterable_are_embedded(side, given, encoder):
    encode = getattr(encoder, side)

    np.testing.assert_array_equal(encode(given(TEXTS)), encode(TEXTS))


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_would_be_taken_apart_into_other_texts_is_refused(wrong, encoder):
    with pytest.raises(ModelError, match="texts must be a list of texts; found "):
        encoder.encode_products(wrong)


def test_an_index_is_built_from_iterators(tmp_path, index):
    built = build(tmp_path / "other", product_ids=iter(IDS), texts=iter(TEXTS), embeddings=iter([EMBEDDINGS]))

    assert built.products.equals(index.products)


@pytest.mark.parametrize("name", ["product_ids", "texts"])
def test_an_index_of_the_letters_of_one_text_is_refused(name, tmp_path):
    with pytest.raises(DataError, match=f"{name} must be a list of {name}; found the text 'abcd'"):
        build(tmp_path / "index", **{name: "abcd"})


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_queries_of_an_iterator_are_searched_for(mode, index):
    options = {"mode": mode, "top_k": 2} | ({} if mode == "lexical" else {"query_embeddings": EMBEDDINGS})

    found = index.search(queries=iter(TEXTS), **options)

    expected = index.search(queries=TEXTS, **options)
    assert len(found) == 4
    np.testing.assert_array_equal(found.product_ids, expected.product_ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_the_letters_of_one_query_are_not_searched_for(index):
    with pytest.raises(SearchError, match="queries must be a list of queries; found the text 'red sofa'"):
        index.search(queries="red sofa", mode="lexical", top_k=2)


def test_rows_of_an_iterator_are_refused_where_only_an_array_will_do(index):
    with pytest.raises(SearchError, match="rows: must be a whole number, or an array"):
        index.payload(iter([0, 1]))


def test_products_of_an_iterator_are_deleted(index, tmp_path):
    delete_products(tmp_path / "index", (one for one in ["b", "d"]))

    assert open_index(tmp_path / "index").products.column("product_id").to_pylist() == ["a", "c"]


def test_the_products_named_by_the_letters_of_an_id_are_not_deleted(index, tmp_path):
    with pytest.raises(DataError, match="product_ids must be a list of product_ids; found the text 'bd'"):
        delete_products(tmp_path / "index", "bd", ignore_unknown=True)


def test_a_run_of_iterators_is_the_run_of_lists():
    rows, scores = [[1, 0], [2, -1]], [[0.9, 0.8], [0.7, 0.0]]

    assert to_run(iter(["q1", "q2"]), iter(IDS), iter(rows), map(iter, scores)) == RUN


def test_metrics_with_iterators_are_those_with_lists():
    expected = evaluate_run(QRELS, RUN, cutoffs=[1, 10], known_products=["a", "b"])

    found = evaluate_run(QRELS, RUN, cutoffs=iter([1, 10]), known_products=iter(["a", "b"]))

    assert found.to_dict() == expected.to_dict()
    assert found.unknown_products == ("c",)
    assert metric_names(iter([1, 10])) == metric_names([1, 10])


def test_a_comparison_with_iterators_is_that_with_lists():
    options = {"kinds": {"one": "base", "two": "tuned"}, "base": "one", "products": 4, "resamples": 10}
    lists = {"known_products": ["a", "b", "c"], "unknown_queries": ["q3"], "cutoffs": [1, 10]}
    qrels = QRELS | {"q3": {"a": 1.0}}

    found, _ = compare_runs(
        {"one": RUN, "two": RUN}, qrels, **options, **{name: iter(value) for name, value in lists.items()}
    )

    expected, _ = compare_runs({"one": RUN, "two": RUN}, qrels, **options, **lists)
    assert dataclasses.asdict(found) == dataclasses.asdict(expected)
    assert found.unknown_queries == ("q3",)


def test_numbers_of_iterators_are_those_of_lists():
    assert holm(iter([0.01, 0.04, 0.03])) == holm([0.01, 0.04, 0.03])
    assert tune_weight(lambda weight: -abs(weight - 0.3), weights=iter([0.1, 0.3, 0.5])) == 0.3
    with pytest.raises(EvaluationError, match="cutoffs must be a list of cutoffs; found a int"):
        evaluate_run(QRELS, RUN, cutoffs=10)


def test_ids_to_keep_of_an_iterator_keep_all_their_queries(tmp_path):
    path = tmp_path / "queries.csv"
    path.write_text("query_id,query\n1,sofa\n2,lamp\n3,desk\n", encoding="utf-8")

    assert read_queries([path], only=iter(["3", "1"])) == {"1": "sofa", "3": "desk"}
    assert expand_files(iter([str(path)])) == [path]
    with pytest.raises(DataError, match="files must be a list of files; found the text"):
        expand_files(str(path))  # whose first letter is the folder of everything


def test_what_can_be_read_again_is_not_copied():
    ids = np.array(IDS)

    assert as_sequence(ids, "ids", AisleError) is ids
    assert as_sequence(TEXTS, "texts", AisleError) is TEXTS
