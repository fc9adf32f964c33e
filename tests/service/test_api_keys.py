"""Keys come from a file, are compared as hashes, and guard every route except the probes."""

import pytest

from aisle.errors import ConfigError
from aisle.service.api_keys import ApiKeys, read_api_keys

KEY, OTHER = "k" * 16, "0123456789abcdef"
ROUTES = [
    ("POST", "/search"),
    ("POST", "/embed"),
    ("POST", "/v1/embeddings"),
    ("POST", "/rerank"),
    ("POST", "/v2/rerank"),
    ("GET", "/info"),
    ("GET", "/metrics"),
]


@pytest.fixture
def client(shop):
    with shop.client(keys=ApiKeys([KEY, OTHER])) as client:
        yield client


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_a_request_without_a_key_is_refused(client, method, route):
    answer = client.request(method, route)

    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {OTHER}"}, 200),
        ({"X-API-Key": OTHER}, 200),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "é" * 16}, 401),
    ],
)
def test_a_key_comes_in_either_header(client, headers, status):
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}

    assert client.post("/search", json={"query": "oak"}, headers=encoded).status_code == status


def test_a_wrong_key_is_refused_before_the_body_is_checked(client):
    assert client.post("/search", json={"quary": "oak"}).status_code == 401


def test_probes_need_no_key(client):
    assert [client.get(path).status_code for path in ("/health", "/ready")] == [200, 200]


def test_a_file_has_a_key_on_each_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# shop\n{KEY}\n\n  {OTHER}  \r\n")

    keys = read_api_keys(path)

    assert (len(keys), keys.accepts(KEY), keys.accepts(OTHER), keys.accepts("# shop")) == (
        2,
        True,
        True,
        False,
    )
    assert KEY not in repr(keys) + repr(vars(keys))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# none\n", "has no key"),
        (b"short\n", "line 1: a key has 16 or more ASCII characters"),
        (KEY.encode() + b"\ntwo words are no key\n", "line 2"),
        ("é".encode() * 16, "ASCII"),
        (b"\xff" * 20, "cannot be read as UTF-8"),
    ],
)
def test_a_bad_file_is_refused_without_its_content(tmp_path, content, message):
    path = tmp_path / "keys"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=message) as refused:
        read_api_keys(path)

    assert "short" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read as UTF-8 text: .*No such file"):
        read_api_keys(tmp_path / "none")
