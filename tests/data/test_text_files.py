"""Delimiters and encodings of text files: as the flags set them, and reported if they differ."""

import gzip

import pytest

from aisle.data.dataset_sources import iter_split, resolve_dataset
from aisle.data.files import iter_rows
from aisle.data.judgements import read_qrels, read_queries
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError, DataError

SEMICOLONS = "product_id;title;price\n1;red sofa;49,99\n2;blue sofa;20,00\n"
SEMICOLON_ROWS = [
    {"product_id": "1", "title": "red sofa", "price": "49,99"},
    {"product_id": "2", "title": "blue sofa", "price": "20,00"},
]


@pytest.fixture
def read(tmp_path):
    """Write a file, and return the rows read from it."""

    def run(content, *, name="p.csv", delimiter=None, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(iter_rows([path], text=TextFormat.of(delimiter, encoding)))

    return run


def values(rows):
    return [row.values for row in rows]


@pytest.mark.parametrize(
    ("content", "delimiter", "parts"),
    [
        (SEMICOLONS, ";", ["p.csv, line 1", "semicolons", "--delimiter ';'", "'49,99'", "'49.99'"]),
        ("product_id\ttitle\tprice\n1\tred sofa\t49.99\n", "tab", ["tabs", "--delimiter tab"]),
        ("product_id|title\n1|red sofa\n", "|", ["bars", "--delimiter '|'"]),
        ("\n\nproduct_id;title\n1;a\n", ";", ["--delimiter ';'"]),
    ],
)
def test_another_delimiter_is_named_with_the_flag_that_reads_it(read, content, delimiter, parts):
    with pytest.raises(DataError) as refused:
        read(content)
    assert [part for part in parts if part not in str(refused.value)] == []

    assert read(content, delimiter=delimiter)[0].values["product_id"] == "1"


def test_decimal_commas_are_not_seen_in_other_numbers(read):
    with pytest.raises(DataError) as refused:
        read("product_id;title\n1;1,299,000\n")
    assert "decimal comma" not in str(refused.value)


def test_the_sep_line_of_excel_sets_the_delimiter(read):
    rows = read("sep=;\r\nproduct_id;title;price\r\n1;red sofa;49,99\r\n2;blue sofa\r\n")

    assert rows[0].values == SEMICOLON_ROWS[0]
    assert [(row.number, row.line) for row in rows] == [(1, 3), (2, 4)]


def test_an_open_quote_is_reported_with_its_line(read):
    with pytest.raises(DataError, match="line 3: a quote opens"):
        read('sep=;\na;b\n1;"two\n3;4\n')


def test_a_file_with_one_column_is_read(read):
    assert values(read("query\nred; blue\n")) == [{"query": "red; blue"}]
    assert values(read("query; words\nred\n", delimiter="comma")) == [{"query; words": "red"}]


def test_a_tsv_has_tabs_whatever_the_delimiter_of_csv_files_is(read):
    assert values(read("a\tb\n1;2\t3\n", name="p.tsv", delimiter=";")) == [{"a": "1;2", "b": "3"}]
    with pytest.raises(DataError, match=r"name the file \.csv"):
        read("a,b\n1,2\n", name="p.tsv")


TITLE = "Sofá für Mädchen à 5 €"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8-sig", "UTF8", "latin-1"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "a,b\n1,{}\n"),
        ("p.tsv", "a\tb\n1\t{}\n"),
        ("p.jsonl", '{{"a": "1", "b": "{}"}}\n'),
        ("p.json", '[{{"a": "1", "b": "{}"}}]'),
    ],
)
def test_files_are_read_in_the_named_encoding(read, name, content, encoding):
    title = TITLE.replace("€", "EUR") if encoding == "latin-1" else TITLE

    rows = read(content.format(title).encode(encoding), name=name, encoding=encoding)

    assert values(rows) == [{"a": "1", "b": title}]


def test_packed_files_have_encodings_too(read):
    packed = gzip.compress(f"a;b\n1;{TITLE}\n".encode("cp1252"))
    assert values(read(packed, name="p.csv.gz", delimiter=";", encoding="cp1252")) == [{"a": "1", "b": TITLE}]


def test_a_row_that_is_not_utf_8_is_shown_in_cp1252(read):
    good, bad = read("a,b\n1,good\n2,Sofá\n".encode("cp1252"))

    assert good.values == {"a": "1", "b": "good"}
    assert bad.problem.reason == "is not valid UTF-8"
    assert bad.problem.note == (
        ". It reads as 'Sofá' in cp1252: save the file as UTF-8, or give --encoding cp1252."
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("größe,b\n1,2\n".encode("cp1252"), "It reads as 'größeb' in cp1252"),
        ("a,b\n1,2\n".encode("utf-16"), "--encoding utf-16"),
    ],
)
def test_a_header_in_another_encoding_names_the_flag(read, content, part):
    with pytest.raises(DataError, match="the header is not UTF-8") as refused:
        read(content)
    assert part in str(refused.value)


def test_a_file_in_another_encoding_than_the_named_one_is_refused(read):
    with pytest.raises(DataError, match=r"not valid utf-16.*--encoding"):
        read(b"a,b\n1,2\n", encoding="utf-16")


@pytest.mark.parametrize(
    ("delimiter", "encoding", "flag"),
    [
        (";;", "utf-8", "--delimiter"),
        ("", "utf-8", "--delimiter"),
        ('"', "utf-8", "--delimiter"),
        ("\n", "utf-8", "--delimiter"),
        (None, "utf-9", "--encoding"),
        (None, "base64", "--encoding"),
    ],
)
def test_flags_that_name_no_delimiter_or_encoding_are_refused(delimiter, encoding, flag):
    with pytest.raises(ConfigError, match=flag):
        TextFormat.of(delimiter, encoding)


def test_queries_judgements_and_splits_are_read_alike(tmp_path):
    text = TextFormat.of(";", "cp1252")
    (tmp_path / "queries.csv").write_bytes(f"query_id;query\nq1;{TITLE}\n".encode("cp1252"))
    (tmp_path / "qrels.csv").write_bytes("query_id;product_id;relevance\nq1;ä1;1\n".encode("cp1252"))
    (tmp_path / "qrels.trec").write_bytes("q1 0 ä1 1\n".encode("cp1252"))

    assert read_queries([tmp_path / "queries.csv"], text_format=text) == {"q1": TITLE}
    for name in ("qrels.csv", "qrels.trec"):
        assert read_qrels([tmp_path / name], text_format=text) == {"q1": {"ä1": 1.0}}
    source = resolve_dataset(str(tmp_path / "queries.csv"))
    assert values(iter_split(source, "train", text=text)) == [{"query_id": "q1", "query": TITLE}]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('"Foo" is a bar\tb', ['"Foo" is a bar', "b"]),
        ('a\t"15" Laptop"', ["a", '"15" Laptop"']),
        ('"open\tb', ['"open', "b"]),
        ('a\t"open', ["a", '"open']),
        ('5" pipe\t"', ['5" pipe', '"']),
        ('"quoted"\t"a ""b"""', ["quoted", 'a "b"']),
        ('"one\ttwo"\tb', ["one\ttwo", "b"]),
        ('a\t"two\nlines"', ["a", "two\nlines"]),
        ('a\t"three\n\nlines"', ["a", "three\n\nlines"]),
        ('"two\nlines"\tb', ["two\nlines", "b"]),
    ],
)
@pytest.mark.parametrize("after", ["", "\nc\td", '\nc\td"e"', '\n"c"\td\n'])
def test_a_tsv_has_quotes_of_csv_or_texts_as_they_are(read, line, fields, after):
    rows = read(f"x\ty\na\tb\n{line}{after}", name="p.tsv")
    there = [["a", "b"], fields, *([["c", 'd"e"' if "e" in after else "d"]] if after else [])]
    assert [list(row.values.values()) for row in rows] == there
    assert [row.number for row in rows] == list(range(1, len(there) + 1))
    if after:
        assert rows[2].line == 4 + line.count("\n")


def test_a_quote_that_is_never_closed_is_reported_in_a_tsv_too(read):
    with pytest.raises(DataError, match="line 2: a quote opens"):
        read('x\ty\n"open\n\nrow\n', name="p.tsv")
