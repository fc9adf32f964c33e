"""Whatever a client sends, the answer is a result or an error in the documented form, never a 500.

This is the place for tests of malformed input over HTTP.
"""

import json
import math
import os
import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisle.service.engine import Engine
from aisle.service.request_errors import STATUS
from aisle.service.service_limits import ServiceLimits
from tests.service.served_shop import TITLES
from tests.service.server_thread import server_thread
from tests.service.word_reranker import WordReranker

ROUTES = ("/search", "/embed", "/v1/embeddings", "/rerank", "/v2/rerank", "/invocations")
FORM = settings(
    max_examples=int(os.environ.get("AISLE_GENERATED_REQUESTS", 900)) // (2 * len(ROUTES)),  # in 2 tests each
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

CONTENT_TYPES = [
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "",
    "multipart/form-data",
]

texts = st.text(max_size=30) | st.sampled_from(["oak", "", " ", "\x00", "\ud800", "🛋️" * 9, "a" * 12_000])
numbers = st.integers() | st.floats() | st.sampled_from([10**30, -1, 0, 2**63, 1e308, math.nan, math.inf])
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    scalars, lambda of: st.lists(of, max_size=4) | st.dictionaries(texts, of, max_size=4), max_leaves=12
)
FIELDS = {
    "/search": {
        "query": texts,
        "queries": st.lists(texts, max_size=3),
        "vector": st.lists(numbers, max_size=9) | st.just([1.0] + [0.0] * 7),
        "top_k": numbers,
        "offset": numbers,
        "filter": texts
        | st.sampled_from(
            [
                "price < 10",
                "price <",
                "brand in []",
                "col('x') == 1",
                "((((",
                "price == 1" + "0" * 400,
                "title",
            ]
        ),
        "facets": st.lists(texts | st.sampled_from(["brand", "price", "colours"]), max_size=3),
        "facet_size": numbers,
        "group_by": texts | st.sampled_from(["brand", "price", "colours"]),
        "group_size": numbers,
        "min_score": numbers | st.just("calibrated"),
        "p": numbers | st.sampled_from([0.5, 1]),
        "highlight": st.booleans(),
        "explain": st.booleans(),
        "pair": texts | st.sampled_from(["tuned", "base"]),
        "mode": texts | st.sampled_from(["dense", "lexical", "hybrid"]),
        "fields": st.lists(texts | st.sampled_from(["title"]), max_size=3),
        "exact": st.booleans(),
        "ef": numbers,
        "window": numbers,
        "version": numbers,
        "fingerprint": texts,
        "timeout_ms": st.sampled_from([60_000, 0, -5, "x"]),
    },
    "/embed": {
        "inputs": texts | st.lists(texts, max_size=3),
        "normalize": st.booleans(),
        "truncate": st.booleans(),
        "prompt_name": texts | st.sampled_from(["query", "product"]),
        "dimensions": numbers,
    },
    "/v1/embeddings": {
        "input": texts | st.lists(texts | st.integers(), max_size=3),
        "model": texts,
        "encoding_format": texts | st.sampled_from(["float", "base64"]),
        "dimensions": numbers,
        "user": texts,
        "input_type": texts,
    },
    "/rerank": {
        "query": texts,
        "texts": st.lists(texts, max_size=3) | st.just(["oak", "rug"]),
        "raw_scores": st.booleans(),
        "return_text": st.booleans(),
        "truncate": st.booleans(),
    },
    "/v2/rerank": {
        "query": texts,
        "documents": st.lists(texts | st.fixed_dictionaries({"text": texts}), max_size=3)
        | st.just(["oak", "rug"]),
        "model": texts,
        "top_n": numbers,
        "return_documents": st.booleans(),
    },
    "/invocations": {
        "query_from_app": texts,
        "actual_queries": st.lists(texts, max_size=3) | st.just(["oak", "oak bed"]),
    },
}


def bodies(route):
    """Generate bodies with known fields, each of which may have a value of any type."""
    known = {name: values | anything for name, values in FIELDS[route].items()}
    main = next(iter(FIELDS[route]))
    others = {name: values for name, values in FIELDS[route].items() if name != main}
    likely = st.fixed_dictionaries({main: texts}, optional=others)
    if route == "/invocations":  # it takes the forms of all routes
        likely |= st.one_of(*(bodies(other) for other in FIELDS if other != route))
    return likely | st.fixed_dictionaries({}, optional=known) | anything


def check(answer):
    """Check that an answer is a result or a documented error, in JSON."""
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    if answer.status_code != 200:
        assert answer.status_code < 500, content
        assert answer.status_code == STATUS[content["error"]["type"]]
        assert set(content["error"]) in ({"type", "message"}, {"type", "message", "field"})
    return content


@pytest.fixture(scope="module")
def client(shop):
    engine = Engine(shop.pair(), reranker=WordReranker().reranker)
    with shop.client(engine=engine, sagemaker=True) as client:
        yield client


def send(client, route, body):
    # json.dumps writes NaN, infinity and lone surrogates, which are not JSON, as some clients do.
    return client.post(route, content=json.dumps(body), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("route", ROUTES)
def test_no_body_of_json_makes_the_server_fail(client, route):
    @FORM
    @given(bodies(route))
    def sent(body):
        check(send(client, route, body))

    sent()


@pytest.mark.parametrize("route", ROUTES)
def test_no_body_of_bytes_makes_the_server_fail(client, route):
    @FORM
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from(CONTENT_TYPES))
    def sent(body, content_type):
        check(client.post(route, content=body, headers={"Content-Type": content_type}))

    sent()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "must be a JSON object"),
        (b"{", 400, "not valid JSON"),
        (b'{"query": "oak",}', 400, "not valid JSON"),
        (b"[]", 422, "must be a JSON object"),
        (b'"oak"', 422, "must be a JSON object"),
        (b'{"query": "\xff"}', 400, "must be a JSON object"),
        (b"[" * 100_000, 400, ""),
        (b'{"top_k": 1' + b"0" * 5000 + b', "query": "oak"}', 400, ""),
        (b'{"query": "\\ud800"}', 422, "query: input should be a valid string"),
        (b'{"query": "oak", "fields": ["\\ud800"]}', 422, "fields: must be valid Unicode"),
        (b'{"query": "oak", "\\ud800": 1}', 422, "?: unknown field"),
        (b'{"query": "oak", "min_score": NaN}', 422, "min_score: "),
        (b'{"query": "oak", "min_score": 1e999}', 422, "min_score: "),
        (b'{"query": "oak", "min_score": "often"}', 422, "min_score: "),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, body, status, message):
    answer = client.post("/search", content=body, headers={"Content-Type": "application/json"})

    content = check(answer)
    assert answer.status_code == status
    assert message in content["error"]["message"]


def test_a_body_without_its_type_names_the_header(client):
    answer = client.post("/search", content=b'{"query": "oak"}')

    assert (answer.status_code, "Content-Type: application/json" in answer.text) == (422, True)


def test_large_bodies_are_refused_whether_or_not_their_length_is_declared(client):
    large = json.dumps({"query": "oak " * 600_000}).encode()
    headers = {"Content-Type": "application/json"}

    declared = client.post("/search", content=large, headers=headers)
    chunked = client.post("/search", content=iter([large[:1_000_000], large[1_000_000:]]), headers=headers)

    for answer in (declared, chunked):
        assert check(answer)["error"]["type"] == "body_too_large"


def test_a_query_of_a_megabyte_is_refused_and_the_server_goes_on(client):
    answer = client.post("/search", json={"query": "oak " * 250_000})

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "query")
    assert "10000 characters" in answer.json()["error"]["message"]
    assert client.post("/search", json={"query": "oak"}).status_code == 200


def test_an_error_does_not_repeat_the_query(client):
    for body in (
        {"query": "secret", "mode": "secret mode"},
        {"query": ["secret"]},
        {"queries": ["secret", 1]},
    ):
        assert "secret" not in client.post("/search", json=body).text


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/search", 405, "method_not_allowed"),
        ("POST", "/info", 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/%00/../etc/passwd", 404, "not_found"),
    ],
)
def test_other_routes_and_methods_have_errors_of_the_same_form(client, method, path, status, kind):
    answer = client.request(method, path)

    assert (answer.status_code, check(answer)["error"]["type"]) == (status, kind)


# Over a socket: what a test client cannot send.


def reply(port, *parts):
    """Send bytes to a port, and return all that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        with suppress(ConnectionResetError):  # the server did not read all that was sent
            while block := connection.recv(65_536):
                received += block
        return received


HEAD = b"POST /search HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"


def test_a_body_that_stops_halfway_times_out_and_others_are_answered(shop):
    with server_thread(shop, limits=ServiceLimits(body_seconds=0.3)) as port:
        answer = reply(port, HEAD + b"Content-Length: 100\r\nConnection: close\r\n\r\n", b'{"query": ')
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body_timeout" in answer

        with socket.create_connection(("127.0.0.1", port)) as connection:  # gone without a word
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"que')
        body = json.dumps({"query": TITLES[0]}).encode()
        head = HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        assert reply(port, head, body).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /search HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_by_the_server(shop, sent):
    with server_thread(shop) as port:
        assert b" 500 " not in reply(port, sent)
        assert reply(port, b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )
