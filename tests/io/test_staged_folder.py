"""Folders written beside their place, and those that stopped processes leave."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from aisle.io.staged_folder import staged_folder

WRITER = """
import pathlib, sys, time
from aisle.io.staged_folder import staged_folder

with staged_folder(pathlib.Path(sys.argv[1])) as staging:
    (staging / "weights").write_text("half")
    print("writes", flush=True)
    time.sleep(600)
"""
PATIENCE = 120


@contextmanager
def writer(folder):
    """Start a process that writes to a staged folder until it is stopped."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writes\n"
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def test_the_folder_is_beside_and_removed_in_the_end(tmp_path):
    with staged_folder(tmp_path / "more" / "bundle") as staging:
        assert staging.parent == tmp_path / "more"
        assert staging.name.startswith(".bundle.writing-")

    assert list((tmp_path / "more").iterdir()) == []


def test_sigterm_removes_the_folder_and_ends_the_process(tmp_path):
    with writer(tmp_path / "bundle") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM

    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path):
    with writer(tmp_path / "bundle") as process:
        process.kill()
        process.wait(PATIENCE)
    assert len(list(tmp_path.iterdir())) == 1

    with staged_folder(tmp_path / "bundle") as staging:
        assert list(tmp_path.iterdir()) == [staging]


def test_the_folders_of_a_running_process_and_of_other_names_stay(tmp_path):
    (tmp_path / ".bundle2.writing-abc").mkdir()
    (tmp_path / ".bundle.earlier-abc").mkdir()
    with writer(tmp_path / "bundle"):
        before = set(tmp_path.iterdir())
        assert len(before) == 3

        with staged_folder(tmp_path / "bundle"):
            pass

        assert set(tmp_path.iterdir()) == before


def test_a_handler_of_the_program_stays(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with staged_folder(tmp_path / "bundle"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert received == [signal.SIGTERM]


def test_the_default_effect_of_sigterm_is_back_in_the_end(tmp_path):
    with pytest.raises(SystemExit, match="143"), staged_folder(tmp_path / "bundle"):
        os.kill(os.getpid(), signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert list(tmp_path.iterdir()) == []
