"""Rows of a text with its group, and pairs with the group of the product or with a subgroup."""

import numpy as np
import pytest

from aisle.data.batching import epoch_order
from aisle.data.groups import check_groups, check_held_out
from aisle.data.pairs import PairColumns, read_pairs, split_by_query
from aisle.data.rows import Row
from aisle.errors import DataError


def read(rows, **columns):
    rows = [Row("rows.csv", number, dict(row)) for number, row in enumerate(rows, start=1)]
    return read_pairs(iter(rows), columns=PairColumns(**columns), label_map=None, on_bad_row="error").pairs


TEXTS = [("red sofa", "sofa"), ("blue sofa", "sofa"), ("lamp", "light"), ("lantern", "light"), ("rug", "rug")]


@pytest.mark.parametrize("column", ["text", "question", "title"])
def test_a_row_of_a_text_with_its_group_is_read_as_a_text(column):
    pairs = read([{column: text, "label": group} for text, group in TEXTS], group="label")
    assert pairs.texts_of_groups
    assert pairs.queries == pairs.products == [text for text, _ in TEXTS]
    assert pairs.groups == pairs.query_ids == pairs.product_ids == [group for _, group in TEXTS]
    assert not pairs.labelled  # label is the group


def test_a_group_beside_a_query_and_a_product_is_the_products():
    rows = [{"query": "sofa", "product": "red sofa", "variant_of": "s"}]
    rows += [{"query": "lamp", "product": "lamp", "variant_of": ""}]
    pairs = read(rows, group="variant_of")
    assert not pairs.texts_of_groups
    assert (pairs.product_groups, pairs.product_ids) == (["s", None], None)


def test_a_subgroup_is_read_and_must_not_be_blank():
    rows = [{"query": "sofa", "product": "red sofa", "shop": "a"}]
    assert read(rows, subgroup="shop").subgroups == ["a"]
    with pytest.raises(DataError, match="shop is blank"):
        read([*rows, {"query": "lamp", "product": "lamp", "shop": " "}], subgroup="shop")


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"text": "lamp", "kind": "a"}, {"group": "group"}, "group"),
        (
            {"caption": "lamp", "kind": "a"},
            {"group": "kind"},
            "no column of texts beside the groups.*query_column",
        ),
        (
            {"text": "lamp", "kind": "a", "relevance": "1"},
            {"group": "kind", "label": "relevance"},
            "--label_column relevance: is for pairs",
        ),
        (
            {"text": "lamp", "kind": "a", "shop": "1"},
            {"group": "kind", "subgroup": "shop"},
            "--subgroup_column shop: is for pairs",
        ),
        ({"text": "lamp", "kind": ""}, {"group": "kind"}, "kind is blank"),
        ({"text": " ", "kind": "a"}, {"group": "kind"}, "text is blank"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_the_reason(row, columns, message):
    with pytest.raises(DataError, match=message):
        read([row], **columns)


def test_held_out_texts_share_no_group_with_training_texts():
    pairs = read(
        [{"text": f"{group} {n}", "kind": group} for group in "abcdef" for n in range(3)], group="kind"
    )
    train, validation = split_by_query(pairs, validation_share=0.3, seed=1)
    assert set(train.groups).isdisjoint(validation.groups)
    assert len(train) + len(validation) == 18
    assert len(set(validation.groups)) == 2


def checked(rows):
    return check_groups(
        read([{"text": t, "kind": g} for t, g in rows], group="kind"), name="train", column="kind"
    )


def test_groups_of_one_text_and_texts_of_several_groups_are_counted():
    assert checked(TEXTS[:4]) is None
    assert "1 of 3 groups have a single text" in checked(TEXTS)
    more = [("bed", "bed"), ("bunk", "bed"), ("desk", "desk"), ("table", "desk"), ("lamp", "sofa")]
    more += [("sofa bed", "sofa"), ("rug", "rug"), ("carpet", "rug")]
    assert checked([*TEXTS[:4], *more]) == (
        "--group_column kind: train: 1 texts are in several groups; groups that share a text count as a "
        "single group: 4 of 5 groups remain, and the largest has 50% of the rows"
    )


def test_a_single_group_and_groups_of_one_text_each_are_refused():
    with pytest.raises(DataError, match="--group_column kind: train: all 2 rows are of the group 'sofa'"):
        checked(TEXTS[:2])
    with pytest.raises(DataError, match="each of the 3 groups has a single text"):
        checked([*TEXTS[1:3], *TEXTS[4:], TEXTS[4]])


@pytest.mark.parametrize(
    ("groups", "share", "expected"), [(4, 0.1, 2), (14, 0.1, 2), (14, 0.9, 12), (5, 0.9, 3)]
)
def test_a_split_holds_out_two_groups_and_leaves_two(groups, share, expected):
    pairs = read([{"text": f"{n} {of}", "kind": of} for of in range(groups) for n in range(3)], group="kind")
    for seed in range(5):
        train, validation = split_by_query(pairs, validation_share=share, seed=seed)
        assert len(set(validation.groups)) == expected
        assert len(set(train.groups)) == groups - expected >= 2


def test_a_split_of_three_groups_is_refused():
    """Of four groups, two share a text."""
    rows = [*((f"{n} {of}", of) for of in "abcd" for n in range(3)), ("0 A", "b")]
    pairs = read([{"text": text, "kind": of} for text, of in rows], group="kind")
    with pytest.raises(DataError, match=r"rows have 3 groups .* a split needs four.*--validation_file"):
        split_by_query(pairs, validation_share=0.3, seed=0)


def test_a_part_of_a_split_needs_a_group_of_two_texts():
    alone = read([{"text": of, "kind": of} for of in "ab"], group="kind")
    twice = read([{"text": f"{of} {n}", "kind": of} for of in "cd" for n in range(2)], group="kind")
    check_held_out(twice, twice, column="kind")
    with pytest.raises(DataError, match="each of the 2 groups that are left for validation"):
        check_held_out(twice, alone, column="kind")
    with pytest.raises(DataError, match="each of the 2 groups that are left for training"):
        check_held_out(alone, twice, column="kind")


def test_texts_that_merge_most_rows_into_a_group_are_refused_with_an_example():
    rows = [(f"{of} {n}", of) for of in "abcdef" for n in range(5)]
    # a, b, c and d become a group of 25 of 35 rows.
    joined = [*rows, ("hello", "a"), ("hello", "b"), ("hello", "c"), ("hello", "d"), ("a 0", "b")]
    with pytest.raises(DataError) as refused:
        checked(joined)
    assert str(refused.value) == (
        "--group_column kind: train: groups that share a text count as a single group: 3 of 6 groups remain, "
        "and the largest has 71% of the rows. 2 texts are in several groups, for example 'hello' in 'a', "
        "'b', 'c' and 1 more. Give each text a single group."
    )
    with pytest.raises(DataError, match="1 of 2 groups remain, and the largest has 100% of the rows"):
        checked([*TEXTS[:4], ("lamp", "sofa")])


def test_a_group_that_was_large_before_it_was_merged_is_accepted():
    rows = [*((f"sofa {n}", "sofa") for n in range(9)), *TEXTS[2:], ("rug", "sofa")]
    assert "2 of 3 groups remain, and the largest has 85% of the rows" in checked(rows)


def test_large_groups_are_divided_into_nearly_equal_parts_that_stay_together():
    groups = np.repeat([7, 3, 5, 9], [11, 4, 1, 2])
    order = epoch_order(18, seed=1, epoch=0, groups=groups, together=4)
    assert sorted(order.tolist()) == list(range(18))
    runs = []  # lengths of consecutive rows of a group
    for group in groups[order]:
        if runs and runs[-1][0] == group:
            runs[-1][1] += 1
        else:
            runs.append([group, 1])
    # The parts of group 7 have 4, 4 and 3 texts; two of them may follow each other.
    assert {group: sorted(n for g, n in runs if g == group) for group in (3, 5, 9)} == {
        3: [4],
        5: [1],
        9: [2],
    }
    assert sum(n for g, n in runs if g == 7) == 11
    assert all(n in (3, 4, 7, 8, 11) for g, n in runs if g == 7)
    assert not np.array_equal(order, epoch_order(18, seed=1, epoch=1, groups=groups, together=4))
    whole = epoch_order(18, seed=1, epoch=0, groups=groups)
    np.testing.assert_array_equal(whole, epoch_order(18, seed=1, epoch=0, groups=groups, together=11))
