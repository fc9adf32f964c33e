"""The benchmark of the service in a small size: swaps under load, memory, latency."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.served_shop import write_served_shop

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    path = tmp_path_factory.mktemp("queries") / "queries.csv"
    path.write_text("query\nblue lamp\noak\nred sofa\na bed of oak\nwool rug for the hall\n")
    return path


def measure(what, shop, queries, *flags):
    command = [sys.executable, SCRIPT, what, "--index_dir", shop.index_dir, "--model", shop.bundle]
    done = subprocess.run(
        [*map(str, command), "--queries", str(queries), *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_every_response_over_five_swaps_is_that_of_the_version_it_names(shop, queries, tmp_path, minilm_dir):
    other = write_served_shop(tmp_path, minilm_dir, seed=1, fingerprint="b" * 64)
    flags = ["--other_index_dir", other.index_dir, "--other_model", other.bundle]

    found = measure("swaps", shop, queries, *flags, "--requests", 1500, "--clients", 8)

    assert (found["statuses"], found["wrong"]) == ({"200": 1500}, 0)
    assert (found["swaps"], found["refused"]) == (4, True)
    assert set(found["responses_by_version"]) == {
        *("index0 version 1", "index0 version 2", "index0 version 3", "index1 version 1")
    }


def test_memory_and_latency_are_measured(shop, queries):
    memory = measure("memory", shop, queries, "--requests", 200, "--clients", 2)
    latency = measure("latency", shop, queries, "--requests", 50, "--clients", 1, 4)

    assert memory["statuses"] == {"200": 200}
    assert len(memory["resident_mib_after_each_tenth"]) == 10
    assert [(row["where"], row["clients"]) for row in latency["latency"]] == [
        *(("server", 1), ("server", 4), ("in process", 1), ("in process", 4))
    ]
