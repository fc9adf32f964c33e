"""DPR's json, simpletransformers' columns and triples: the pairs that are read from them."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import BertTokenizerFast

from aisle.commands.train.data_settings import DataSettings, data_problems
from aisle.commands.train.read_data import read_training_data
from aisle.commands.train.resolve_settings import check_separator
from aisle.data.dpr_json import context_text, write_dpr
from aisle.data.files import iter_rows
from aisle.errors import ConfigError, DataError


def context(text, title="", **others):
    return {"title": title, "text": text, "score": 0, "title_score": 0, "passage_id": "7", **others}


def question(text, positives, negatives=(), hard=(), **others):
    return {
        "dataset": "nq_train_psgs_w100",
        "question": text,
        "answers": ["an answer"],
        "positive_ctxs": list(positives),
        "negative_ctxs": list(negatives),
        "hard_negative_ctxs": list(hard),
        **others,
    }


SOFA = question(
    "which sofa is “red”? 🛋",
    [context("It is crimson.", "Sofa (furniture)", score=1000), context("Red, too.", psg_id="9")],
    [context("random")],
    [context("It is blue.", "Sofa"), context("Green.")],
)
LAMP = question("which lamp?", [context("The brass lamp.", "Lamp")])


@pytest.fixture
def read(tmp_path):
    """Read a file as training data; return the training pairs and the log."""

    def run(content, name="train.json", **settings):
        path = tmp_path / name
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        log = []
        data = DataSettings(train_file=(str(path),), validation_file=(str(path),), **settings)
        found = read_training_data(data, seed=0, token=None, log=log.append)
        return found, log

    return run


def pairs_of(found):
    pairs = found.train
    negatives = pairs.hard_negatives or [[]] * len(pairs)
    return list(zip(pairs.queries, pairs.products, negatives, strict=True))


SOFA_NEGATIVES = ["Sofa [SEP] It is blue.", "Green."]
READ = [
    ("which sofa is “red”? 🛋", "Sofa (furniture) [SEP] It is crimson.", SOFA_NEGATIVES),
    ("which sofa is “red”? 🛋", "Red, too.", SOFA_NEGATIVES),
    ("which lamp?", "Lamp [SEP] The brass lamp.", []),
]


@pytest.mark.parametrize("train_format", ["auto", "dpr"])
@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "t.jsonl"])
def test_each_positive_of_a_dpr_question_is_a_pair_with_its_hard_negatives(read, train_format, name):
    content = json.dumps([SOFA, LAMP]).encode()
    if name == "t.jsonl":
        content = b"\n".join(json.dumps(each).encode() for each in (SOFA, LAMP))
    elif name.endswith(".gz"):
        content = gzip.compress(content)
    found, log = read(content, name, train_format=train_format)
    assert pairs_of(found) == READ
    assert not found.train.labelled
    assert any("3 pairs of DPR's json; query: question, product: positive_ctxs" in line for line in log)


def test_title_and_text_are_the_tokens_that_dpr_reads(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sofa", "it", "is", "red", "(", ")", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    joined = context_text(context("It is red.", "Sofa (sofa)"), None)
    # DPR's BertTensorizer encodes the title with the text as its pair, or the text alone.
    assert tokenizer(joined).input_ids == tokenizer("Sofa (sofa)", text_pair="It is red.").input_ids
    assert context_text(context("It is red.", None), None) == "It is red."
    assert context_text({"text": " It is red. "}, None) == " It is red. "


def test_a_template_gives_the_text_of_a_passage(read):
    found, _ = read([LAMP], train_format="dpr", text_template="{title}: {text}")
    assert found.train.products == ["Lamp: The brass lamp."]
    assert not found.joined_titles


def test_a_positive_that_is_listed_twice_is_one_pair(read):
    twice = question("q", [context("a"), context("a"), context("b")], hard=[context("n"), context("n")])
    assert pairs_of(read([twice])[0]) == [("q", "a", ["n", "n"]), ("q", "b", ["n", "n"])]


def test_the_first_hard_negatives_are_kept(read):
    many = question("q", [context("a")], hard=[context(f"n{number}") for number in range(50)])
    found, _ = read([many], hard_negatives_per_pair=2)
    assert found.train.hard_negatives == [["n0", "n1"]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (question("q", []), "positive_ctxs is empty; a question needs a passage that answers it: []"),
        ({"question": "q", "answers": []}, "positive_ctxs is empty; a question needs a passage"),
        (question(" ", [context("a")]), "question is blank: ' '"),
        (question(None, [context("a")]), "question is null"),
        (question("q", ["text"]), "positive_ctxs holds a context that is not an object with a text: 'text'"),
        (question("q", [{"title": "T"}]), "positive_ctxs holds a context whose text is null"),
        (question("q", [context("")]), "positive_ctxs holds a context whose text is blank"),
        (question("q", [context("a", 3)]), "positive_ctxs holds a context whose title is not text"),
        (question("q", [context("\ud800")]), "positive_ctxs holds a context whose text is not valid Unicode"),
        (question("q", [context("a")]) | {"hard_negative_ctxs": "n"}, "hard_negative_ctxs is not a list"),
        (
            question("q", [context("a"), context("b")], hard=[context("b")]),
            "hard_negative_ctxs holds a positive of the question: 'b'",
        ),
        ("text", "is not a JSON object: 'text'"),
    ],
)
def test_a_bad_question_is_named_by_file_and_row(read, wrong, message):
    rows = [LAMP, wrong, SOFA]
    with pytest.raises(DataError) as refused:
        read(rows)
    assert f"train.json, row 2: {message}" in str(refused.value)
    found, log = read(rows, on_bad_row="skip")
    assert pairs_of(found) == [READ[2], *READ[:2]]
    assert any("1 of 4 rows are bad" in line and message.split(":")[0] in line for line in log)


@pytest.mark.parametrize("content", [json.dumps([SOFA, LAMP])[:-40], "[", ""])
def test_a_truncated_dpr_file_is_refused(read, content):
    with pytest.raises(DataError, match=r"train\.json.* (it may be truncated|is empty)"):
        read(content, train_format="dpr", on_bad_row="skip")


def test_a_dpr_file_without_questions_is_refused(read):
    with pytest.raises(DataError, match="no rows"):
        read("[]", train_format="dpr")


def test_a_file_of_another_format_is_refused_with_its_columns(read):
    with pytest.raises(DataError, match=r"no column 'question'.*another --train_format.*query, product"):
        read("query,product\na,b\n", "t.csv", train_format="dpr")
    with pytest.raises(DataError, match="no column 'gold_passage'"):
        read("query_text\tpassage\na\tb\n", "t.tsv", train_format="simpletransformers")


def test_questions_that_are_written_are_read_back_equal(tmp_path):
    written = [SOFA, LAMP, question("line\nbreak \u2028", [context("\x7f é", extra={"deep": [1, None]})])]
    written.append({**LAMP, "answers": ["half of a pair: \ud83d"]})
    assert write_dpr(iter(written), tmp_path / "out.json") == 4
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == written
    assert [row.values for row in iter_rows([tmp_path / "out.json"])] == written
    assert write_dpr([], tmp_path / "none.json") == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "out.json").write_text("old")

    def questions():
        yield LAMP
        raise DataError("a bad row")

    with pytest.raises(DataError, match="a bad row"):
        write_dpr(questions(), tmp_path / "out.json")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_questions_without_hard_negatives_have_their_other_negatives(read):
    plain = question("which desk?", [context("Oak.")], [context("Pine."), context("Oak."), context("Ash.")])
    found, log = read([SOFA, LAMP, plain])
    assert pairs_of(found) == [*READ, ("which desk?", "Oak.", ["Pine.", "Ash."])]
    said = "1 of 3 questions have no hard_negative_ctxs; their negative_ctxs are read in place of them"
    assert sum(said in line for line in log) == 2  # training and validation data


@pytest.mark.parametrize("lists", [["hard_negative_ctxs"], ["hard_negative_ctxs", "negative_ctxs"], ["ctxs"]])
def test_dpr_without_positives_is_named(read, lists):
    content = [{"question": "which lamp?", "answers": [], **{name: [context("a")] for name in lists}}]
    with pytest.raises(DataError, match=f"has DPR's question and {' and '.join(lists)} and no positive_ctxs"):
        read(content)


TSV = "query_text\ttitle\tgold_passage\thard_negative\n"


@pytest.mark.parametrize("train_format", ["auto", "simpletransformers"])
def test_simpletransformers_columns_are_pairs_with_the_title_before_the_passage(read, train_format):
    rows = 'red sofa\tSofa\t"It is ""crimson""."\tIt is blue.\n灯\t\t真鍮\t\n'
    found, log = read(TSV + rows, "t.tsv", train_format=train_format)
    assert pairs_of(found) == [
        ("red sofa", 'Sofa It is "crimson".', ["It is blue."]),
        ("灯", "真鍮", []),
    ]
    assert any("simpletransformers' columns; query: query_text, product: gold_passage" in one for one in log)


def test_simpletransformers_columns_without_title_and_negative(read):
    found, _ = read("query_text\tgold_passage\na\tb\na\tb\n", "t.tsv")
    assert pairs_of(found) == [("a", "b", []), ("a", "b", [])]
    found, _ = read(
        TSV + "q\tT\tp\tn\n", "t.tsv", train_format="simpletransformers", text_template="{gold_passage}"
    )
    assert pairs_of(found) == [("q", "p", ["n"])]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q\tT\t\tn", "gold_passage is blank"),
        (" \tT\tp\tn", "query_text is blank"),
        ("q\tT\tp\tp", "hard_negative equals the row's own gold_passage"),
        ("q\tT\tp", "the header has 4 fields"),
    ],
)
def test_a_bad_row_of_simpletransformers_columns_is_named(read, row, message):
    with pytest.raises(DataError, match=rf"t\.tsv, row 2 \(line 3\): {message}"):
        read(f"{TSV}a\tT\tb\tc\n{row}\n", "t.tsv")


def test_named_columns_are_read_as_pairs(read):
    found, _ = read(TSV + "q\tT\tp\tn\n", "t.tsv", query_column="query_text", product_column="gold_passage")
    assert pairs_of(found) == [("q", "p", [])]


TRIPLES = {"anchor": "a", "positive": "p", "negative": "n"}


def test_triples_have_a_negative_in_each_row(read):
    rows = [TRIPLES, {**TRIPLES, "anchor": "b"}]
    assert pairs_of(read(rows, train_format="triples")[0]) == [("a", "p", ["n"]), ("b", "p", ["n"])]
    listed = [{"query": "a", "product": "p", "wrong": ["n", "m"]}]
    found, _ = read(listed, train_format="triples", hard_negatives_column="wrong")
    assert pairs_of(found) == [("a", "p", ["n", "m"])]


def test_triples_without_a_negative_are_refused(read):
    with pytest.raises(DataError, match="row 2: negative is empty; a triple has a negative"):
        read([TRIPLES, {**TRIPLES, "negative": " "}], train_format="triples")
    with pytest.raises(DataError, match="--train_format triples needs a column of negatives"):
        read([{"anchor": "a", "positive": "p"}], train_format="triples")


def test_settings_that_a_format_does_not_read_are_refused():
    data = DataSettings(train_file=("t.json",), train_format="dpr", label_column="score", catalog=("c",))
    assert data_problems(data) == [
        "--label_column, --catalog: cannot be combined with --train_format dpr, whose columns are fixed"
    ]
    esci = DataSettings(esci_dir="esci", train_format="triples")
    assert "--esci_dir has a format of its own" in data_problems(esci)[0]
    for train_format in ("triples", "nli"):
        mapped = DataSettings(train_file=("t",), train_format=train_format, label_map={"0": 1.0, "1": 0.0})
        assert data_problems(mapped) == [
            f"--label_map: cannot be combined with --train_format {train_format}, whose pairs are all "
            "positives"
        ]
        rated = replace(mapped, validation_file=("v",))  # the validation pairs may have labels
        assert data_problems(rated) == []
    assert data_problems(DataSettings(train_file=("t",), text_template="{title}")) == [
        "--text_template: needs --catalog"
    ]


@pytest.mark.parametrize(
    ("separator", "template"), [("</s>", "'{title} </s> {text}'"), (None, "'{title} {text}'")]
)
def test_a_model_with_another_separator_is_refused_with_its_template(separator, template):
    tokenizer = SimpleNamespace(all_special_tokens=["<s>", "</s>"], sep_token=separator)
    with pytest.raises(ConfigError) as refused:
        check_separator(tokenizer, "a-model")
    assert "[SEP], which is no special token of a-model" in str(refused.value)
    assert f"give --text_template {template}" in str(refused.value)
    check_separator(SimpleNamespace(all_special_tokens=["[CLS]", "[SEP]"], sep_token="[SEP]"), "bert")


def test_a_label_map_without_labels_is_refused_if_the_format_is_found_by_the_columns(read):
    rows = [{"premise": "p", "hypothesis": text, "label": label} for text, label in [("e", 0), ("c", 2)]]
    with pytest.raises(DataError, match="--label_map: the training pairs are all positives"):
        read(rows, label_map={"0": 0.0, "2": 1.0})
