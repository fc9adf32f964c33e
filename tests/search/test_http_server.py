"""A search server needs only a searcher from aisle."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aisle.errors import AisleError
from aisle.index import open_index
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop


def handler_of(searcher):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                found = searcher.search(**asked)
                status, answer = (
                    200,
                    {
                        "version": found.version,
                        "results": [
                            [{"id": hit.product_id, "score": hit.score, **hit.payload} for hit in hits]
                            for hits in found
                        ],
                    },
                )
            except AisleError as error:
                status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def ask(tmp_path):
    """Send a search to a server of a small shop; return the status and the answer."""
    write_shop(tmp_path / "index", titles=["red sofa", "blue lamp", "oak table", "oak bed"])
    searcher = Searcher(open_index(tmp_path / "index"), WordEncoder())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(searcher)) as server:
        threading.Thread(target=server.serve_forever).start()

        def ask(**body):
            url = f"http://127.0.0.1:{server.server_port}"
            request = urllib.request.Request(url, json.dumps(body).encode())
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        yield ask
        server.shutdown()


def test_a_server_answers_with_the_searcher_alone(ask):
    status, answer = ask(queries=["oak", "red sofa"], top_k=2, mode="hybrid", where="price >= 1")

    assert (status, answer["version"]) == (200, 1)
    assert {found["title"] for found in answer["results"][0]} == {"oak table", "oak bed"}
    assert "red sofa" not in {found["title"] for found in answer["results"][1]}


def test_a_mistake_in_a_request_is_a_message(ask):
    assert ask(queries=["oak"], top_k=0) == (400, {"error": "top_k: must be at least 1, found 0"})
