"""The how-to of nightly rebuilds, executed: its commands, its script and its units, with a running server.

`/srv/aisle` and the other folders of the page are folders of the test; the server has a free port.
"""

import configparser
import csv
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from aisle.cli import main
from aisle.index import read_manifest
from aisle.sample_shop.generate import write_sample
from tests.doc_commands import ROOT, blocks_of, blocks_run_by, commands_of, our_problem
from tests.service.running_server import running_server

PAGE = ROOT / "docs" / "how-to" / "nightly.md"
BLOCKS = list(blocks_of(PAGE.read_text("utf-8"), PAGE.name))
FILES = {block.title: block.text for block in BLOCKS if block.title is not None}
BUILD, CALIBRATE, PUBLISH, SEARCH, SHOW, ROLL_BACK = blocks_run_by(__file__)
"""Commands of the page, in its order."""
UNITS = {Path(name).name: text for name, text in FILES.items() if name.startswith("/etc/systemd/")}
NEW = {"product_id": "NEW-1", "title": "Zorblax hoverboard", "brand": "Zorblax"}
SETTINGS = {
    *("Description", "After", "WantedBy", "OnCalendar", "Persistent"),
    *("Type", "User", "ExecStart", "Restart", "RestartSec", "TimeoutStopSec", "Nice", "IOSchedulingClass"),
    *("NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectSystem"),
}
"""Settings of the units, from systemd.unit(5), .service(5), .timer(5) and .exec(5)."""

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed (Debian: apt-get install curl)"
)


def unit(name):
    """Return the sections of a unit."""
    parsed = configparser.ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str
    parsed.read_string(UNITS[name])
    return parsed


class Machine:
    """The machine of the page, below a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.port = 8080
        self.catalog = folder / "srv" / "shop" / "products.csv"
        self.home = folder / "srv" / "aisle"

    def there(self, text):
        """Return a text of the page with the paths and the port of this machine."""
        text = re.sub(r"(?<![\w.])/(srv|etc)/", rf"{self.folder}/\1/", text)
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")

    def bash(self, text):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.there(text)],
            cwd=self.home,
            env={**os.environ, "PATH": f"{self.home}/venv/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def page(self, block):
        """Run a block of the page, and return what it prints."""
        done = self.bash(block.text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def page_here(self, block):
        """Run a block's aisle commands in this process, which has imported torch already."""
        for words in commands_of(dataclasses.replace(block, text=self.there(block.text))):
            if words[0] == "aisle":
                assert main(words[1:]) == 0, shlex.join(words)
            else:
                assert words[0] in {"cd", "export"}

    def night(self):
        """Run the nightly job as its unit does."""
        return self.bash(unit("aisle-nightly.service")["Service"]["ExecStart"])

    def rows(self):
        with self.catalog.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def write_rows(self, rows):
        with self.catalog.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), restval="")
            writer.writeheader()
            writer.writerows(rows)

    @contextmanager
    def server(self):
        """Start the server as its unit does, on a free port."""
        program, command, *flags = shlex.split(self.there(unit("aisle.service")["Service"]["ExecStart"]))
        assert (Path(program), command) == (self.home / "venv" / "bin" / "aisle", "serve")
        flags = ["0" if flag == "8080" else flag for flag in flags]
        with running_server(*flags, "--watch_seconds", "0.1") as server:
            self.port = int(server.url.rpartition(":")[2])
            server.client.headers["X-API-Key"] = (self.folder / "etc/aisle/keys").read_text().strip()
            server.wait_until_ready()
            yield server


@pytest.fixture(scope="module")
def machine(tiny_bert, tmp_path_factory):
    """A machine as the commands of root leave it, with a model in place of a trained run, and a shop."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    for name in ("srv/shop", "srv/aisle/venv/bin", "srv/aisle/runs", "etc/aisle", "etc/systemd/system"):
        (machine.folder / name).mkdir(parents=True)
    aisle = machine.home / "venv" / "bin" / "aisle"
    aisle.write_text(f'#!/bin/sh\nexec {sys.executable} -m aisle "$@"\n')
    aisle.chmod(0o755)
    shutil.copytree(tiny_bert, machine.home / "runs" / "mine")
    (machine.folder / "etc/aisle/keys").write_text("0123456789abcdef" * 4 + "\n")
    sample = write_sample(machine.folder / "sample", products=500, seed=0)
    shutil.copy(sample.products, machine.catalog)
    for path in (sample.queries, sample.qrels):
        shutil.copy(path, machine.home)
    for name, text in FILES.items():
        machine.folder.joinpath(name.lstrip("/")).write_text(machine.there(text), encoding="utf-8")
    return machine


def found_in(server, query):
    answer = server.client.post("/search", json={"query": query, "top_k": 1})
    assert answer.status_code == 200, answer.text
    (hit,) = answer.json()["hits"]
    return hit["id"], answer.json()["index"]["version"]


def version_of(server):
    return server.client.get("/info").json()["index"]["version"]


@needs_curl
def test_an_operator_gets_from_a_run_to_nightly_rebuilds(machine, monkeypatch):
    monkeypatch.chdir(machine.home)
    for block in (BUILD, CALIBRATE, PUBLISH):
        machine.page_here(block)

    with machine.server() as server:
        assert '"hits":[{"id":"P' in machine.page(SEARCH)
        assert version_of(server) == 2
        assert server.client.get("/info", headers={"X-API-Key": "another"}).status_code == 401

        first = machine.night()  # with the catalogue as it was
        assert first.returncode == 0, first.stderr
        assert "500 products are as in version 2" in first.stdout
        server.wait_until(lambda server: version_of(server) == 3)

        rows = machine.rows()
        machine.write_rows([*rows, NEW])
        second = machine.night()
        assert second.returncode == 0, second.stderr
        server.wait_until(lambda server: version_of(server) == 4)
        assert found_in(server, NEW["title"]) == (NEW["product_id"], 4)
        assert server.client.get("/info").json()["calibrated"] == ["dense", "hybrid", "lexical"]

        for broken, message in (
            ([*rows, {**NEW, "title": "", "brand": ""}], "products.csv"),
            (
                rows[:300],
                "the catalogue has 300 products, and the index had 501; the published version keeps",
            ),
        ):
            machine.write_rows(broken)
            night = machine.night()
            assert night.returncode != 0
            assert message in night.stderr
            assert read_manifest(machine.home / "index").version == 4
            assert found_in(server, NEW["title"]) == (NEW["product_id"], 4)

        machine.page(ROLL_BACK)
        server.wait_until(lambda server: version_of(server) == 3)
        shown = machine.page(SHOW)
        assert '"problem":null' in shown
        assert 'aisle_index_version{index="tuned"} 3.0\n' in shown
        assert 'aisle_swap_failing{index="tuned"} 0.0\n' in shown
        assert server.process.poll() is None


def test_the_server_of_the_unit_is_accepted_and_ends_before_systemd_kills_it():
    from aisle.service.http.server import LAST_SECONDS

    service = unit("aisle.service")["Service"]

    assert our_problem("aisle", shlex.split(service["ExecStart"])[1:]) is None
    assert int(service["TimeoutStopSec"]) > LAST_SECONDS
    assert service["User"] == unit("aisle-nightly.service")["Service"]["User"] == "aisle"


def test_the_units_have_only_settings_that_systemd_knows(machine, tmp_path):
    for name in UNITS:
        assert {key for section in unit(name).values() for key in section} <= SETTINGS
        # The user is on another machine.
        (tmp_path / name).write_text(machine.there(UNITS[name]).replace("User=aisle\n", ""))
    if shutil.which("systemd-analyze") is None:
        return

    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert not [name for name in UNITS if name in done.stderr], done.stderr  # an unknown setting is a warning
