"""`aisle mine`: training data and a catalogue become training data with hard negatives, and a run."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from aisle.cli import main, train_main
from aisle.models.loading import load_encoder
from aisle.search.rerankers import load_reranker
from tests.commands.conftest import write_rows

PRODUCTS = [
    ("p1", "red sofa for two", "Acme"),
    ("p2", "Red Sofa for two", "Acme"),
    ("p3", "red sofa cover", "Zenith"),
    ("p4", "red sofa legs", "Zenith"),
    ("p5", "brass reading lamp", "Acme"),
    ("p6", "reading lamp shade", "Acme"),
    ("p7", "reading glasses", "Zenith"),
]
JUDGED = [
    ("red sofa", "p1", 1),
    ("red sofa", "p4", 0.25),
    ("reading lamp", "p5", 1),
    ("reading lamp", "p7", 0),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    write_rows(folder / "catalog.csv", ["product_id", "title", "brand"], PRODUCTS)
    write_rows(folder / "judged.csv", ["query", "product_id", "relevance"], JUDGED)
    return folder


@pytest.fixture
def mine(shop, tmp_path, capfd):
    """Run the command; return the exit code, the output on one line, and the file."""

    def run(*flags, train="judged.csv", output="mined.jsonl"):
        path = tmp_path / output
        given = ["mine", "--train_file", str(shop / train), "--output_file", str(path), *map(str, flags)]
        code = main(given)
        said = capfd.readouterr()
        return code, " ".join((said.out + said.err).split()), path

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_ids_come_in_and_ids_with_texts_come_out(mine, shop):
    code, said, path = mine("--catalog", shop / "catalog.csv", "--per_query", 2)
    assert code == 0
    assert rows_of(path) == [
        {
            "query": "red sofa",
            "product_id": "p1",
            "product": "red sofa for two",
            "relevance": 1.0,
            "hard_negatives": ["red sofa cover"],
            "hard_negative_ids": ["p3"],
        },
        {
            **{"query": "red sofa", "product_id": "p4", "product": "red sofa legs", "relevance": 0.25},
            **{"hard_negatives": [], "hard_negative_ids": []},
        },
        {
            "query": "reading lamp",
            "product_id": "p5",
            "product": "brass reading lamp",
            "relevance": 1.0,
            "hard_negatives": ["reading lamp shade", "reading glasses"],
            "hard_negative_ids": ["p6", "p7"],
        },
        {
            **{"query": "reading lamp", "product_id": "p7", "product": "reading glasses", "relevance": 0.0},
            **{"hard_negatives": [], "hard_negative_ids": []},
        },
    ]
    assert "mined 3 hard negatives for 2 queries" in said
    assert "queries without a hard negative: 0; with fewer: 1" in said
    assert "excluded: 2 judged positive, 1 equal text, 1 partly relevant" in said


def test_the_document_has_the_counts_and_parquet_the_same_rows(mine, shop):
    flags = ["--catalog", shop / "catalog.csv", "--text_template", "{title} {brand}"]
    assert mine(*flags)[0] == 0
    code, _, jsonl = mine(*flags)
    assert code == 0
    code, said, path = mine(*flags, "--json", output="mined.parquet")
    assert code == 0
    document, _ = json.JSONDecoder().raw_decode(said, said.index('{"output_file"'))
    assert document["excluded"]["judged_positive"] == 2
    assert document["positives"] == {"pairs": 2, "in_catalog": 2}
    assert document["hard_negatives"] == 3
    assert json.loads((path.parent / "mined.parquet.mining.json").read_text("utf-8")) == document
    assert pq.read_table(path).to_pylist() == rows_of(jsonl)
    assert rows_of(jsonl)[0]["hard_negatives"] == ["red sofa cover Zenith"]


def test_an_index_gives_the_same_negatives_as_its_catalogue(mine, shop, tiny_bert, tmp_path):
    index_dir = tmp_path / "index"
    catalog = ["--catalog", str(shop / "catalog.csv")]
    build = ["build", "--model", str(tiny_bert), "--backend", "exact", "--index_dir", str(index_dir)]
    assert main([*build, *catalog]) == 0
    _, _, path = mine(*catalog)
    expected = rows_of(path)
    code, said, path = mine("--index_dir", index_dir)
    assert code == 0, said
    assert rows_of(path) == expected
    code, said, path = mine("--index_dir", index_dir, *catalog)
    assert "has the same products, so its search is reused" in said
    assert rows_of(path) == expected
    code, said, path = mine("--index_dir", index_dir, *catalog, "--text_template", "{title} {brand}")
    assert code == 0
    assert "is not searched, as its products or their texts differ" in said


@pytest.fixture(scope="module")
def index_dir(shop, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    flags = [
        "--catalog",
        shop / "catalog.csv",
        "--index_dir",
        folder,
        "--model",
        tiny_bert,
        "--precision",
        "fp32",
    ]
    assert main(["build", *map(str, flags)]) == 0
    return folder


def brute_force(model, query):
    """Return the products in the order of their cosines, and the cosine of each."""
    encoder = load_encoder(model, device="cpu")
    (asked,) = encoder.encode_queries([query]).astype(np.float64)
    cosines = encoder.encode_products([text for _, text, _ in PRODUCTS]).astype(np.float64) @ asked
    scores = dict(zip([each for each, _, _ in PRODUCTS], cosines.tolist(), strict=True))
    return sorted(scores, key=lambda each: -scores[each]), scores


def test_dense_negatives_are_the_nearest_below_the_margin(mine, shop, tiny_bert, tmp_path):
    flags = ["--catalog", shop / "catalog.csv", "--source", "dense", "--model", tiny_bert]
    flags += ["--margin", "absolute:0.001", "--near_duplicate", 1]
    code, said, path = mine(*flags)
    assert code == 0, said
    order, scores = brute_force(tiny_bert, "red sofa")
    out = {"p1", "p2", "p4"}
    expected = [each for each in order if each not in out and scores[each] <= scores["p1"] - 0.001][:4]
    assert rows_of(path)[0]["hard_negative_ids"] == expected
    assert "for each positive, the first of the 200 best ranked" in said
    assert not (tmp_path / "mined.jsonl.vectors").exists()


@pytest.mark.parametrize("source", ["dense", "both"])
def test_an_index_gives_the_same_dense_negatives_as_its_catalogue(
    mine, shop, tiny_bert, index_dir, embedded, tmp_path, source
):
    flags = ["--source", source, "--margin", "none"]
    catalog = ["--catalog", shop / "catalog.csv"]
    code, said, path = mine(*flags, *catalog, "--model", tiny_bert, "--embedding_cache", tmp_path / "cache")
    assert code == 0, said
    expected = rows_of(path)
    assert len(embedded) == len(PRODUCTS)
    given = [
        ["--index_dir", index_dir],
        ["--index_dir", index_dir, *catalog, "--model", tiny_bert, "--exact"],
    ]
    for more in (*given, [*catalog, "--model", tiny_bert, "--embedding_cache", tmp_path / "cache"]):
        code, said, path = mine(*flags, *more)
        assert code == 0, said
        assert rows_of(path) == expected
    assert len(embedded) == len(PRODUCTS)  # the index and the cache have all embeddings
    assert expected[0]["hard_negative_ids"]


def test_texts_of_an_index_with_other_products_keep_their_embeddings(
    mine, shop, index_dir, embedded, tmp_path
):
    more = write_rows(
        tmp_path / "more.csv", ["product_id", "title"], [*(row[:2] for row in PRODUCTS), ("p8", "red chaise")]
    )
    code, said, _ = mine("--source", "dense", "--index_dir", index_dir, "--catalog", more)
    assert code == 0, said
    assert embedded == ["red chaise"]


def test_kept_embeddings_are_those_of_the_texts_whatever_index_they_come_from(mine, tiny_bert, tmp_path):
    """The texts move to other products, so that all rows and numbers are equal and only the texts differ."""
    titles = [text for _, text, _ in PRODUCTS]
    found = {}
    for name, moved in (("first", titles), ("second", [*titles[1:], titles[0]])):
        rows = [(each, text) for (each, _, _), text in zip(PRODUCTS, moved, strict=True)]
        whole = write_rows(tmp_path / f"{name}.csv", ["product_id", "title"], [*rows, ("p8", "desk")])
        part = write_rows(tmp_path / f"{name}_part.csv", ["product_id", "title"], rows)
        index = tmp_path / name
        flags = ["--catalog", whole, "--index_dir", index, "--model", tiny_bert, "--precision", "fp32"]
        assert main(["build", *map(str, flags)]) == 0
        for cache in (["--embedding_cache", tmp_path / "cache"], []):
            dense = ["--source", "dense", "--margin", "none", "--index_dir", index, "--catalog", part]
            code, said, path = mine(*dense, *cache)
            assert code == 0, said
            found[name, bool(cache)] = rows_of(path)
    assert found["first", True] == found["first", False]
    assert found["second", True] == found["second", False]
    assert found["first", True] != found["second", True]


def test_the_encoder_of_another_index_is_refused(mine, index_dir, tiny_model):
    code, said, path = mine(
        "--source", "dense", "--index_dir", index_dir, "--model", tiny_model("distilbert")
    )
    assert code == 2
    assert "was made by the encoder" in said
    assert not path.exists()


def test_a_killed_call_continues_with_its_embeddings(mine, shop, tiny_bert, embedded, tmp_path, monkeypatch):
    flags = ["--catalog", shop / "catalog.csv", "--source", "dense", "--model", tiny_bert]
    with monkeypatch.context() as killed:
        killed.setattr("aisle.commands.mine.run.mine_negatives", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            mine(*flags)
    assert (tmp_path / "mined.jsonl.vectors").is_dir()
    embedded.clear()
    code, said, _ = mine(*flags)
    assert code == 0, said
    assert embedded == []
    assert not (tmp_path / "mined.jsonl.vectors").exists()


def test_variants_and_levels_come_from_columns(mine, shop, tmp_path):
    flags = ["--catalog", shop / "catalog.csv", "--group_column", "brand"]
    code, said, path = mine(*flags)
    assert code == 0, said
    rows = rows_of(path)
    assert rows[0]["hard_negative_ids"] == []  # p3 is of the brand of p4, which is partly relevant
    assert rows[2]["hard_negative_ids"] == ["p7"]  # p6 is of the brand of p5
    code, said, path = mine(*flags, "--graded")
    assert code == 0, said
    rows = rows_of(path)
    assert rows[0]["hard_negative_ids"] == ["p3", "p4"]
    assert rows[1]["hard_negative_ids"] == []  # the variants of p4, and what is judged higher
    assert rows[3]["hard_negative_ids"] == []  # not relevant


def test_a_run_trains_on_mined_negatives_and_answers_queries(mine, shop, tiny_bert, tmp_path, capfd):
    _, _, path = mine("--catalog", shop / "catalog.csv")
    run_dir, index_dir = tmp_path / "run", tmp_path / "index"
    train = ["--train_file", str(path), "--validation_file", str(shop / "judged.csv")]
    train += ["--model_name_or_path", str(tiny_bert), "--max_length", "16", "--max_train_steps", "1"]
    train += ["--output_dir", str(run_dir), "--loss", "in_batch"]
    texts = ["--validation_file", str(path), "--hard_negatives_column", "hard_negatives"]
    assert train_main([*train, *texts]) == 0
    assert "hard negatives: hard_negatives" in capfd.readouterr().out
    by_id = ["--catalog", str(shop / "catalog.csv"), "--hard_negatives_column", "hard_negative_ids"]
    assert train_main([*train, *by_id, "--overwrite_output_dir"]) == 0
    assert "hard negatives: hard_negative_ids" in capfd.readouterr().out
    build = ["build", "--model", str(run_dir), "--catalog", str(shop / "catalog.csv")]
    assert main([*build, "--backend", "exact", "--index_dir", str(index_dir)]) == 0
    capfd.readouterr()
    assert main(["query", "--index_dir", str(index_dir), "--json", "red sofa"]) == 0
    assert json.loads(capfd.readouterr().out)


def test_the_report_has_the_hardness_and_the_share_of_false_negatives(mine, shop, tiny_bert, tmp_path):
    held_out = [("Red  sofa", "p3", 1), ("red sofa", "p5", 0), ("reading lamp", "p2", 1), ("other", "p6", 1)]
    path = write_rows(tmp_path / "held.csv", ["query", "product_id", "relevance"], held_out)
    flags = ["--catalog", shop / "catalog.csv", "--source", "dense", "--model", tiny_bert, "--margin", "none"]
    code, said, output = mine(*flags, "--near_duplicate", 1, "--per_query", 9, "--held_out_file", path)
    assert code == 0, said
    report = json.loads((output.parent / "mined.jsonl.mining.json").read_text("utf-8"))
    rows = rows_of(output)
    count = len(rows[0]["hard_negative_ids"]) + len(rows[2]["hard_negative_ids"])
    assert report["false_negatives"] == {
        **{"negatives": count, "judged": 3, "relevant": 2, "share": 2 / 3, "least": 2 / count}
    }
    assert f"the held-out pairs judge 3 of {count} hard negatives" in said
    assert "2 of those are relevant (66.7%)" in said
    gaps = []
    for row in (rows[0], rows[2]):
        _, scores = brute_force(tiny_bert, row["query"])
        gaps += [scores[each] - scores[row["product_id"]] for each in row["hard_negative_ids"]]
    hardness = report["hardness"]
    assert hardness["above_positive"] == sum(gap > 0 for gap in gaps)
    assert hardness["score_less_positive"]["0.5"] == pytest.approx(np.median(gaps), abs=1e-5)


def test_a_teacher_excludes_what_it_scores_as_high_as_the_positive(mine, shop, tiny_bert, tmp_path):
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1).save_pretrained(
        tmp_path / "teacher"
    )
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "teacher")
    flags = ["--catalog", shop / "catalog.csv", "--source", "random", "--per_query", 9]
    left = rows_of(mine(*flags)[2])
    code, said, path = mine(*flags, "--teacher", tmp_path / "teacher")
    assert code == 0, said
    texts = {product_id: text for product_id, text, _ in PRODUCTS}
    teacher = load_reranker(str(tmp_path / "teacher"))
    above = 0
    for row, before in zip(rows_of(path), left, strict=True):
        limit = teacher.logits([(row["query"], row["product"])])[0]
        scores = {
            each: teacher.logits([(row["query"], texts[each])])[0] for each in before["hard_negative_ids"]
        }
        # a batch changes the last bits of a score
        assert all(abs(score - limit) > 1e-6 for score in scores.values())
        assert row["hard_negative_ids"] == [each for each, score in scores.items() if score < limit]
        above += sum(score >= limit for score in scores.values())
    assert f"{above} above the teacher" in said
    code, said, _ = mine(*flags, "--teacher", "nothing")
    assert (code, "--teacher nothing: must be the folder of a run" in said) == (2, True)


def test_random_negatives_obey_the_rules_and_the_seed(mine, shop):
    flags = ["--catalog", shop / "catalog.csv", "--source", "random", "--per_query", 9]
    code, said, path = mine(*flags)
    assert code == 0, said
    first = rows_of(path)
    assert sorted(first[0]["hard_negative_ids"]) == ["p3", "p5", "p6", "p7"]
    assert rows_of(mine(*flags)[2]) == first
    others = [rows_of(mine(*flags, "--seed", seed)[2])[0] for seed in range(3)]
    assert len({tuple(row["hard_negative_ids"]) for row in others}) > 1


PASSAGES = [
    ("1", "Sofa", "It is red.", "a"),
    ("2", "Sofa cover", "It covers a red sofa.", "b"),
    ("3", "Sofa bed", "It is a red sofa since 1999.", "c"),
    ("4", "Lamp", "It shines.", "d"),
]
QUESTION = {
    "dataset": "made up",
    "question": "what is a red sofa?",
    "answers": ["since 1999"],
    "positive_ctxs": [{"title": "Sofa", "text": "It is red.", "score": 1, "title_score": 0, "psg_id": 1}],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{"title": "old", "text": "replaced", "passage_id": "9"}],
    "kept": {"as": ["it", "is"]},
}


def write_passages(folder, *questions):
    path = folder / "passages.csv"
    write_rows(path, ["id", "title", "text", "note"], PASSAGES)
    (folder / "nq.json").write_text(json.dumps(questions))
    return ["--catalog", path, "--id_column", "id", "--text_template", "{title} {text}"]


def test_dpr_json_comes_in_and_goes_out_with_new_hard_negatives(mine, tmp_path, tiny_bert, capfd):
    catalog = write_passages(tmp_path, QUESTION, {**QUESTION, "positive_ctxs": []})
    code, said, path = mine(*catalog, train=tmp_path / "nq.json", output="out.json")
    assert code == 2
    assert "nq.json, row 2: positive_ctxs is empty" in said
    assert not path.exists()
    code, said, path = mine(*catalog, "--on_bad_row", "skip", train=tmp_path / "nq.json", output="out.json")
    assert code == 0, said
    cover = {"title": "Sofa cover", "text": "It covers a red sofa.", "title_score": 0, "passage_id": "2"}
    (written,) = json.loads(path.read_text("utf-8"))
    assert written["hard_negative_ctxs"][0].pop("score") > 0
    assert written == {**QUESTION, "hard_negative_ctxs": [cover]}
    assert "1 judged positive, 1 has an answer" in said
    code, said, again = mine(*catalog, train=path, output="again.json")
    assert code == 0
    assert json.loads(again.read_text())[0]["hard_negative_ctxs"][0]["passage_id"] == "2"
    train = ["--train_file", str(again), "--validation_file", str(again), "--max_train_steps", "1"]
    train += ["--model_name_or_path", str(tiny_bert), "--max_length", "16", "--loss", "in_batch"]
    assert train_main([*train, "--output_dir", str(tmp_path / "run")]) == 0
    assert "1 pairs of DPR's json" in capfd.readouterr().out


def test_positive_passages_are_found_by_their_id(mine, tmp_path):
    other = {"title": "A title", "text": "that differs from the catalogue's", "passage_id": "1"}
    catalog = write_passages(tmp_path, {**QUESTION, "positive_ctxs": [other]})
    code, said, path = mine(*catalog, "--json", train=tmp_path / "nq.json", output="out.json")
    assert code == 0, said
    assert '"positives": {"pairs": 1, "in_catalog": 1}' in said
    assert [each["passage_id"] for each in json.loads(path.read_text())[0]["hard_negative_ctxs"]] == ["2"]


def test_questions_that_are_no_text_are_left_out_and_lone_surrogates_are_kept(mine, tmp_path):
    odd = {**QUESTION, "kept": "\ud83d"}
    catalog = write_passages(tmp_path, odd, {**QUESTION, "question": ["a", "b"]})
    code, said, path = mine(*catalog, train=tmp_path / "nq.json", output="out.json")
    assert (code, path.exists()) == (2, False)
    assert "nq.json, row 2: question is not text" in said
    code, said, path = mine(*catalog, "--on_bad_row", "skip", train=tmp_path / "nq.json", output="out.json")
    assert code == 0, said
    (written,) = json.loads(path.read_text("utf-8"))
    assert (written["question"], written["kept"]) == (QUESTION["question"], "\ud83d")


def test_pairs_go_out_as_dpr_json(mine, shop):
    flags = ["--catalog", shop / "catalog.csv", "--output_format", "dpr"]
    code, said, path = mine(*flags, output="out.json")
    assert code == 0, said
    first, second = json.loads(path.read_text("utf-8"))
    assert first["question"] == "red sofa"
    assert [each["text"] for each in first["positive_ctxs"]] == ["red sofa for two"]
    assert [(each["passage_id"], each["text"]) for each in first["negative_ctxs"]] == [
        ("p4", "red sofa legs")
    ]
    assert [(each["passage_id"], each["text"]) for each in first["hard_negative_ctxs"]] == [
        ("p3", "red sofa cover")
    ]
    assert [each["passage_id"] for each in second["hard_negative_ctxs"]] == ["p6", "p7"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no products to search: give --catalog or --index_dir"),
        (["--per_query", 9, "--depth", 3, "--index_dir", "x"], "--per_query 9: must be at most --depth 3"),
        (["--text_template", "{title}", "--index_dir", "x"], "--text_template: needs --catalog"),
        (["--catalog", "/none/such.csv"], "/none/such.csv"),
        (["--index_dir", "/none/index"], "/none/index: must be an index directory"),
        (["--catalog", "CATALOG", "--output_file", "x.csv"], "must end in .jsonl or .parquet"),
        (["--catalog", "CATALOG", "--output_file", "CATALOG"], "is read by this command"),
        (["--catalog", "CATALOG", "--output_file", "/none/x.jsonl"], "its folder does not exist"),
        (["--catalog", "CATALOG", "--source", "dense"], "--source dense: needs a model; give --model, or"),
        (["--catalog", "CATALOG", "--model", "."], "--model: needs --source dense or both"),
        (["--catalog", "CATALOG", "--margin", "5"], "--margin 5: must be relative:SHARE"),
        (
            ["--catalog", "CATALOG", "--graded", "--output_format", "dpr", "--output_file", "x.json"],
            "--graded: DPR's json has no levels of relevance",
        ),
        (
            ["--index_dir", "x", "--source", "dense", "--max_length", 9],
            "--max_length: cannot be combined with --index_dir, which records the settings of its encoder",
        ),
        (
            ["--catalog", "CATALOG", "--group_column", "variant_of"],
            "--group_column variant_of: neither the catalogue nor the training data have this column",
        ),
        (["--catalog", "CATALOG", "--train_format", "dpr"], "there is no column 'question'"),
        (
            ["--catalog", "CATALOG", "--label_column", "none", "--product_id_column", "query"],
            "have no product id in common",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(mine, shop, flags, message):
    flags = [str(shop / "catalog.csv") if flag == "CATALOG" else flag for flag in flags]
    code, said, path = mine(*flags)
    assert code == 2
    assert message in said
    assert not path.exists()


def test_held_out_pairs_are_not_replaced(mine, shop, tmp_path):
    held_out = tmp_path / "mined.jsonl"
    held_out.write_text('{"query": "red sofa", "product_id": "p3", "relevance": 1}\n')
    before = held_out.read_bytes()
    code, said, _ = mine("--catalog", shop / "catalog.csv", "--held_out_file", held_out)
    assert code == 2
    assert "mined.jsonl: is read by this command" in said
    assert held_out.read_bytes() == before


def test_held_out_pairs_are_read_before_anything_is_written(mine, shop, tmp_path):
    held_out = tmp_path / "held.jsonl"
    held_out.write_text('{"query": "", "product_id": "p3", "relevance": 1}\n')
    code, said, path = mine("--catalog", shop / "catalog.csv", "--held_out_file", held_out)
    assert (code, path.exists()) == (2, False)
    assert "held.jsonl, row 1" in said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("red sofa", "something else", 1)], "No positive of the training data is in the catalogue"),
        ([("red sofa", "red sofa legs", 0)], "The training data have no positive"),
    ],
)
def test_pairs_without_a_known_positive_are_refused(mine, shop, tmp_path, rows, message):
    train = write_rows(tmp_path / "texts.csv", ["query", "product", "relevance"], rows)
    code, said, _ = mine("--catalog", shop / "catalog.csv", train=train)
    assert code == 2
    assert message in said


def test_few_positives_in_the_catalogue_warn(mine, shop, tmp_path):
    rows = [("red sofa", "red sofa legs"), ("lamp", "other"), ("bed", "another")]
    train = write_rows(tmp_path / "texts.csv", ["query", "product"], rows)
    code, said, _ = mine("--catalog", shop / "catalog.csv", train=train)
    assert code == 0
    assert "warning: only 1 of 3 positives are in the catalogue" in said


def test_a_failed_write_leaves_the_old_file(mine, shop, tmp_path, monkeypatch):
    (tmp_path / "mined.jsonl").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aisle.commands.mine.write_pairs._rows", fail)
    code, said, path = mine("--catalog", shop / "catalog.csv")
    assert code == 2
    assert "the pairs cannot be written: No space left on device" in said
    assert path.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mined.jsonl"]
