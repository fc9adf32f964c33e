from dataclasses import fields

import datasets
import numpy as np
import pytest

from aisle.data.pairs import Pairs
from aisle.errors import TrainingError
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.text.tokens import PRODUCT, QUERY
from aisle.training.tokenized import TokenizedPairs, open_tokenized, tokenize_pairs, write_tokenized

PLAIN = ("", "")
PROMPTED = ("query: ", "passage: ")
NAMES = [field.name for field in fields(TokenizedPairs)]


@pytest.fixture
def tokenized(minilm_tokenizer):
    """Return a function that tokenises pairs, given their columns."""

    def tokenize(prompts=PROMPTED, *, separate=False, **columns):
        table = datasets.Dataset.from_dict({name: values for name, values in columns.items()})
        sides = (SideTokenizer(minilm_tokenizer, prompt, max_length=16) for prompt in prompts)
        return tokenize_pairs(Pairs(table), SideTokenizers(*sides, separate=separate))

    return tokenize


@pytest.fixture
def some_pairs(tokenized):
    return tokenized(
        query=["sofa", "lamp", "sofa"],
        product=["red sofa", "desk lamp", "blue sofa"],
        relevance=[1.0, 0.1, 0.5],
        hard_negatives=[["desk lamp", "chair"], [], ["chair"]],
    )


@pytest.fixture
def read(minilm_tokenizer):
    """Return a function that decodes a text of tokenised pairs, given its number."""
    return lambda pairs, text: minilm_tokenizer.decode(pairs.texts[text], skip_special_tokens=True)


def test_each_distinct_text_is_stored_once_with_its_sides_prompt(some_pairs, read):
    words = [read(some_pairs, text) for text in range(len(some_pairs.texts))]

    assert len(set(words)) == len(words) == 6
    assert [words[text] for text in some_pairs.queries] == ["query : sofa", "query : lamp", "query : sofa"]
    products = ["passage : red sofa", "passage : desk lamp", "passage : blue sofa"]
    assert [words[text] for text in some_pairs.products] == products
    negatives = ["passage : desk lamp", "passage : chair", "passage : chair"]
    assert [words[text] for text in some_pairs.negatives] == negatives


def test_each_text_keeps_its_sides(tokenized):
    pairs = tokenized(PLAIN, query=["sofa", "lamp"], product=["red sofa", "sofa"])

    assert pairs.queries.tolist() == [0, 1]
    assert pairs.products.tolist() == [2, 0]
    assert pairs.texts.sides.tolist() == [QUERY | PRODUCT, QUERY, PRODUCT]


def test_hard_negatives_are_on_the_side_of_products(some_pairs):
    assert set(some_pairs.texts.sides_of(some_pairs.negatives).tolist()) == {PRODUCT}
    assert set(some_pairs.texts.sides_of(some_pairs.queries).tolist()) == {QUERY}


def test_separate_towers_store_a_text_of_both_sides_twice(tokenized, read):
    pairs = tokenized(
        PLAIN,
        separate=True,
        query=["sofa", "lamp", "sofa"],
        product=["red sofa", "sofa", "lamp"],
        hard_negatives=[["lamp"], ["bed"], []],
    )

    words = [read(pairs, text) for text in range(len(pairs.texts))]
    assert words == ["sofa", "lamp", "red sofa", "sofa", "lamp", "bed"]
    assert pairs.queries.tolist() == [0, 1, 0]
    assert pairs.products.tolist() == [2, 3, 4]
    assert pairs.negatives.tolist() == [4, 5]
    assert pairs.texts.sides.tolist() == [QUERY] * 2 + [PRODUCT] * 4
    assert pairs.marks.shape == (6,)


def test_texts_are_cut_to_the_maximum_length_including_the_prompt(tokenized):
    pairs = tokenized(query=["sofa " * 50], product=["lamp"])

    assert pairs.texts.lengths().tolist() == [16, 5]  # [CLS] passage : lamp [SEP]


def test_without_prompts_a_query_and_an_equal_product_are_stored_once(tokenized):
    pairs = tokenized(PLAIN, query=["sofa", "lamp"], product=["lamp", "chair"])

    assert len(pairs.texts) == 3
    assert pairs.products[0] == pairs.queries[1]
    assert pairs.query_keys[pairs.products[1]] == -1  # no query is "chair"
    assert pairs.product_keys[pairs.queries[0]] == -1  # no product is "sofa"


def test_hard_negatives_belong_to_their_pairs(some_pairs, read):
    def negatives_of(*rows):
        return [read(some_pairs, text) for text in some_pairs.negatives_of(np.array(rows))]

    assert some_pairs.negative_offsets.tolist() == [0, 2, 2, 3]
    assert negatives_of(0) == ["passage : desk lamp", "passage : chair"]
    assert negatives_of(1) == []
    assert negatives_of(2, 0) == ["passage : chair", "passage : desk lamp", "passage : chair"]


def test_pairs_without_hard_negatives_have_none(tokenized):
    pairs = tokenized(query=["sofa", "lamp"], product=["red sofa", "desk lamp"])

    assert pairs.negatives_of(np.array([0, 1])).tolist() == []
    assert pairs.negative_offsets.tolist() == [0, 0, 0]


def test_keys_are_equal_for_equal_texts_and_for_equal_ids(tokenized):
    pairs = tokenized(
        query=["sofa", "couch", "lamp", "sofa"],
        query_id=["q1", "q1", "q2", "q3"],
        product=["red sofa", "red sofa", "desk lamp", "scarlet sofa"],
        product_id=["p1", "p2", "p3", "p2"],
    )

    sofa, couch, lamp, again = pairs.query_keys[pairs.queries]
    assert sofa == couch == again  # by id, then by text
    assert lamp != sofa
    red, same, desk, scarlet = pairs.product_keys[pairs.products]
    assert red == same == scarlet  # p2 is both red sofa and scarlet sofa
    assert desk != red


def test_without_ids_keys_are_equal_only_for_equal_texts(tokenized):
    pairs = tokenized(query=["sofa", "couch", "sofa"], product=["red sofa", "red sofa", "scarlet sofa"])

    sofa, couch, again = pairs.query_keys[pairs.queries]
    assert sofa == again != couch
    red, same, scarlet = pairs.product_keys[pairs.products]
    assert red == same != scarlet


def test_a_text_has_keys_only_for_its_own_sides(some_pairs):
    sides = [
        set(some_pairs.queries.tolist()),
        set(some_pairs.products.tolist() + some_pairs.negatives.tolist()),
    ]

    for texts, keys in zip(sides, (some_pairs.query_keys, some_pairs.product_keys), strict=True):
        assert set(np.flatnonzero(keys >= 0).tolist()) == texts
        assert (keys >= -1).all()


def test_a_hard_negative_that_is_a_product_elsewhere_has_that_products_key(some_pairs):
    assert some_pairs.negatives[0] == some_pairs.products[1]
    keys = some_pairs.product_keys
    assert keys[some_pairs.negatives[0]] == keys[some_pairs.products[1]]


def test_a_hard_negative_has_the_key_of_the_product_with_its_text(tokenized):
    pairs = tokenized(
        query=["sofa", "couch", "lamp"],
        product=["red sofa", "scarlet sofa", "desk lamp"],
        query_id=["q1", "q2", "q3"],
        product_id=["p1", "p1", "p2"],
        hard_negatives=[["desk lamp"], ["desk lamp"], ["scarlet sofa"]],
    )

    assert pairs.product_keys[pairs.negatives[2]] == pairs.product_keys[pairs.products[0]]


def test_other_hard_negatives_have_new_keys(tokenized):
    pairs = tokenized(
        query=["sofa", "lamp"],
        product=["red sofa", "desk lamp"],
        hard_negatives=[["chair", "table"], ["chair", "shelf"]],
    )

    keys = pairs.product_keys[pairs.negatives].tolist()
    assert keys[0] == keys[2]  # chair both times
    assert len({*keys, *pairs.product_keys[pairs.products].tolist()}) == 5


def test_a_hard_negative_that_is_also_a_query_has_a_key_for_each_side(tokenized):
    pairs = tokenized(
        PLAIN, query=["sofa", "lamp"], product=["red sofa", "desk lamp"], hard_negatives=[["lamp"], ["sofa"]]
    )

    lamp, sofa = pairs.negatives
    assert [lamp, sofa] == [pairs.queries[1], pairs.queries[0]]
    assert (
        len({*pairs.product_keys[[lamp, sofa]].tolist(), *pairs.product_keys[pairs.products].tolist()}) == 4
    )
    assert pairs.query_keys[lamp] != pairs.query_keys[sofa]


def test_labelled_pairs_are_positive_above_a_relevance_of_one_half(some_pairs):
    assert some_pairs.labelled
    np.testing.assert_array_equal(some_pairs.relevance, np.array([1.0, 0.1, 0.5], np.float32))
    assert some_pairs.positive(np.arange(3)).tolist() == [True, False, False]
    assert some_pairs.positive(np.array([2, 0])).tolist() == [False, True]


def test_pairs_without_labels_are_all_positive(tokenized):
    pairs = tokenized(query=["sofa", "lamp"], product=["red sofa", "desk lamp"])

    assert not pairs.labelled
    assert pairs.positive(np.arange(2)).tolist() == [True, True]


def test_arrays_have_the_documented_types(some_pairs):
    types = {name: getattr(some_pairs, name).dtype.name for name in NAMES}

    others = {"ids": "int32", "relevance": "float32", "teacher_scores": "float32", "marks": "uint8"}
    others |= {"negative_scores": "float32", "types": "uint8"}
    assert types == dict.fromkeys(NAMES, "int64") | others


@pytest.mark.parametrize("negatives", [True, False], ids=["with hard negatives", "with empty arrays"])
def test_opened_pairs_equal_the_written_pairs_and_are_memory_mapped(
    negatives, some_pairs, tokenized, tmp_path
):
    pairs = some_pairs if negatives else tokenized(query=["sofa"], product=["red sofa"])

    write_tokenized(pairs, tmp_path / "cache" / "tokens")
    opened = open_tokenized(tmp_path / "cache" / "tokens")

    assert len(opened) == len(pairs)
    for name in NAMES:
        found, expected = getattr(opened, name), getattr(pairs, name)
        assert isinstance(found, np.memmap) or isinstance(found.base, np.memmap), name
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tokens"]


def test_opened_pairs_cannot_be_changed(some_pairs, tmp_path):
    write_tokenized(some_pairs, tmp_path / "tokens")

    with pytest.raises(ValueError, match="read-only"):
        open_tokenized(tmp_path / "tokens").ids[0] = 1


def test_a_second_writer_keeps_the_first_writers_folder(some_pairs, tokenized, tmp_path):
    write_tokenized(some_pairs, tmp_path / "tokens")

    write_tokenized(tokenized(query=["vase"], product=["blue vase"]), tmp_path / "tokens")

    np.testing.assert_array_equal(open_tokenized(tmp_path / "tokens").ids, some_pairs.ids)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_an_interrupted_write_leaves_no_files(some_pairs, tmp_path, monkeypatch):
    save = np.save

    def stop(path, array):
        if path.name == "queries.npy":
            raise KeyboardInterrupt
        save(path, array)

    monkeypatch.setattr(np, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_tokenized(some_pairs, tmp_path / "tokens")

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_with_the_folder_and_leaves_no_files(some_pairs, tmp_path, monkeypatch):
    def stop(path, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", stop)
    with pytest.raises(
        TrainingError, match=r"tokens: the tokenised pairs cannot be written: .*No space left"
    ):
        write_tokenized(some_pairs, tmp_path / "tokens")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_logged(some_pairs, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(TrainingError, match=r"tokens: the tokenised pairs cannot be written"):
        write_tokenized(some_pairs, tmp_path / "file" / "tokens")


@pytest.mark.parametrize("kept", [0, 3, 40, -4], ids=["empty", "no header", "half a header", "a token short"])
def test_a_truncated_file_is_reported_with_its_folder_and_advice(kept, some_pairs, tmp_path):
    write_tokenized(some_pairs, tmp_path / "tokens")
    path = tmp_path / "tokens" / "ids.npy"
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(
        TrainingError,
        match=r"tokens: cannot be read \(.+\); remove it, and the next run tokenises the pairs again",
    ):
        open_tokenized(tmp_path / "tokens")


def test_a_missing_file_is_reported_with_its_name(some_pairs, tmp_path):
    write_tokenized(some_pairs, tmp_path / "tokens")
    (tmp_path / "tokens" / "products.npy").unlink()

    with pytest.raises(TrainingError, match=r"tokens: cannot be read \(.*products\.npy"):
        open_tokenized(tmp_path / "tokens")
