"""Folders that take the place of earlier ones, and errors that leave the earlier ones where they were."""

import sys
from pathlib import Path

import pytest

from aisle.io import folder_swap
from aisle.io.folder_swap import exchange, put_in_place, why_irreplaceable


@pytest.fixture
def earlier(tmp_path):
    """A folder with a file that says "old"."""
    return folder_with(tmp_path / "bundle", "old")


def folder_with(folder, text):
    folder.mkdir()
    (folder / "bundle.json").write_text(text)
    return folder


@pytest.fixture
def no_exchange(monkeypatch):
    monkeypatch.setattr(folder_swap, "exchange", lambda _one, _other: False)


def content(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_linux_exchanges_folders_without_a_moment_between(earlier, tmp_path):
    staging = folder_with(tmp_path / ".staging", "new")

    done = exchange(staging, earlier)

    assert done == (sys.platform == "linux")
    if done:
        assert (earlier / "bundle.json").read_text() == "new"
        assert (staging / "bundle.json").read_text() == "old"


def test_an_exchange_is_used_where_there_is_one(earlier, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_swap, "exchange", lambda one, other: swapped.append((one, other)) or True)
    swapped = []
    staging = folder_with(tmp_path / ".staging", "new")

    put_in_place(staging, earlier)

    assert swapped == [(staging, earlier)]


@pytest.mark.parametrize("exchanged", [True, False])
def test_the_new_folder_takes_the_place_of_the_earlier_one(earlier, tmp_path, exchanged, request):
    if not exchanged:
        request.getfixturevalue("no_exchange")
    put_in_place(folder_with(tmp_path / ".staging", "new"), earlier)

    assert (earlier / "bundle.json").read_text() == "new"
    assert content(tmp_path) == {"bundle", "bundle/bundle.json"}


@pytest.mark.usefixtures("no_exchange")
def test_an_error_in_the_second_rename_takes_the_first_back(earlier, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\.staging"):
        put_in_place(tmp_path / ".staging", earlier)  # there is no such folder

    assert (earlier / "bundle.json").read_text() == "old"
    assert content(tmp_path) == {"bundle", "bundle/bundle.json"}


@pytest.mark.usefixtures("no_exchange")
def test_an_error_in_the_first_rename_leaves_nothing_behind(earlier, tmp_path, monkeypatch):
    def refused(self, target):
        raise PermissionError(f"{self} to {target}")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        put_in_place(folder_with(tmp_path / ".staging", "new"), earlier)

    assert content(tmp_path) == {"bundle", "bundle/bundle.json", ".staging", ".staging/bundle.json"}


def test_the_folder_that_a_link_names_is_replaced_and_the_link_stays(earlier, tmp_path):
    (tmp_path / "current").symlink_to("bundle")

    put_in_place(folder_with(tmp_path / ".staging", "new"), tmp_path / "current")

    assert (tmp_path / "current").is_symlink()
    assert (earlier / "bundle.json").read_text() == "new"


def test_the_current_folder_and_a_mounted_disk_cannot_be_replaced(earlier, monkeypatch):
    assert why_irreplaceable(earlier) is None
    monkeypatch.chdir(earlier)
    assert why_irreplaceable(Path()).startswith("is the current folder, which cannot be replaced")
    assert why_irreplaceable(Path("/")).startswith("is where a disk is mounted")
