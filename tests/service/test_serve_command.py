"""`aisle serve` as a process: it starts, answers without torch, refuses bad settings and ends cleanly."""

import socket

import pytest

from aisle.cli import main
from aisle.commands.serve import ServeSettings, serve_problems
from aisle.service.http.server import listening_socket
from tests.service.running_server import running_server


def test_a_bundle_is_served_without_torch_and_sigterm_ends_the_server(shop):
    with running_server("--index_dir", shop.index_dir, "--model", shop.bundle) as server:
        server.wait_until_ready()
        answer = server.client.post("/search", json={"query": "secret lamp"})
        assert answer.json()["hits"][0]["id"] in {"p004", "p005"}
        assert "server" not in answer.headers

        assert server.stop() == (0, "False\n")

    assert "version 1 of" in server.log
    assert "secret" not in server.log


def test_queries_are_logged_if_asked(shop):
    with running_server("--index_dir", shop.index_dir, "--log_queries") as server:
        server.wait_until_ready()
        server.client.post("/search", json={"query": "secret lamp"})
        server.stop()

    assert 'search {"query":"secret lamp"}' in server.log


def test_the_address_of_the_search_page_is_logged(shop):
    with running_server("--index_dir", shop.index_dir, "--demo") as server:
        server.wait_until(lambda server: f"in a browser: {server.url}/demo/\n" in server.log)
        assert server.client.get("/demo/").status_code == 200


def run(*flags):
    return main(["serve", *map(str, flags)])


def test_a_model_that_does_not_fit_ends_the_server_with_a_message(shop, tmp_path, minilm_dir, capsys):
    from tests.bundle.small_bundle import write_small_bundle

    write_small_bundle(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)

    assert run("--index_dir", shop.index_dir, "--model", tmp_path / "other", "--port", 0) == 2
    assert "and was exported from runs/shop with fingerprint bbbb" in capsys.readouterr().err


def test_a_folder_without_an_index_is_refused_at_once(tmp_path, capsys):
    assert run("--index_dir", tmp_path) == 2
    assert "this is not an index" in capsys.readouterr().err


def test_a_port_in_use_is_refused(shop, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("--index_dir", shop.index_dir, "--port", port) == 2

    assert f"--host 127.0.0.1 --port {port}: cannot listen there" in capsys.readouterr().err


def test_the_socket_names_its_protocol_so_that_responses_do_not_wait():
    """asyncio leaves Nagle's algorithm on otherwise, and each response takes 40 ms longer."""
    with listening_socket("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, None),
        ({"host": "::1"}, None),
        ({"host": "0.0.0.0"}, "add --api_key_file FILE, or --allow_anonymous"),
        ({"host": "0.0.0.0", "allow_anonymous": True}, None),
        ({"host": "0.0.0.0", "api_key_file": "keys"}, None),
        ({"allow_anonymous": True, "api_key_file": "keys"}, "leave one of them out"),
    ],
)
def test_other_machines_need_a_key_or_an_explicit_flag(given, problem):
    problems = serve_problems(ServeSettings("index", **given))

    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]
