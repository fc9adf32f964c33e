import json
import logging
import math

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import DataError, IndexIntegrityError, SearchError
from aisle.index.analyser import Analyser
from aisle.index.lexical import LEXICAL_FILES, Bm25Index
from tests.edit_json import edit_json

TEXTS = ["red running shoes", "blue running shoes for men", "red mug", "the coffee mug"]


def test_scores_follow_the_lucene_formula():
    # words kept: 3, 4, 2, 2, mean 2.75; "mug" is in 2 of 4 texts, once each
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 1 / (1 + 1.5 * (1 - 0.75 + 0.75 * 2 / 2.75))

    rows, scores = Bm25Index.build(TEXTS).rank(["mug"], top_k=4)

    assert rows[0].tolist() == [2, 3]
    assert scores[0] == pytest.approx([expected, expected], rel=1e-6)


def test_words_add_up_and_the_best_text_comes_first():
    index = Bm25Index.build(TEXTS)

    (rows,), (scores,) = index.rank(["red mug"], top_k=10)
    (_,), (red,) = index.rank(["red"], top_k=10)
    (_,), (mug,) = index.rank(["mug"], top_k=10)

    assert rows[0] == 2
    assert scores[0] == pytest.approx(red[0] + mug[0])
    assert sorted(rows.tolist()) == [0, 2, 3]  # the blue shoes share no word


@pytest.mark.parametrize("top_k", [1, 3, 40, 80, 500])
def test_equal_scores_come_in_row_order_whatever_is_cut_off(top_k):
    index = Bm25Index.build(["lamp", "desk lamp", "chair"] * 40)

    rows, _ = index.rank(["lamp"], top_k=top_k)

    assert rows[0].tolist() == [*range(0, 120, 3), *range(1, 120, 3)][:top_k]


@pytest.mark.parametrize("query", ["", "   ", "!?", "the of and", "zeppelin", "x"])
def test_a_query_without_a_known_word_has_an_empty_ranking(query):
    rows, scores = Bm25Index.build(TEXTS).rank([query, "mug"], top_k=3)

    assert (len(rows[0]), len(scores[0])) == (0, 0)
    assert rows[1].tolist() == [2, 3]


def test_case_width_and_composition_do_not_hide_a_word():
    index = Bm25Index.build(["Café STRASSE", "\uff33\uff2f\uff2e\uff39 カメラ", "東京 タワー"])

    rows, _ = index.rank(["cafe\u0301", "straße", "sony", "東京", "😀"], top_k=3)

    assert [found.tolist() for found in rows] == [[0], [0], [1], [2], []]


def test_texts_without_words_keep_their_rows():
    rows, _ = Bm25Index.build(["", "!!", "mug"]).rank(["mug"], top_k=3)

    assert rows[0].tolist() == [2]


def test_nothing_is_printed_and_the_log_stays_quiet(capsys, caplog):
    caplog.set_level(logging.DEBUG)

    Bm25Index.build(TEXTS).rank(["mug"], top_k=2)

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.name.startswith("bm25s")] == []


def test_no_texts_are_refused():
    with pytest.raises(DataError, match="at least one text"):
        Bm25Index.build([])


def test_top_k_below_one_is_refused():
    with pytest.raises(SearchError, match="found 0"):
        Bm25Index.build(TEXTS).rank(["mug"], top_k=0)


def test_texts_without_any_word_make_an_index_that_ranks_nothing(tmp_path):
    built = Bm25Index.build(["the", "!"])
    built.save(tmp_path)

    for index in (built, Bm25Index.load(tmp_path)):
        assert index.texts == 2
        assert [found.tolist() for found in index.rank(["the", "mug", ""], top_k=2)[0]] == [[], [], []]
        assert index.score("mug").tolist() == [0.0, 0.0]


def test_texts_are_read_once_from_any_iterable():
    rows, scores = Bm25Index.build(iter(TEXTS)).rank(["red mug"], top_k=4)
    expected_rows, expected_scores = Bm25Index.build(TEXTS).rank(["red mug"], top_k=4)

    assert rows[0].tolist() == expected_rows[0].tolist()
    assert scores[0].tolist() == expected_scores[0].tolist()


def test_scores_are_those_of_bm25s_itself():
    import bm25s

    rng = np.random.default_rng(0)
    words = [first + second for first in "bcdfg" for second in ("ab", "ek", "im", "op", "uz") * 2]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 20))) for _ in range(200)]
    oracle = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy")
    oracle.index([text.split() for text in texts], show_progress=False)

    found = Bm25Index.build(texts, analyser=Analyser.of("none")).score("bab cek cek guz")

    assert found == pytest.approx(oracle.get_scores(["bab", "cek", "cek", "guz"]), rel=1e-6)
    assert np.count_nonzero(found) > 20


def test_every_text_is_scored_and_zero_means_no_word_in_common():
    found = Bm25Index.build(TEXTS).score("red mug")

    assert (found > 0).tolist() == [True, False, True, True]
    assert (found.shape, found.dtype) == ((4,), np.float32)


def test_equal_scores_follow_the_given_order_also_at_the_cut():
    index = Bm25Index.build(["lamp", "desk lamp", "chair"] * 4)
    ranks = np.arange(12)[::-1].copy()

    rows, _ = index.rank(["lamp"], top_k=3, tie_ranks=ranks)

    assert rows[0].tolist() == [9, 6, 3]


def test_only_allowed_rows_are_ranked():
    index = Bm25Index.build(TEXTS)
    allowed = np.array([True, True, False, True])

    rows, scores = index.rank(["red mug"], top_k=4, allowed=allowed)

    assert sorted(rows[0].tolist()) == [0, 3]
    assert scores[0].tolist() == sorted(index.score("red mug")[[0, 3]].tolist(), reverse=True)


def test_a_saved_index_scores_to_the_same_bits(tmp_path):
    built = Bm25Index.build([*TEXTS, "東京 タワー", "Café", ""])
    built.save(tmp_path / "lexical")

    loaded = Bm25Index.load(tmp_path / "lexical")

    assert loaded.texts == 7
    for query in ["red mug", "東京 café", "shoes men blue", "zeppelin"]:
        assert loaded.score(query).tobytes() == built.score(query).tobytes()
    assert {path.name for path in (tmp_path / "lexical").iterdir()} == set(LEXICAL_FILES)


def test_the_same_texts_give_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        Bm25Index.build(TEXTS).save(tmp_path / name)

    for name in LEXICAL_FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_loaded_index_is_mapped_and_not_read(tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)

    loaded = Bm25Index.load(tmp_path)

    assert isinstance(loaded.scores.base, np.memmap)
    assert isinstance(loaded.rows.base, np.memmap)


@pytest.mark.parametrize("name", LEXICAL_FILES)
def test_a_missing_file_is_refused_by_name(name, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(IndexIntegrityError, match=f"{name}: missing"):
        Bm25Index.load(tmp_path)


@pytest.mark.parametrize("name", LEXICAL_FILES)
def test_a_truncated_file_is_refused_by_name(name, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) - 3])

    with pytest.raises(IndexIntegrityError, match=name):
        Bm25Index.load(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"texts": -1}, {"texts": True}, {"texts": "4"}, {"k1": 1.2}, {"b": None}, {"rows": 1.0}]
)
def test_sizes_of_another_index_are_refused(changes, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    path = tmp_path / "bm25.json"
    edit_json(path, **changes)

    with pytest.raises(IndexIntegrityError, match=r"bm25\.json: must be the sizes"):
        Bm25Index.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "{}", "{"])
def test_a_sizes_file_of_another_kind_is_refused(content, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    (tmp_path / "bm25.json").write_text(content)

    with pytest.raises(IndexIntegrityError, match=r"bm25\.json: must be the sizes"):
        Bm25Index.load(tmp_path)


@pytest.mark.parametrize("name", ["posting_starts", "word_starts", "id_starts"])
def test_starts_that_do_not_fit_are_refused(name, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    starts = np.load(tmp_path / f"{name}.npy")
    starts[-1] += 1
    np.save(tmp_path / f"{name}.npy", starts)

    with pytest.raises(IndexIntegrityError, match=rf"{name}\.npy: must have one start per word"):
        Bm25Index.load(tmp_path)


def test_no_score_reaches_the_highest_and_its_value_is_the_sum_of_idf():
    index = Bm25Index.build([*TEXTS, "mug " * 500])
    idf = {df: math.log(1 + (5 - df + 0.5) / (df + 0.5)) for df in (0, 2, 3)}

    assert index.highest_score("red mug zeppelin") == pytest.approx(idf[2] + idf[3] + idf[0])
    assert index.score("mug").max() < index.highest_score("mug") == pytest.approx(idf[3])
    assert index.highest_score("!") == pytest.approx(math.log(1 + (5 - 1 + 0.5) / 1.5))


def test_a_product_is_found_by_its_id_before_those_that_mention_it(tmp_path):
    texts = ["pruning saw", "blade for GS-00105", "GS-00105 GS-00105"]
    built = Bm25Index.build(texts, product_ids=pa.chunked_array([["GS-00105", "GS", "X"]]))
    built.save(tmp_path)

    for index in (built, Bm25Index.load(tmp_path)):
        for query in ("GS-00105", "gs00105", " GS 00105 "):
            (rows,), (scores,) = index.rank([query], top_k=3)
            assert rows.tolist()[0] == 0
            assert scores[0] == pytest.approx(index.highest_score(query))
            assert scores[1] < scores[0]
        assert index.rank(["x"], top_k=1)[0][0].tolist() == [2]


def test_words_of_an_id_do_not_count_as_words_of_the_text():
    index = Bm25Index.build(["Playstation 4", "Playstation 5"], product_ids=pa.chunked_array([["3", "4"]]))

    assert index.rank(["playstation 4"], top_k=2)[0][0].tolist() == [0, 1]
    assert index.rank(["4"], top_k=2)[0][0].tolist() == [1, 0]


def test_a_loaded_index_splits_queries_as_its_texts_were_split(tmp_path):
    Bm25Index.build(["Häuser und Gärten"], analyser=Analyser.of("german")).save(tmp_path)

    loaded = Bm25Index.load(tmp_path)

    assert loaded.analyser == Analyser.of("german")
    assert loaded.rank(["haus"], top_k=1)[0][0].tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": 0}, "other rules"),
        ({"probe": "0" * 16}, "another version of the english stemmer"),
        ({"language": "klingon"}, "does not record how its texts were split"),
        ({"stop_words": None}, "does not record how its texts were split"),
        (None, "does not record how its texts were split"),
    ],
)
def test_texts_split_by_another_analyser_are_refused(changes, message, tmp_path):
    Bm25Index.build(TEXTS).save(tmp_path)
    path = tmp_path / "bm25.json"
    shape = json.loads(path.read_text())
    shape["analyser"] = None if changes is None else shape["analyser"] | changes
    path.write_text(json.dumps(shape))

    with pytest.raises(IndexIntegrityError, match=message):
        Bm25Index.load(tmp_path)
