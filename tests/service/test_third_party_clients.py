"""Clients of other projects read the service's answers: OpenAI's, Hugging Face's, Prometheus'."""

import base64
import urllib.request

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.doc_commands import blocks_run_by, run_python
from tests.service.server_thread import server_thread

TEXTS = ["blue lamp", "a wool rug for the hall"]


@pytest.fixture(scope="module")
def url(shop):
    with server_thread(shop) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("form", ["float", "base64"])
def test_openais_client_gets_the_encoders_embeddings(url, shop, form):
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.embeddings.create(input=TEXTS, model="any", encoding_format=form)

    found = [entry.embedding for entry in answer.data]
    if form == "base64":
        found = [
            np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in found
        ]
    np.testing.assert_array_equal(np.float32(found), shop.encoder.encode_queries(TEXTS))
    assert answer.usage.total_tokens == 12


def test_prometheus_parses_the_metrics(url):
    urllib.request.urlopen(f"{url}/info").close()

    text = urllib.request.urlopen(f"{url}/metrics").read().decode()

    families = {family.name: family for family in text_string_to_metric_families(text)}
    (version,) = families["aisle_index_version"].samples
    assert version.value == 1
    assert any(sample.labels.get("status") == "200" for sample in families["aisle_requests"].samples)


def test_hugging_faces_client_gets_the_encoders_embeddings(url, shop, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    found = InferenceClient(model=f"{url}/embed").feature_extraction(TEXTS[0])

    np.testing.assert_array_equal(np.float32(found), shop.encoder.encode_queries(TEXTS[:1]))


def test_the_clients_of_the_how_to_get_embeddings(url, shop, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    openai_block, hugging_face_block = blocks_run_by(__file__)

    names = run_python(openai_block, url=url)
    names["client"].close()
    run_python(hugging_face_block, url=url)

    np.testing.assert_array_equal(
        np.float32([entry.embedding for entry in names["answer"].data]),
        shop.encoder.encode_queries(["red sofa", "oak table"]),
    )
    assert capsys.readouterr().out == f"2 8\n(1, {shop.encoder.dim})\n"
