"""Natural language inference joined into triples, by hand-made rows and by data sets with other schemas."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from aisle.data.dataset_sources import iter_split, resolve_dataset
from aisle.data.files import iter_rows
from aisle.data.memory_rows import memory_rows
from aisle.data.nli import is_nli, join_nli
from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.data.triple_rows import triple_columns
from aisle.errors import DataError
from tests.hub_server import TOKEN, HubServer


def rows_of(*values, source="snli"):
    return [Row(source, number, dict(one)) for number, one in enumerate(values, start=1)]


def nli(premise, hypothesis, label):
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def joined(rows, **columns):
    logged = []
    made = list(join_nli(iter(rows), wanted=PairColumns(**columns), log=logged.append))
    return made, logged


def triples(made):
    return [tuple(row.values.values()) for row in made]


def test_each_entailment_meets_all_contradictions_of_its_premise():
    made, logged = joined(
        rows_of(
            nli("A man eats.", "Someone eats.", 0),
            nli("A man eats.", "A man is tall.", 1),
            nli("A dog runs.", "A dog sleeps.", 2),
            nli("A man eats.", "A man sleeps.", 2),
            nli("A man eats.", "There is food.", 0),
            nli("A man eats.", "Nobody eats.", 2),
            nli("A dog runs.", "An animal runs.", 0),
        )
    )
    assert triples(made) == [
        ("A man eats.", "Someone eats.", ["A man sleeps.", "Nobody eats."]),
        ("A man eats.", "There is food.", ["A man sleeps.", "Nobody eats."]),
        ("A dog runs.", "An animal runs.", ["A dog sleeps."]),
    ]
    assert "3 entailment, 1 neutral, 3 contradiction, and 0 without a label (-1)" in logged[0]
    assert "3 pairs of premise and entailment with their contradictions, 5 triples" in logged[1]


@pytest.mark.parametrize(
    "labels", [(0, 2, -1), ("0", "2", "-1"), (0.0, 2.0, -1.0), ("entailment", "Contradiction", "-")]
)
def test_labels_are_numbers_or_words_and_rows_without_a_label_are_counted(labels):
    entailment, contradiction, none = labels
    made, logged = joined(
        rows_of(
            nli("p", "e", entailment), nli("p", "c", contradiction), nli("p", "x", none), nli("q", "", none)
        )
    )
    assert triples(made) == [("p", "e", ["c"])]
    assert "2 without a label" in logged[0]


def test_rows_of_sources_with_other_columns_are_joined_by_the_premise():
    snli = rows_of(
        {"sentence1": "p", "sentence2": "e", "gold_label": "entailment", "pairID": "7"}, source="a.jsonl"
    )
    glue = rows_of({**nli("p", "c", 2), "idx": 3}, source="nyu-mll/glue")
    made, _ = joined(snli + glue)
    assert triples(made) == [("p", "e", ["c"])]
    assert is_nli(snli[0])
    assert is_nli(glue[0])
    assert not is_nli(Row("sts", 1, {"sentence1": "a", "sentence2": "b", "score": 3}))


def test_columns_of_other_names_are_read_if_they_are_named():
    made, _ = joined(
        rows_of({"text": "p", "claim": "e", "gold": 0}, {"text": "p", "claim": "c", "gold": 2}),
        query="text", product="claim", label="gold",
    )  # fmt: skip
    assert triples(made) == [("p", "e", ["c"])]


def test_a_hypothesis_with_both_labels_and_duplicates_are_left_out():
    made, logged = joined(
        rows_of(
            nli("p", "both", 0), nli("p", "both", 2), nli("p", "e", 0), nli("p", "e", 0), nli("p", "c", 2),
            nli("lonely", "e", 0),
        )
    )  # fmt: skip
    assert triples(made) == [("p", "e", ["c"])]
    assert "1 premises without an entailment or a contradiction are left out, and 1 hypotheses" in logged[1]


def test_bad_rows_keep_their_place_and_reason():
    made, _ = joined(
        rows_of(
            nli("p", "e", 0),
            nli("p", "c", 2),
            nli("p", "x", 3),
            nli(" ", "x", 0),
            nli("p", None, 2),
            nli("p", "x", True),
        )
    )
    problems = [(row.number, row.problem.reason) for row in made if row.problem]
    assert problems == [
        (3, "label is not 0 entailment, 1 neutral, 2 contradiction or -1"),
        (4, "premise is blank"),
        (5, "hypothesis is null"),
        (6, "label is not 0 entailment, 1 neutral, 2 contradiction or -1"),
    ]


def test_data_without_a_triple_is_refused_with_the_counts():
    with pytest.raises(DataError, match=r"no premise has both .* 2 entailment, 1 neutral, 1 contradiction"):
        joined(rows_of(nli("p", "a", 0), nli("p", "b", 0), nli("p", "c", 1), nli("q", "d", 2)))


def test_missing_columns_are_named():
    with pytest.raises(DataError, match=r"premise, hypothesis, label or sentence1, sentence2, gold_label"):
        joined(rows_of({"premise": "a", "claim": "b", "label": 0}))


def test_the_joined_rows_are_pairs_with_hard_negatives():
    rows, _ = joined(rows_of(nli("p", "e", 0), nli("p", "c", 2), nli("p", "d", 2)))
    found = read_pairs(rows, columns=triple_columns(PairColumns()), label_map=None, on_bad_row="error").pairs
    assert (found.queries, found.products, found.hard_negatives) == (["p"], ["e"], [["c", "d"]])
    assert not found.labelled


CLASSES = ["contradiction", "Neutral", "entailment"]


def classes(names, premise="p"):
    columns = {"premise": [premise] * 4, "hypothesis": ["c", "n", "e", "x"], "label": [0, 1, 2, -1]}
    features = {"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=names)}
    return Dataset.from_dict(columns, features=Features(features))


@pytest.mark.parametrize("kind", ["parquet", "memory", "saved"])
def test_numbers_mean_what_the_names_of_their_classes_say(tmp_path, kind):
    data = classes(CLASSES)
    data.to_parquet(tmp_path / "p.parquet")
    DatasetDict(train=data).save_to_disk(tmp_path / "saved")
    rows = {
        "parquet": lambda: iter_rows([tmp_path / "p.parquet"]),
        "memory": memory_rows(data, name="train_data"),
        "saved": lambda: iter_split(resolve_dataset(str(tmp_path / "saved")), "train"),
    }[kind]
    made, logged = joined(rows())
    assert triples(made) == [("p", "e", ["c"])]
    assert "1 entailment, 1 neutral, 1 contradiction, and 1 without a label" in logged[0]


def test_sources_with_classes_in_different_orders_are_read_each_by_its_own_names():
    usual = memory_rows(classes(CLASSES[::-1], premise="q"), name="glue")()
    made, _ = joined([*memory_rows(classes(CLASSES), name="glue")(), *usual, *rows_of(nli("q", "d", 2))])
    assert triples(made) == [("p", "e", ["c"]), ("q", "c", ["e", "d"])]


def test_a_number_without_a_class_is_a_bad_row_with_the_names():
    (row, *_) = memory_rows(classes(CLASSES), name="glue")()
    made, _ = joined(
        [row._replace(values=nli("p", label, number)) for label, number in [("e", 2), ("c", 0), ("x", 3)]]
    )
    assert made[0].problem.reason == "label is not 0 contradiction, 1 neutral, 2 entailment or -1"
    assert triples(made[1:]) == [("p", "e", ["c"])]


def test_classes_of_other_names_are_refused_with_them():
    rows = memory_rows(classes(["refuted", "unknown", "supported"]), name="fever")()
    with pytest.raises(DataError, match=r"fever: the classes of label are named refuted, unknown, supported"):
        joined(rows)


GLUE = """---
configs:
- config_name: cola
  data_files: [{split: train, path: cola.parquet}]
- config_name: mnli
  data_files:
  - {split: train, path: mnli.parquet}
  - {split: validation_matched, path: matched.parquet}
  - {split: validation_mismatched, path: matched.parquet}
---
"""
READ = """
from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_data import read_training_data
from tests.hub_server import TOKEN
settings = DataSettings(dataset_name=("acme/snli", "acme/glue:mnli"))
data = read_training_data(settings, seed=0, token=TOKEN, log=print)
for part in (data.train, data.validation):
    print(list(zip(part.queries, part.products, part.hard_negatives)))
"""


def write(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_snli_and_mnli_are_read_by_name_from_the_hub_with_their_own_schemas(tmp_path):
    texts = {"premise": ["p", "p", "q", "q"], "hypothesis": ["e", "x", "f", "g"]}
    write(tmp_path / "snli" / "train.parquet", **texts, label=pa.array([0, -1, 0, 2], pa.int64()))
    write(
        tmp_path / "snli" / "validation.parquet",
        premise=["v", "v"], hypothesis=["e", "c"], label=pa.array([0, 2], pa.int64()),
    )  # fmt: skip
    more = {"idx": pa.array([0, 1], pa.int32()), "label": pa.array([2, 1], pa.int8())}
    write(tmp_path / "glue" / "mnli.parquet", premise=["p", "q"], hypothesis=["c", "n"], **more)
    write(tmp_path / "glue" / "matched.parquet", premise=["p", "q"], hypothesis=["c", "n"], **more)
    write(tmp_path / "glue" / "cola.parquet", sentence=["c"])
    (tmp_path / "glue" / "README.md").write_text(GLUE)
    with HubServer() as hub:
        for name in ("snli", "glue"):
            hub.add_dataset(f"acme/{name}", tmp_path / name)
        done = subprocess.run(
            [sys.executable, "-c", READ], env=hub.environment(tmp_path / "home", HF_TOKEN=TOKEN), text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["[('p', 'e', ['c']), ('q', 'f', ['g'])]", "[('v', 'e', ['c'])]"]
    assert (
        "2 entailment, 1 neutral, 2 contradiction, and 1 without a label (-1), which are left out"
        in done.stdout
    )
