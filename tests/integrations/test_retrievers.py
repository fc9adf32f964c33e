"""The retrievers, with the real frameworks: a searcher and a service give the same documents."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from aisle.errors import ConfigError, SearchError
from aisle.integrations.product_search import product_search
from aisle.search.open_searcher import open_searcher
from aisle.service.api_keys import ApiKeys
from tests.doc_commands import blocks_run_by, run_python
from tests.service.served_shop import write_served_shop
from tests.service.server_thread import server_thread

FOLDER = Path(sys.prefix) / "integrations"
"""Where the Makefile installs the frameworks for these tests alone."""
KEY = "a-key-of-the-service"
FRAMEWORKS = ("langchain", "llama_index", "haystack")
needs_frameworks = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the frameworks are not installed; run `make test`"
)


@pytest.fixture(scope="module", autouse=True)
def frameworks():
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
    sys.path.append(str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def shop(minilm_dir, tmp_path_factory):
    return write_served_shop(tmp_path_factory.mktemp("shop"), minilm_dir)


@pytest.fixture(scope="module")
def sources(shop):
    """A searcher, and the URL of a service that answers from the same index."""
    with server_thread(shop, keys=ApiKeys([KEY])) as port:
        yield {"searcher": open_searcher(shop.index_dir), "service": f"http://127.0.0.1:{port}"}


def found_by(framework, source, query, *, top_k=None, awaited=False, **settings):
    """Return (id, text, metadata) of what a retriever finds."""
    from aisle import integrations

    if framework == "langchain":
        key = {"api_key": KEY} if isinstance(source, str) else {}
        retriever = integrations.LangChainRetriever(source=source, top_k=top_k or 10, **key, **settings)
        found = asyncio.run(retriever.ainvoke(query)) if awaited else retriever.invoke(query)
        return [(document.id, document.page_content, document.metadata) for document in found]
    if framework == "llama_index":
        key = {"api_key": KEY} if isinstance(source, str) else {}
        retriever = integrations.LlamaIndexRetriever(source, top_k=top_k or 10, **key, **settings)
        found = asyncio.run(retriever.aretrieve(query)) if awaited else retriever.retrieve(query)
        assert [node.score for node in found] == [node.metadata["aisle"]["score"] for node in found]
        return [(node.node_id, node.text, node.metadata) for node in found]
    from haystack.utils import Secret

    key = {"api_key": Secret.from_token(KEY)} if isinstance(source, str) else {}
    retriever = integrations.HaystackRetriever(source, top_k=top_k or 10, **key, **settings)
    found = asyncio.run(retriever.run_async(query)) if awaited else retriever.run(query)
    assert [document.score for document in found["documents"]] == [
        document.meta["aisle"]["score"] for document in found["documents"]
    ]
    return [(document.id, document.content, document.meta) for document in found["documents"]]


@needs_frameworks
@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_searcher_and_a_service_give_the_documents_of_the_candidates(framework, mode, sources):
    (expected,) = sources["searcher"].candidates(["blue lamp"], where="price > 0", mode=mode)

    asked = {"top_k": 3, "filter": "price > 0", "mode": mode, "text_template": "{title}!"}
    here, there = (found_by(framework, source, "blue lamp", **asked) for source in sources.values())

    assert here == there
    assert [document[0] for document in here] == [hit.product_id for hit in expected.page(0, 3)]
    for (product_id, text, metadata), hit in zip(here, expected.page(0, 3), strict=True):
        assert text == f"{hit.payload['title']}!"
        assert metadata == {
            **hit.payload,
            "product_id": product_id,
            "aisle": {
                "rank": hit.rank,
                "score": hit.score,
                "scores": hit.scores,
                "ranks": hit.ranks,
                "index_version": 1,
            },
        }


@needs_frameworks
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_awaited_search_finds_the_same_and_fields_choose_text_and_metadata(framework, sources):
    asked = {"mode": "lexical", "fields": ["title", "price"]}

    found = found_by(framework, sources["service"], "rug", awaited=True, **asked)

    assert found == found_by(framework, sources["searcher"], "rug", **asked)
    ((product_id, text, metadata),) = found
    assert (product_id, text) == ("p006", "title: wool rug\nprice: 60.0")
    assert set(metadata) == {"title", "price", "product_id", "aisle"}


@needs_frameworks
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("source", ["searcher", "service"])
def test_a_wrong_filter_is_an_error_that_names_the_column(framework, source, sources):
    with pytest.raises(SearchError, match="prcie"):
        found_by(framework, sources[source], "rug", filter="prcie < 5")


@needs_frameworks
def test_the_retrievers_of_the_how_to_find_products(shop):
    (block,) = blocks_run_by(__file__)

    with server_thread(shop) as port:
        found = run_python(block, url=f"http://127.0.0.1:{port}")

    assert len(found["nodes"]) == 5
    assert [node.text for node in found["nodes"]] == [node.metadata["title"] for node in found["nodes"]]
    ids = [document.id for document in found["documents"]]
    assert ids == [document.id for document in found["found"]]
    assert len(ids) == 5
    assert all(document.metadata["price"] <= 50 for document in found["documents"])


@needs_frameworks
def test_a_saved_haystack_pipeline_has_the_retriever_and_not_the_key(sources, monkeypatch):
    from haystack import Pipeline
    from haystack.utils import Secret

    from aisle.integrations import HaystackRetriever

    monkeypatch.setenv("SHOP_KEY", KEY)
    pipeline = Pipeline()
    pipeline.add_component(
        "search", HaystackRetriever(sources["service"], top_k=2, api_key=Secret.from_env_var("SHOP_KEY"))
    )
    written = pipeline.dumps()
    asked = {"search": {"query": "rug", "top_k": 1}}

    assert KEY not in written
    loaded = Pipeline.loads(written, allowed_modules=["aisle.integrations.haystack_retriever"])
    assert loaded.run(asked) == pipeline.run(asked)
    with pytest.raises(ConfigError, match="open searcher cannot be saved"):
        HaystackRetriever(sources["searcher"]).to_dict()


def test_a_service_that_refuses_or_is_absent_is_one_message_without_the_key(sources):
    from aisle.integrations.found_products import RetrieverOptions

    for url, key, message in (
        (sources["service"], "a-wrong-key-of-it", r"give an API key .*\(status 401\)"),
        ("http://127.0.0.1:9", KEY, "gave no answer .*start it with: aisle serve"),
    ):
        with pytest.raises(SearchError, match=message) as error:
            product_search(url, api_key=key).find("rug", RetrieverOptions())
        assert key not in str(error.value)


def test_a_redirect_is_refused_and_gets_no_key():
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from aisle.integrations.found_products import RetrieverOptions

    asked = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with pytest.raises(SearchError, match="status 302"):
            product_search(f"http://127.0.0.1:{server.server_address[1]}", api_key=KEY).find(
                "rug", RetrieverOptions()
            )
        server.shutdown()
        thread.join()

    assert asked == ["/search"]


@pytest.mark.parametrize("source", ["file:///etc/passwd", "127.0.0.1:8080", 3])
def test_a_source_that_is_no_address_is_refused(source):
    with pytest.raises(ConfigError, match="source: must be a searcher"):
        product_search(source)
