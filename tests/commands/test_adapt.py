"""`adapt`: an adapter is published with the index if it gains, and every command knows it."""

import json
import re
import shutil

import numpy as np
import pytest

from aisle.cli import index_main
from aisle.index import open_index, read_manifest
from aisle.models.loading import load_encoder
from aisle.service.engine import EmbedJob, Engine, SearchJob
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.service.requests import SearchRequest
from aisle.service.service_info import service_info
from aisle.service.service_limits import ServiceLimits
from aisle.service.text_embedding import EmbedOptions
from tests.commands.conftest import write_rows

COLOURS = ("red", "blue", "green", "oak", "grey")
NOUNS = ("sofa", "lamp", "table", "bed", "rug", "chair", "desk", "shelf")
PRODUCTS = [(f"{c}-{n}", f"{c} {n}") for c in COLOURS for n in NOUNS]
MEANT = dict(zip(NOUNS, ("garden", "kids", "wool", "modern", "small", "large", "model", "wood"), strict=True))
QUERIES = [
    (f"{verb} {MEANT[noun]} {colour}", f"{colour}-{noun}", f"{colour} {noun}")
    for verb in ("a", "the", "new", "my")
    for colour in COLOURS
    for noun in NOUNS
]
"""Queries that say another word for each noun, so that the encoder alone finds other products."""
FAST = [
    "--learning_rate",
    "0.02",
    "--num_train_epochs",
    "12",
    "--batch_queries",
    "16",
    "--temperature",
    "0.1",
]


def run(capfd, *flags):
    code = index_main([*map(str, flags), "--json"])
    captured = capfd.readouterr()
    return code, json.loads(captured.out) if code == 0 else None, captured.err


@pytest.fixture(scope="module")
def built(tiny_bert, tmp_path_factory):
    """The folder of an index, and judged pairs by id and by text."""
    folder = tmp_path_factory.mktemp("adapt")
    catalog = write_rows(folder / "catalog.csv", ["product_id", "title"], PRODUCTS)
    flags = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", folder / "index", "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0
    write_rows(folder / "ids.csv", ["query", "product_id"], [row[:2] for row in QUERIES])
    write_rows(folder / "texts.csv", ["query", "product"], [(query, text) for query, _, text in QUERIES])
    return folder


@pytest.fixture(scope="module")
def published(built, tmp_path_factory):
    """The folder of an index with an adapter."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(built / "index", folder / "index")
    flags = ["--index_dir", folder / "index", "--train_file", built / "ids.csv", *FAST]
    assert index_main(["adapt", *map(str, flags)]) == 0
    return folder / "index"


@pytest.fixture
def index_dir(built, tmp_path):
    shutil.copytree(built / "index", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def adapted(published, tmp_path):
    shutil.copytree(published, tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_an_adapter_that_gains_is_published_and_searches_use_it(built, index_dir, kind, capfd):
    _, before, _ = run(capfd, "query", "--index_dir", index_dir, QUERIES[0][0])

    code, document, said = run(
        *(capfd, "adapt", "--index_dir", index_dir, "--train_file", built / "texts.csv"),
        *("--kind", kind, *FAST),
    )

    assert code == 0, said
    assert (document["published"], document["version"]) == (True, 2)
    record, gain = document["query_adapter"], document["ndcg@10"]
    assert record["kind"] == kind
    assert record["held_out_queries"] == gain["queries"] == 32
    assert record["gain_low"] == gain["difference"]["low"] > 0
    assert gain["after"] - gain["before"] == pytest.approx(gain["difference"]["value"])
    assert document["ndcg@10_unseen"] is None  # every product is relevant to some training query
    assert "held-out queries: nDCG@10" in said
    _, after, _ = run(capfd, "query", "--index_dir", index_dir, QUERIES[0][0])
    assert after != before
    _, info, shown = run(capfd, "info", "--index_dir", index_dir)
    assert info["query_adapter"] == record
    assert {"linear": "linear, trained on", "mlp": "mlp of size 256, trained on"}[kind] in " ".join(
        shown.split()
    )


def test_labels_that_teach_nothing_are_not_published(built, index_dir, tmp_path, capfd):
    wrong = [(query, PRODUCTS[number * 7 % 40][0]) for number, (query, _, _) in enumerate(QUERIES)]
    pairs = write_rows(tmp_path / "wrong.csv", ["query", "product_id"], wrong)

    code, document, said = run(capfd, "adapt", "--index_dir", index_dir, "--train_file", pairs)

    assert code == 0, said
    assert (document["published"], document["version"], document["query_adapter"]) == (False, 1, None)
    assert "not published: " in said
    assert read_manifest(index_dir).version == 1


def test_commands_keep_the_adapter(adapted, tmp_path, capfd):
    fingerprint = read_manifest(adapted).query_adapter.fingerprint
    new = write_rows(tmp_path / "new.csv", ["product_id", "title"], [("pink-sofa", "pink sofa")])
    queries = write_rows(tmp_path / "queries.csv", ["query_id", "query"], [("1", "a sofa"), ("2", "a lamp")])
    judged = [
        (str(q), f"{c}-{n}", int((n == "sofa") == (q == 1)))
        for q in (1, 2)
        for c, n in ((c, n) for c in COLOURS for n in ("sofa", "lamp"))
    ]
    qrels = write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], judged)
    for command in (
        ["upsert", "--catalog", new],
        ["tune", "--ef_search", 30],
        ["compact", "--threads", 1],
        ["calibrate", "--queries", queries, "--qrels", qrels],
        ["verify"],
        ["versions"],
    ):
        code, _, said = run(capfd, command[0], "--index_dir", adapted, *command[1:])
        assert code == 0, said
        assert open_index(adapted).manifest.query_adapter.fingerprint == fingerprint

    code, _, said = run(capfd, "rollback", "--index_dir", adapted)
    assert (code, open_index(adapted).query_adapter is not None) == (0, True), said


def test_a_build_keeps_the_adapter_of_the_same_encoder_only(built, adapted, tiny_bert, capfd):
    record = read_manifest(adapted).query_adapter
    flags = ["--catalog", built / "catalog.csv", "--index_dir", adapted, "--threads", 1, "--model", tiny_bert]

    code, document, said = run(capfd, "build", *flags)

    assert (code, document["query_adapter_not_kept_because"]) == (0, None), said
    assert open_index(adapted).manifest.query_adapter == record
    assert "the query adapter is kept from version 2" in said
    code, document, said = run(capfd, "build", *flags, "--query_prompt", "query: ")
    assert (code, document["query_adapter_not_kept_because"]) == (0, "another encoder makes the embeddings")
    assert open_index(adapted).query_adapter is None


@pytest.mark.parametrize(("left", "kept"), [(20, True), (19, False)])
def test_a_build_keeps_the_adapter_if_half_of_the_products_are_left(
    adapted, tiny_bert, tmp_path, left, kept, capfd
):
    record = read_manifest(adapted).query_adapter
    new = [(f"new-{number}", f"pink {noun}") for number, noun in enumerate(NOUNS * 5)]
    catalog = write_rows(tmp_path / "other.csv", ["product_id", "title"], [*PRODUCTS[:left], *new])

    code, document, said = run(
        *(capfd, "build", "--catalog", catalog, "--index_dir", adapted, "--threads", 1, "--model", tiny_bert)
    )

    assert code == 0, said
    assert open_index(adapted).manifest.query_adapter == (record if kept else None)
    lost = None if kept else "only 19 of the 40 products of version 1 are in the new catalogue"
    assert document["query_adapter_not_kept_because"] == lost
    assert (f"the query adapter of version 2 is not kept, because {lost}" in " ".join(said.split())) != kept


def test_an_evaluation_measures_the_adapted_search_and_says_so(built, adapted, tmp_path, capfd):
    queries = write_rows(
        tmp_path / "queries.csv",
        ["query_id", "query"],
        [(n, query) for n, (query, _, _) in enumerate(QUERIES)],
    )
    qrels = write_rows(
        tmp_path / "qrels.csv",
        ["query_id", "product_id", "relevance"],
        [(n, product, 1) for n, (_, product, _) in enumerate(QUERIES)],
    )
    flags = ["--index_dir", adapted, "--queries", queries, "--qrels", qrels, "--resamples", 100]

    code, document, said = run(capfd, "evaluate", *flags)

    assert code == 0, said
    record = read_manifest(adapted).query_adapter
    assert f"use its query adapter {record.fingerprint[:12]}" in " ".join(said.split())
    rows = {row["name"]: row["metrics"]["ndcg@10"]["value"] for row in document["retrieval"]["rows"]}
    assert rows["base"] > 2 * record.ndcg_before


def test_adapting_again_is_compared_with_the_adapter_in_use(built, adapted, capfd):
    flags = ["--index_dir", adapted, "--train_file", built / "ids.csv"]

    _, document, said = run(capfd, "adapt", *flags, *FAST)

    assert document["published"] is False, said
    assert read_manifest(adapted).version == 2


def test_a_new_adapter_takes_the_place_of_a_calibration(built, index_dir, tmp_path, capfd):
    queries = write_rows(tmp_path / "queries.csv", ["query_id", "query"], [("1", "sofa"), ("2", "lamp")])
    judged = [(q, p, int(n in t)) for q, n in (("1", "sofa"), ("2", "lamp")) for p, t in PRODUCTS]
    qrels = write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], judged)
    assert run(capfd, "calibrate", "--index_dir", index_dir, "--queries", queries, "--qrels", qrels)[0] == 0

    _, document, said = run(
        *(capfd, "adapt", "--index_dir", index_dir, "--train_file", built / "ids.csv", *FAST)
    )

    assert document["published"]
    assert open_index(index_dir).calibration is None
    assert "the calibration is not kept, because scores have changed; run aisle calibrate" in said


def test_spellings_count_once_and_queries_without_a_relevant_product_are_counted(
    built, index_dir, tmp_path, capfd
):
    held_out = write_rows(
        tmp_path / "held_out.csv",
        ["query", "product_id", "relevance"],
        [
            (spelled, product, 1)
            for query, product, _ in QUERIES[:40]
            for spelled in (query, query.upper(), f" {query}")
        ],
    )
    train = write_rows(
        tmp_path / "train.csv",
        ["query", "product_id", "relevance"],
        [(q, p, 1) for q, p, _ in QUERIES] + [(f"x{n}", "red-sofa", 0) for n in range(10)],
    )
    flags = ["--train_file", train, "--held_out_file", held_out, *FAST]

    code, document, said = run(capfd, "adapt", "--index_dir", index_dir, *flags)

    assert code == 0, said
    assert document["ndcg@10"]["queries"] == 40
    irrelevant = "queries are left out: the index has no product that is relevant to them"
    assert f"10 {irrelevant}" in " ".join(said.split())
    record = document["query_adapter"]
    assert record["train_pairs"] == record["train_queries"] < 120


def test_held_out_pairs_of_a_file_decide_and_are_not_trained_on(built, index_dir, tmp_path, capfd):
    held_out = write_rows(tmp_path / "held_out.csv", ["query", "product_id"], [q[:2] for q in QUERIES[::5]])
    unknown = write_rows(tmp_path / "more.csv", ["query", "product_id"], [("x", "gone"), ("y", "gone")])

    code, document, said = run(
        *(capfd, "adapt", "--index_dir", index_dir, "--train_file", built / "ids.csv", unknown),
        *("--held_out_file", held_out, "--embedding_cache", tmp_path / "cache", *FAST),
    )

    assert code == 0, said
    assert "32 training pairs have a held-out query and are left out" in said
    assert "2 pairs are left out: the index has no product such as 'gone'" in said
    assert document["ndcg@10"]["queries"] == 32
    assert list((tmp_path / "cache").rglob("*.vectors"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--train_file: give the judged pairs to learn from"),
        (["--train_file", "{ids}", "--size", 4], "--size 4: --kind linear has no size"),
        (["--train_file", "missing.csv"], "missing.csv"),
        (["--train_file", "{ids}", "--held_out_file", "{ids}"], "has all queries of --train_file"),
        (["--train_file", "{gone}"], "0 training queries have a relevant product in the index"),
        (["--train_file", "{ids}", "--held_out_share", "0.05"], "8 held-out queries .* at least 20 must"),
        (["--train_file", "{ids}", "--product_id_column", "sku"], "sku"),
    ],
)
def test_bad_input_gives_one_message(built, flags, message, tmp_path, capfd):
    gone = write_rows(tmp_path / "gone.csv", ["query", "product_id"], [(f"q{n}", "gone") for n in range(99)])
    given = [str(flag).format(ids=built / "ids.csv", gone=gone) for flag in flags]

    code, _, said = run(capfd, "adapt", "--index_dir", built / "index", *given)

    assert code == 2
    assert "Traceback" not in said
    assert re.search(message, " ".join(said.split())), said


@pytest.fixture(scope="module")
def exported(built, tmp_path_factory):
    """The folder of an index with an adapter of kind mlp, and the run with two towers."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(built / "index", folder / "index")
    flags = ["--index_dir", folder / "index", "--train_file", built / "ids.csv", "--kind", "mlp", *FAST]
    assert index_main(["adapt", *map(str, flags), "--output_dir", str(folder / "run")]) == 0
    return folder


def test_the_run_has_the_adapter_in_its_query_tower(exported, tiny_bert):
    index, texts = open_index(exported / "index"), [query for query, _, _ in QUERIES[:9]]
    base, run = load_encoder(tiny_bert, device="cpu"), load_encoder(exported / "run", device="cpu")

    np.testing.assert_allclose(
        run.encode_queries(texts), index.adapted(base.encode_queries(texts)), atol=1e-5
    )
    np.testing.assert_allclose(run.encode_products(texts), base.encode_products(texts), atol=1e-6)
    assert run.fingerprint == index.manifest.fingerprint
    assert run.query_fingerprint not in (run.fingerprint, index.manifest.query_adapter.fingerprint)


def test_sentence_transformers_loads_the_run_with_equal_embeddings(exported):
    from sentence_transformers import SentenceTransformer

    towers, texts = load_encoder(exported / "run", device="cpu"), [query for query, _, _ in QUERIES[:9]]

    model = SentenceTransformer(str(exported / "run"), device="cpu")

    np.testing.assert_allclose(model.encode_query(texts), towers.encode_queries(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(texts), towers.encode_products(texts), atol=1e-5)


def test_the_run_searches_the_version_without_the_adapter_only(exported, tmp_path, capfd):
    shutil.copytree(exported / "index", tmp_path / "index")
    flags = ["--index_dir", tmp_path / "index", QUERIES[0][0]]
    _, adapted, _ = run(capfd, "query", *flags)

    code, _, said = run(capfd, "query", *flags, "--model", exported / "run")

    assert code == 2
    assert "its query adapter was trained on embeddings of the query tower" in said
    assert run(capfd, "rollback", "--index_dir", tmp_path / "index")[0] == 0
    _, found, said = run(capfd, "query", *flags, "--model", exported / "run")
    assert [hit["product_id"] for hit in found[0]["results"]] == [
        hit["product_id"] for hit in adapted[0]["results"]
    ]
    assert "queries are embedded by the query tower" in said


def test_a_run_is_not_written_over_another(exported, built, capfd):
    flags = ["--index_dir", exported / "index", "--train_file", built / "ids.csv"]

    code, _, said = run(capfd, "adapt", *flags, "--output_dir", exported / "run")

    assert (code, "contains another" in said) == (2, True), said


def test_the_service_adapts_queries_and_shows_the_adapter(published):
    pair = load_pair(PairSource(published))
    record, texts = pair.index.manifest.query_adapter, [QUERIES[0][0]]

    search, queries, cut, products = Engine(pair).answer(
        [
            SearchJob(SearchRequest(query=texts[0], explain=True)),
            *(EmbedJob(texts, options) for options in (EmbedOptions("query"), EmbedOptions("query", 8))),
            EmbedJob(texts, EmbedOptions("product")),
        ]
    )

    assert search.model.fingerprint == record.fingerprint
    assert search.hits[0].explain["query_adapter"] == record.fingerprint
    assert f"query adapter {record.fingerprint[:12]}" in search.hits[0].explain["text"]
    base = pair.encoder.encode_queries(texts)
    adapted = pair.index.adapted(base)
    np.testing.assert_allclose(queries.embeddings, adapted, atol=1e-6)
    np.testing.assert_allclose(cut.embeddings, adapted[:, :8] / np.linalg.norm(adapted[:, :8]), atol=1e-6)
    np.testing.assert_allclose(products.embeddings, base, atol=1e-6)
    info = service_info(pair, None, ServiceLimits())
    assert info["index"]["query_adapter"]["fingerprint"] == info["model"]["fingerprint"] == record.fingerprint
