"""POST /embed and POST /v1/embeddings give the encoder's embeddings in TEI's and OpenAI's forms."""

import base64

import numpy as np
import pytest

TEXTS = ["blue lamp", "a wool rug for the hall"]


def test_embed_gives_the_encoders_embeddings(client, shop):
    answer = client.post("/embed", json={"inputs": TEXTS})

    np.testing.assert_array_equal(np.float32(answer.json()), shop.encoder.encode_queries(TEXTS))
    assert client.post("/embed", json={"inputs": TEXTS[0]}).json() == answer.json()[:1]


def test_openais_form_has_numbers_or_base64_and_counts_tokens(client, shop):
    expected = shop.encoder.encode_queries(TEXTS)

    plain = client.post("/v1/embeddings", json={"input": TEXTS, "model": "any"}).json()
    packed = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()

    assert [entry["index"] for entry in plain["data"]] == [0, 1]
    np.testing.assert_array_equal(np.float32([entry["embedding"] for entry in plain["data"]]), expected)
    unpacked = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in packed["data"]]
    np.testing.assert_array_equal(unpacked, expected)
    # [CLS] blue lamp [SEP], and [CLS] a wool rug for the hall [SEP]
    assert plain["usage"] == {"prompt_tokens": 4 + 8, "total_tokens": 4 + 8}
    assert (plain["object"], plain["model"]) == ("list", shop.bundle.name)


def test_the_side_selects_the_prompt(tmp_path, minilm_dir):
    from tests.service.served_shop import write_served_shop

    shop = write_served_shop(tmp_path, minilm_dir, query_prompt="query: ", product_prompt="passage: ")
    with shop.client() as client:
        sides = {
            name: client.post("/embed", json={"inputs": "rug", "prompt_name": name}).json()
            for name in ("query", "passage", "product")
        }
        document = client.post("/v1/embeddings", json={"input": "rug", "input_type": "document"}).json()

    assert sides["query"] == shop.encoder.encode_queries(["rug"]).tolist()
    assert sides["passage"] == sides["product"] == shop.encoder.encode_products(["rug"]).tolist()
    assert document["data"][0]["embedding"] == sides["product"][0]


def test_embeddings_are_cut_to_fewer_dimensions(client, shop):
    answer = client.post("/embed", json={"inputs": TEXTS, "dimensions": 4}).json()

    np.testing.assert_array_equal(np.float32(answer), shop.encoder.truncated(4).encode_queries(TEXTS))


@pytest.mark.parametrize(
    ("route", "asked", "field", "message"),
    [
        ("/embed", {"inputs": "rug", "dimensions": 9}, "dimensions", "has 8 dimensions"),
        ("/embed", {"inputs": "rug " * 40, "truncate": False}, "truncate", "more than 32 tokens"),
        ("/embed", {"inputs": []}, "inputs", "at least 1 item"),
        ("/embed", {"inputs": "rug", "prompt_name": "other"}, "prompt_name", "query or product"),
        ("/embed", {"inputs": "rug", "normalize": False}, "normalize", "True"),
        ("/embed", {"input": "rug"}, "input", "did you mean 'inputs'?"),
        ("/v1/embeddings", {"input": [1, 2, 3]}, "input", "valid string"),
        ("/v1/embeddings", {"input": ["rug"] * 33}, "input", "at most 32"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(client, route, asked, field, message):
    answer = client.post(route, json=asked)

    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["field"]) == (422, "invalid_request", field)
    assert message in error["message"]


def test_only_the_job_with_a_long_text_fails(shop):
    from aisle.service.engine import EmbedJob, Engine
    from aisle.service.text_embedding import EmbedOptions

    whole = EmbedOptions("query", truncate=False)
    jobs = [EmbedJob(["rug"], whole), EmbedJob(["rug " * 40], whole), EmbedJob(["sofa", "bed"], whole)]

    first, second, third = Engine(shop.pair()).answer(jobs)

    assert "32 tokens" in str(second)
    np.testing.assert_array_equal(first.embeddings, shop.encoder.encode_queries(["rug"]))
    np.testing.assert_array_equal(third.embeddings, shop.encoder.encode_queries(["sofa", "bed"]))
    assert (first.tokens, third.tokens) == (3, 6)
