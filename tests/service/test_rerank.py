"""POST /rerank, /v1/rerank and /v2/rerank: the registered reranker's scores in TEI's and Cohere's forms."""

import math

import cohere
import httpx
import pytest

from aisle.cli import main
from aisle.errors import ConfigError, ModelError
from aisle.search.rerankers import (
    Reranker,
    load_reranker,
    register_reranker,
    unregister_reranker,
)
from aisle.service.engine import Engine, SearchJob
from aisle.service.requests import SearchRequest
from aisle.service.reranked_texts import RerankJob
from aisle.service.service_limits import ServiceLimits
from tests.service.server_thread import server_thread
from tests.service.test_status_routes import samples
from tests.service.word_reranker import WordReranker

TEXTS = ["wool rug", "blue lamp", "a blue sofa and a blue lamp", "lamp"]
# Words that each shares with "blue lamp": 0, 2, 2, 1. Equal scores keep the order of the texts.
ORDER = [1, 2, 3, 0]
LOGITS = [3.0, 3.0, 1.0, -1.0]
PROBABILITIES = [1 / (1 + math.exp(-logit)) for logit in LOGITS]
ASKED = {"query": "blue lamp", "texts": TEXTS}
COHERE = {"model": "any", "query": "blue lamp", "documents": TEXTS}


@pytest.fixture
def words():
    return WordReranker()


@pytest.fixture
def engine(shop, words):
    return Engine(shop.pair(), reranker=words.reranker)


@pytest.fixture
def client(shop, engine):
    with shop.client(engine=engine, sagemaker=True, limits=ServiceLimits(max_rerank_texts=40)) as client:
        yield client


def test_texts_are_ranked_in_teis_form(client):
    plain = client.post("/rerank", json=ASKED).json()
    raw = client.post("/rerank", json={**ASKED, "raw_scores": True, "return_text": True}).json()

    assert [entry["index"] for entry in plain] == ORDER
    assert [entry["score"] for entry in plain] == pytest.approx(PROBABILITIES, abs=1e-12)
    assert raw == [
        {"index": at, "score": logit, "text": TEXTS[at]} for at, logit in zip(ORDER, LOGITS, strict=True)
    ]


@pytest.mark.parametrize("version", ["1", "2"])
def test_texts_are_ranked_in_coheres_form(client, version):
    asked = {**COHERE, "top_n": 2, "return_documents": True}

    answer = client.post(f"/v{version}/rerank", json=asked).json()

    assert answer["meta"] == {"api_version": {"version": version}}
    assert answer["id"] != client.post(f"/v{version}/rerank", json=asked).json()["id"]
    assert answer["results"] == [
        {"index": at, "relevance_score": pytest.approx(score), "document": {"text": TEXTS[at]}}
        for at, score in zip(ORDER[:2], PROBABILITIES[:2], strict=True)
    ]


def test_coheres_documents_may_be_objects(client):
    objects = {**COHERE, "documents": [{"text": text} for text in TEXTS], "top_n": 9}

    results = client.post("/v1/rerank", json=objects).json()["results"]

    assert [(entry["index"], set(entry)) for entry in results] == [
        (at, {"index", "relevance_score"}) for at in ORDER
    ]


def test_coheres_client_gets_the_scores(shop, engine):
    with server_thread(shop, engine=engine) as port, httpx.Client() as connection:
        options = {"base_url": f"http://127.0.0.1:{port}", "httpx_client": connection}
        first = cohere.Client("none", **options).rerank(
            query="blue lamp", documents=TEXTS, return_documents=True
        )
        second = cohere.ClientV2("none", **options).rerank(
            model="any", query="blue lamp", documents=TEXTS, top_n=3
        )

    assert [found.index for found in second.results] == ORDER[:3]
    assert [found.relevance_score for found in second.results] == pytest.approx(PROBABILITIES[:3])
    assert [found.document.text for found in first.results] == [TEXTS[at] for at in ORDER]


@pytest.mark.parametrize(
    ("asked", "indices"),
    [(ASKED, lambda answer: answer), (COHERE, lambda answer: answer["results"])],
)
def test_sagemakers_invocations_take_both_forms(client, asked, indices):
    answer = client.post("/invocations", json=asked).json()

    assert [entry["index"] for entry in indices(answer)] == ORDER


def test_info_and_metrics_include_the_reranker(client):
    client.post("/rerank", json=ASKED)
    client.post("/rerank", json={**ASKED, "texts": []})

    info, found = client.get("/info").json(), samples(client)
    assert info["reranker"] == {"name": "words", "max_length": 24}
    assert info["limits"]["max_rerank_texts"] == 40
    assert found["aisle_requests_total", "/rerank", "200"] == 1
    assert found["aisle_requests_total", "/rerank", "422"] == 1
    phases = [found["aisle_phase_seconds_count", phase, "tuned"] for phase in ("queue", "rerank")]
    assert (phases, found["aisle_batch_requests_count", "tuned"]) == ([1, 1], 1)


LONG = " ".join(["oak"] * 23)


@pytest.mark.parametrize(
    ("route", "change", "field", "message"),
    [
        ("/rerank", {"texts": []}, "texts", "at least 1 item"),
        ("/rerank", {"texts": ["oak"] * 41}, "texts", "at most 40 in a request, found 41"),
        ("/rerank", {"texts": ["oak", " \n"]}, "texts", "must not be blank"),
        ("/rerank", {"query": ""}, "query", "must not be blank"),
        ("/rerank", {"texts": "oak"}, "texts", "valid list"),
        ("/rerank", {"documents": TEXTS}, "documents", "did you mean 'texts'?"),
        ("/rerank", {"raw_score": True}, "raw_score", "did you mean 'raw_scores'?"),
        ("/rerank", {"texts": ["oak", LONG], "truncate": False}, "truncate", "text 1: has 25 tokens"),
        ("/v2/rerank", {"documents": ["oak", ""]}, "documents", "must not be blank"),
        ("/v2/rerank", {"documents": ["oak"] * 41}, "documents", "at most 40"),
        ("/v2/rerank", {"documents": [{"title": "oak"}]}, "documents", ""),
        ("/v2/rerank", {"texts": TEXTS}, "texts", "did you mean 'documents'?"),
        ("/v2/rerank", {"top_k": 3}, "top_k", "did you mean 'top_n'?"),
        ("/v2/rerank", {"top_n": 0}, "top_n", "greater than or equal to 1"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(client, route, change, field, message):
    answer = client.post(route, json={**(ASKED if route == "/rerank" else COHERE), **change})

    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["field"]) == (422, "invalid_request", field)
    assert message in error["message"]


def test_a_long_text_is_cut_unless_the_request_refuses(client):
    assert client.post("/rerank", json={**ASKED, "texts": [LONG]}).status_code == 200
    assert client.post("/rerank", json={**ASKED, "texts": [LONG], "truncate": True}).status_code == 200


def test_a_body_beyond_the_limit_is_413(client):
    answer = client.post("/rerank", json={**ASKED, "texts": ["oak " * 600_000]})

    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "body_too_large")


def test_a_server_without_a_reranker_says_what_is_needed(shop):
    with shop.client() as client:
        answers = [client.post("/rerank", json=ASKED), client.post("/v2/rerank", json=COHERE)]
        assert client.get("/info").json()["reranker"] is None

    assert [answer.status_code for answer in answers] == [501, 501]
    for answer in answers:
        assert answer.json()["error"]["type"] == "no_reranker"
        assert "cross-encoder" in answer.json()["error"]["message"]
        assert "--reranker" in answer.json()["error"]["message"]


def test_a_server_that_still_loads_is_503(shop, words):
    with shop.client(engine=Engine(reranker=words.reranker)) as client:
        assert client.post("/rerank", json=ASKED).status_code == 503


@pytest.mark.parametrize("text", ["defect", "no number"])
def test_a_reranker_that_fails_is_500_without_its_message(client, text, caplog):
    answer = client.post("/rerank", json={**ASKED, "texts": [text]})

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "reranker words: failed" in caplog.text
    assert client.post("/rerank", json=ASKED).status_code == 200


def test_a_batch_is_scored_at_once_and_only_the_failing_job_fails(engine, words):
    search = SearchJob(SearchRequest(query="oak"))
    jobs = [RerankJob("oak", ["oak", "rug"]), search, RerankJob("rug", ["rug"])]

    first, found, second = engine.answer(jobs)
    assert words.calls == [3]
    assert (first.logits.tolist(), second.logits.tolist(), len(found.hits)) == ([1.0, -1.0], [1.0], 8)

    jobs[0] = RerankJob("oak", ["defect"])
    broken, found, second = engine.answer(jobs)
    assert (str(broken), second.logits.tolist()) == (
        "the reranker failed; the server's log has the reason",
        [1.0],
    )
    assert len(found.hits) == 8


def test_a_cross_encoder_of_sentence_transformers_is_a_reranker(shop, tiny_bert, tmp_path):
    from sentence_transformers import CrossEncoder
    from torch import nn, no_grad
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    cross_encoder = CrossEncoder(str(tmp_path), activation_fn=nn.Identity(), device="cpu")
    with no_grad():
        pairs = tokenizer(["blue lamp"] * len(TEXTS), TEXTS, padding=True, return_tensors="pt")
        logits = model(**pairs).logits[:, 0].tolist()

    engine = Engine(shop.pair(), reranker=Reranker("tiny", cross_encoder.predict))
    with shop.client(engine=engine) as client:
        answer = client.post("/rerank", json={**ASKED, "raw_scores": True}).json()

    assert {entry["index"]: entry["score"] for entry in answer} == pytest.approx(
        dict(enumerate(logits)), abs=1e-5
    )
    assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)


def test_probabilities_do_not_overflow(shop):
    engine = Engine(shop.pair(), reranker=Reranker("large", lambda pairs: [1e4, -1e4, 0.0]))

    (found,) = engine.answer([RerankJob("oak", ["oak", "rug", "bed"])])

    assert found.probabilities.tolist() == [1.0, 0.0, 0.5]


def test_a_reranker_with_too_few_scores_is_refused():
    with pytest.raises(ModelError, match="each of the 2 pairs, found 1 scores"):
        Reranker("short", lambda pairs: [1.0]).logits([("a", "b"), ("a", "c")])


@pytest.fixture
def registered(words):
    register_reranker("words", lambda: words.reranker)
    yield
    unregister_reranker("words")


def test_a_reranker_is_loaded_by_the_name_under_which_it_was_registered(registered):
    assert load_reranker("words").name == "words"
    with pytest.raises(ConfigError, match=r"registered: .*words"):
        load_reranker("other")
    with pytest.raises(ValueError, match="taken"):
        register_reranker("words", lambda: None)


def test_a_name_that_is_not_registered_ends_the_server_with_a_message(shop, capsys):
    assert main(["serve", "--index_dir", str(shop.index_dir), "--reranker", "mine", "--port", "0"]) == 2

    assert "--reranker mine: must be the folder of a run" in capsys.readouterr().err
