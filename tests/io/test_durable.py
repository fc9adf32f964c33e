"""Files that are written in one step."""

import pytest

from aisle.io.durable import replace_text, replacing


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")

    with replacing(path) as beside:
        beside.write_text("half of the n")
        assert path.read_text() == "old"
        beside.write_text("new")

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")

    def write():
        with replacing(path) as beside:
            beside.write_text("half")
            raise ValueError("the encoder broke")

    with pytest.raises(ValueError, match="the encoder broke"):
        write()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_line_ends_stay_as_they_are(tmp_path):
    replace_text(tmp_path / "card.md", "a\r\nb\n")

    assert (tmp_path / "card.md").read_bytes() == b"a\r\nb\n"
