from tests.losses.anchors import exclusions

ROWS = exclusions([[4, 1], [], [2], [0, 3, 1]])


def test_a_block_of_exclusions_contains_the_columns_of_its_rows():
    block = ROWS.block(1, 4)

    assert block.ends.tolist() == [0, 0, 1, 4]
    assert block.rows.tolist() == [1, 2, 2, 2]
    assert block.columns.tolist() == [2, 0, 3, 1]


def test_exclusions_give_the_row_of_every_column():
    assert ROWS.rows.tolist() == [0, 0, 2, 3, 3, 3]


def test_an_empty_block_of_exclusions_is_empty():
    block = ROWS.block(2, 2)

    assert block.ends.tolist() == [0]
    assert block.columns.tolist() == []
    assert block.rows.tolist() == []
