"""The memory that a process can still take, from files as Linux writes them."""

import pytest

from aisle.system.available_memory import available_memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    return tmp_path


def write_group(root, folder, **files):
    group = root / folder
    group.mkdir(parents=True)
    for name, content in files.items():
        (group / name.replace("__", ".")).write_text(content)


def test_without_a_container_it_is_that_of_the_machine(root):
    assert available_memory(root) == 8_000_000 * 1024


def test_a_container_has_its_limit_less_its_use_where_files_in_memory_do_not_count(root):
    stat = "anon 700\nfile 300\ninactive_file 200\n"
    write_group(root, "sys/fs/cgroup", memory__max="1000\n", memory__current="900\n", memory__stat=stat)

    assert available_memory(root) == 1000 - (900 - 200)


def test_a_container_of_the_older_kind(root):
    write_group(
        root,
        "sys/fs/cgroup/memory",
        memory__limit_in_bytes="5000\n",
        memory__usage_in_bytes="4500\n",
        memory__stat="cache 9\ntotal_inactive_file 100\n",
    )

    assert available_memory(root) == 600


def test_a_container_without_a_limit_has_that_of_the_machine(root):
    write_group(
        root, "sys/fs/cgroup", memory__max="max\n", memory__current="900\n", memory__stat="inactive_file 0\n"
    )

    assert available_memory(root) == 8_000_000 * 1024


def test_a_system_without_these_files_has_no_number(tmp_path):
    assert available_memory(tmp_path) is None


def test_this_machine_has_some():
    found = available_memory()

    assert found is None or found > 1_000_000
