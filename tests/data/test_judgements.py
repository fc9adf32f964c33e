"""Queries and qrels: every format reads the same, and contradictions are errors that name both rows."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.data.judgements import read_qrels, read_queries
from aisle.errors import DataError
from tests.real_data import DATA, needs_data

ESCI = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}

QRELS = {"q1": {"d1": 2.0, "d2": 0.0}, "2": {"d1": 1.0}}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qrels.txt", "q1 0 d1 2\nq1 0 d2 0\n\n2\t0\td1\t1\n"),
        ("qrels.trec", "q1 Q0 d1 2.0\nq1 Q0 d2 0\n2 Q0 d1 1\n"),
        ("qrels", "q1 0 d1 2\nq1 0 d2 0\n2 0 d1 1\n"),
        ("qrels.tsv", "q1\t0\td1\t2\nq1\t0\td2\t0\n2\t0\td1\t1\n"),
        ("beir.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n2\td1\t1\n"),
        ("qrels.csv", "query_id,product_id,relevance\nq1,d1,2\nq1,d2,0\n2,d1,1\n"),
        ("four.tsv", "query_id\tproduct_id\tquery\tscore\nq1\td1\tx\t2\nq1\td2\tx\t0\n2\td1\ty\t1\n"),
        (
            "qrels.jsonl",
            '{"query_id": "q1", "product_id": "d1", "label": 2}\n'
            '{"query_id": "q1", "product_id": "d2", "label": 0}\n'
            '{"query_id": 2, "product_id": "d1", "label": 1.0}\n',
        ),
    ],
)
def test_every_format_gives_the_same_judgements(tmp_path, name, text):
    assert read_qrels([write(tmp_path / name, text)]) == QRELS


def test_parquet_judgements_and_a_label_map(tmp_path):
    table = pa.table({"query_id": [1, 1], "product_id": ["a", "b"], "esci_label": ["E", "S"]})
    pq.write_table(table, tmp_path / "q.parquet")
    assert read_qrels([tmp_path / "q.parquet"], label_map=ESCI) == {"1": {"a": 1.0, "b": 0.1}}


def test_several_files_are_joined_and_may_repeat_a_judgement(tmp_path):
    files = [write(tmp_path / "a.txt", "1 0 a 1\n"), write(tmp_path / "b.txt", "1 0 a 1\n1 0 b 0\n")]
    assert read_qrels(files) == {"1": {"a": 1.0, "b": 0.0}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "q.txt",
            "1 0 a 1\n2 0 a 1\n1 0 a 0\n",
            r"row 3 \(line 3\): product 'a' is judged 0 for .*'1', but 1 in .*row 1",
        ),
        ("q.txt", "1 0 a 1\n1 0 a\n", r"line 2\): a TREC line has 4 fields.*'1 0 a'"),
        ("q.txt", "1 0 a nan\n", r"relevance is not at least 0: 'nan'"),
        ("q.txt", "1 0 a inf\n", r"relevance is not at least 0: 'inf'"),
        ("q.csv", "query_id,product_id,label\n1,a,E\n", r"label is not a number: 'E'.*--label_map"),
        (
            "q.csv",
            "query_id,product_id,label\n1,a,\n",
            r"no judgements: the label is blank in all rows \(1\)",
        ),
        ("q.csv", "query_id,product_id,label\n1,,1\n", r"product_id is blank"),
        ("q.csv", "query_id,product_id,label\n,a,1\n", r"query_id is blank"),
        ("q.csv", "query_id,product_id,label\n1,a\n", r"row 1 \(line 2\): the header has 3 fields"),
        (
            "q.csv",
            "query_id,item,label\n1,a,1\n",
            r"no product id column; .*The columns are: query_id, item, label",
        ),
        ("q.csv", "query_id,product_id,label\n", r"no judgements"),
        ("q.txt", "\n", r"no judgements"),
    ],
)
def test_bad_judgements_are_errors_that_name_the_row(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_qrels([write(tmp_path / name, text)])


@pytest.mark.parametrize("label_map", [None, {"1": 1.0, "0": 0.0}])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "query_id,product_id,relevance\n1,a,1\n1,b,\n1,c,  \n2,a,\n1,d,0\n"),
        ("q.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t\n1\tc\t \n2\ta\t\n1\td\t0\n"),
        (
            "q.jsonl",
            '{"query_id": 1, "product_id": "a", "label": "1"}\n'
            '{"query_id": 1, "product_id": "b", "label": ""}\n'
            '{"query_id": 1, "product_id": "c", "label": null}\n'
            '{"query_id": 2, "product_id": "a", "label": null}\n'
            '{"query_id": 1, "product_id": "d", "label": "0"}\n',
        ),
    ],
)
def test_rows_without_a_label_are_not_judged_yet_left_out_and_counted(tmp_path, name, text, label_map):
    said = []
    qrels = read_qrels([write(tmp_path / name, text)], label_map=label_map, log=said.append)
    assert qrels == {"1": {"a": 1.0, "d": 0.0}}
    assert said == ["judgements with a blank label, which are left out as not judged yet: 3"]


def test_null_labels_of_parquet_are_not_judged_yet(tmp_path):
    table = pa.table(
        {"query_id": [1, 1], "product_id": ["a", "b"], "relevance": pa.array([2, None], pa.int64())}
    )
    pq.write_table(table, tmp_path / "q.parquet")
    assert read_qrels([tmp_path / "q.parquet"]) == {"1": {"a": 2.0}}


def test_a_label_outside_the_map_is_an_error_with_the_map(tmp_path):
    path = write(tmp_path / "q.csv", "query_id,product_id,label\n1,a,X\n")
    with pytest.raises(DataError, match=r"not in the label map \(E, S, C, I\): 'X'"):
        read_qrels([path], label_map=ESCI)


def test_a_missing_file_of_judgements_is_named(tmp_path):
    for name in ("gone.txt", "gone.tsv"):
        with pytest.raises(DataError, match="gone"):
            read_qrels([tmp_path / name])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "query_id,query,other\n1,red shoe,x\nb,NA,y\n1,red shoe,z\n"),
        ("q.tsv", "qid\ttext\n1\tred shoe\nb\tNA\n"),
        ("q.jsonl", '{"_id": 1, "text": "red shoe", "metadata": {}}\n{"_id": "b", "text": "NA"}\n'),
    ],
)
def test_every_format_gives_the_same_queries(tmp_path, name, text):
    path = write(tmp_path / name, text)
    assert read_queries([path]) == {"1": "red shoe", "b": "NA"}
    assert read_queries([path], only={"b", "unknown"}) == {"b": "NA"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,query\n1,a\n1,b\n", r"row 2 \(line 3\): query '1' is 'b', but 'a' in .*row 1 \(line 2\)"),
        ("query_id,query\n1,\n", r"row 1 \(line 2\): the query is blank"),
        ("query_id,query\n ,a\n", r"query_id is blank"),
        (
            "query_id,words\n1,a\n",
            r"no query column; its name is one of query, text\. The columns are: query_id, words",
        ),
        ("id,query\n1,a\n", r"no query id column"),
        ("query_id,query\n", r"No query is left"),
        ("query_id,query\n1,a,b\n", r"row 1 \(line 2\): the header has 2 fields"),
    ],
)
def test_bad_queries_are_errors_that_name_the_row(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_queries([write(tmp_path / "q.csv", text)])


def test_a_filter_that_keeps_no_query_is_an_error(tmp_path):
    with pytest.raises(DataError, match="with judgements"):
        read_queries([write(tmp_path / "q.csv", "query_id,query\n1,a\n")], only={"2"})


def test_columns_of_ids_can_be_named(tmp_path):
    queries = write(tmp_path / "q.csv", "number,query_id,query\n7,x,red shoe\n")
    qrels = write(tmp_path / "j.csv", "number,product_id,sku,relevance\n7,wrong,P1,1\n")
    named = {"query_id_column": "number"}
    assert read_queries([queries], **named) == {"7": "red shoe"}
    assert read_qrels([qrels], product_id_column="sku", **named) == {"7": {"P1": 1.0}}
    with pytest.raises(DataError, match="there is no column 'sku'"):
        read_qrels([write(tmp_path / "k.csv", "query_id,id,relevance\n7,P1,1\n")], product_id_column="sku")
    with pytest.raises(DataError, match=r"no product id column.*name another with --id_column"):
        read_qrels([tmp_path / "k.csv"])


def test_trec_files_name_no_columns(tmp_path):
    path = write(tmp_path / "judged.qrels", "7 0 P1 1\n")
    found = read_qrels([path], product_id_column="sku", query_id_column="number")
    assert found == {"7": {"P1": 1.0}}


@needs_data
def test_the_real_scifact_judgements_have_the_documented_counts():
    qrels = read_qrels([DATA / "scifact" / "qrels" / "test.tsv"])
    queries = read_queries([DATA / "scifact" / "queries.jsonl"], only=qrels)
    assert (len(qrels), len(queries), sum(map(len, qrels.values()))) == (300, 300, 339)


@needs_data
def test_the_real_esci_judgements_have_the_documented_labels():
    files = [DATA / "esci" / "examples.csv"]
    values = [value for judged in read_qrels(files, label_map=ESCI).values() for value in judged.values()]
    assert len(values) == 1199
    assert set(values) == {1.0, 0.1, 0.01, 0.0}
    assert set(read_queries(files)) == set(read_qrels(files, label_map=ESCI))


@pytest.mark.parametrize("name", ["q.txt", "q.csv"])
def test_grades_below_zero_count_as_not_relevant_and_are_counted(tmp_path, name):
    """TREC gives -1 and -2 to spam and to unjudged documents; for trec_eval they are not relevant."""
    rows = [("1", "a", "1"), ("1", "b", "-1"), ("1", "c", "-2"), ("1", "d", "0")]
    path = tmp_path / name
    if name == "q.txt":
        path.write_text("".join(f"{query} 0 {product} {grade}\n" for query, product, grade in rows))
    else:
        header = "query_id,product_id,relevance\n"
        path.write_text(header + "".join(",".join(row) + "\n" for row in rows))
    said = []

    assert read_qrels([path], log=said.append) == {"1": {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}}
    assert said == ["judgements with a label below 0, which count as not relevant: 2"]
