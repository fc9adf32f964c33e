"""`adapt --kind lora`: the query tower is trained for an index, and its version has it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from aisle.cli import index_main, main
from aisle.index import open_index, read_manifest
from aisle.index.manifest import TOWER_FOLDER
from aisle.models.adapters import attach_lora
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.search.open_searcher import open_searcher
from aisle.service.engine import EmbedJob, Engine, SearchJob
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.service.requests import SearchRequest
from aisle.service.text_embedding import EmbedOptions
from aisle.types.encoder_settings import Overrides
from tests.commands.conftest import write_rows
from tests.commands.test_adapt import PRODUCTS, QUERIES, run
from tests.models.conftest import save_tower

LORA = ["--kind", "lora", "--num_train_epochs", "6", "--batch_queries", "32", "--learning_rate", "0.01"]


@pytest.fixture(scope="module")
def built(tiny_bert, tmp_path_factory):
    """The folder of an index, and judged pairs by id."""
    folder = tmp_path_factory.mktemp("tower")
    catalog = write_rows(folder / "catalog.csv", ["product_id", "title"], PRODUCTS)
    flags = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", folder / "index", "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0
    write_rows(folder / "ids.csv", ["query", "product_id"], [row[:2] for row in QUERIES])
    return folder


@pytest.fixture(scope="module")
def published(built, tmp_path_factory):
    """A folder with an index that has a query tower, and with a run of two towers."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(built / "index", folder / "index")
    flags = ["--index_dir", folder / "index", "--train_file", built / "ids.csv", *LORA]
    assert index_main(["adapt", *map(str, flags), "--output_dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def index_dir(published, tmp_path):
    shutil.copytree(published / "index", tmp_path / "index")
    return tmp_path / "index"


def test_the_version_has_the_query_tower_and_shares_the_vectors(published, built, capfd):
    before, now = read_manifest(built / "index"), read_manifest(published / "index")
    record = now.query_adapter
    assert (now.version, record.kind, record.size, record.version) == (2, "lora", 8, 1)
    assert record.gain_low > 0
    assert record.base_fingerprint == before.fingerprint == now.fingerprint
    assert now.query_fingerprint == record.fingerprint != before.fingerprint
    assert f"{TOWER_FOLDER}/model.safetensors" in now.files
    versions = sorted((published / "index" / "versions").iterdir())
    first, second = (version / "embeddings.npy" for version in versions)
    assert first.samefile(second)
    assert run(capfd, "verify", "--index_dir", published / "index")[0] == 0
    _, _, shown = run(capfd, "info", "--index_dir", published / "index")
    assert "lora of size 8, trained on" in " ".join(shown.split())


def test_searches_use_the_tower_and_a_rollback_the_encoder(index_dir, tiny_bert, capfd):
    texts = [query for query, _, _ in QUERIES[:20]]
    tower = load_encoder(next(index_dir.glob(f"versions/*/{TOWER_FOLDER}")), device="cpu")
    index = open_index(index_dir)
    expected = index.search(tower.encode_queries(texts), top_k=3).rows

    searcher = open_searcher(index_dir)
    found = [[hit.product_id for hit in hits] for hits in searcher.search(texts, 3)]

    ids = index.products.column("product_id")
    assert found == [[ids[row].as_py() for row in rows] for rows in expected]
    assert searcher.query_fingerprint == tower.fingerprint
    moved = open_searcher(index_dir, model=str(tiny_bert)).encode(texts)
    np.testing.assert_array_equal(moved, searcher.encode(texts))
    base = load_encoder(tiny_bert, device="cpu")
    assert np.abs(searcher.encode(texts) - base.encode_queries(texts)).max() > 0.05
    assert run(capfd, "rollback", "--index_dir", index_dir)[0] == 0
    assert searcher.reload_if_changed()
    np.testing.assert_allclose(searcher.encode(texts), base.encode_queries(texts), atol=1e-6)
    assert searcher.query_fingerprint == base.fingerprint


def test_commands_keep_the_tower(index_dir, built, tmp_path, tiny_bert, capfd):
    record = read_manifest(index_dir).query_adapter
    new = write_rows(tmp_path / "new.csv", ["product_id", "title"], [("pink-sofa", "pink sofa")])
    for command in (
        ["upsert", "--catalog", new],
        ["tune", "--ef_search", 30],
        ["compact", "--threads", 1],
        ["build", "--model", tiny_bert, "--catalog", built / "catalog.csv", "--threads", 1],
    ):
        code, _, said = run(capfd, command[0], "--index_dir", index_dir, *command[1:])
        assert code == 0, said
        manifest = read_manifest(index_dir)
        assert (manifest.query_adapter, manifest.query_fingerprint) == (record, record.fingerprint)
        assert open_searcher(index_dir).query_fingerprint == record.fingerprint


def test_the_run_has_the_tower_and_searches_the_index(published, tmp_path, capfd):
    record = read_manifest(published / "index").query_adapter
    towers = load_encoder(published / "run", device="cpu")
    assert towers.query_fingerprint == record.fingerprint
    assert towers.fingerprint == read_manifest(published / "index").fingerprint
    saved = json.loads((published / "run" / "aisle.json").read_text())
    assert saved["query_adapter"]["kind"] == "lora"
    flags = ["query", "--index_dir", published / "index", QUERIES[0][0]]
    _, own, _ = run(capfd, *flags)
    code, found, said = run(capfd, *flags, "--model", published / "run")
    assert (code, found) == (0, own), said
    assert "queries are embedded by the query tower" not in said

    shutil.copytree(published / "index", tmp_path / "index")
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], PRODUCTS)
    rebuilt = ["--index_dir", tmp_path / "index", "--catalog", catalog, "--model", published / "run"]
    code, document, said = run(capfd, "build", *rebuilt)
    assert (code, document["texts_embedded"]) == (0, 0), said
    assert "has the query tower of version 2 built in" in said
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.query_adapter, manifest.query_fingerprint) == (None, record.fingerprint)


def test_sentence_transformers_loads_the_run_with_equal_embeddings(published):
    from sentence_transformers import SentenceTransformer

    towers, texts = load_encoder(published / "run", device="cpu"), [query for query, _, _ in QUERIES[:9]]

    model = SentenceTransformer(str(published / "run"), device="cpu")

    np.testing.assert_allclose(model.encode_query(texts), towers.encode_queries(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(texts), towers.encode_products(texts), atol=1e-5)


def test_a_bundle_of_the_run_searches_the_index_and_is_packaged_with_it(published, tmp_path, capfd):
    assert main(["export", str(published / "run"), "--output_dir", str(tmp_path / "bundle")]) == 0
    capfd.readouterr()
    flags = ["--index_dir", published / "index", "--model", tmp_path / "bundle"]
    _, own, _ = run(capfd, "query", "--index_dir", published / "index", QUERIES[0][0])
    code, found, said = run(capfd, "query", *flags, QUERIES[0][0])
    assert code == 0, said
    assert found[0]["results"][0]["product_id"] == own[0]["results"][0]["product_id"]

    assert main(["package", *map(str, flags), "--output", str(tmp_path / "package")]) == 0
    capfd.readouterr()
    packaged = tmp_path / "package" / "index"
    assert not list(packaged.glob(f"versions/*/{TOWER_FOLDER}"))
    record = read_manifest(published / "index").query_adapter
    assert read_manifest(packaged).query_fingerprint == record.fingerprint
    code, found, said = run(
        *(capfd, "query", "--index_dir", packaged, "--model", tmp_path / "package" / "bundle", QUERIES[0][0])
    )
    assert code == 0, said


def test_a_tower_is_trained_from_a_lora_run_and_for_cut_embeddings(tiny_bert, shift_weights, tmp_path, capfd):
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    adapter = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": None, "use_dora": False}
    backbone = attach_lora(
        loaded.backbone, **adapter, use_rslora=False, base_reference=str(tiny_bert), base_revision=None
    )
    shift_weights(backbone, seed=1)
    save_tower(tmp_path / "lora", replace(loaded, backbone=backbone).tower(), loaded, adapter=True)
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], PRODUCTS)
    pairs = write_rows(tmp_path / "ids.csv", ["query", "product_id"], [row[:2] for row in QUERIES])
    index = ["--index_dir", tmp_path / "index"]
    flags = ["--model", tmp_path / "lora", "--catalog", catalog, "--dimensions", 24]
    assert run(capfd, "build", *flags, *index)[0] == 0

    code, document, said = run(capfd, "adapt", *index, "--train_file", pairs, *LORA)

    assert (code, document["published"]) == (0, True), said
    assert document["ndcg@10"]["after"] == document["query_adapter"]["ndcg_after"]
    code, found, said = run(capfd, "query", *index, QUERIES[0][0])
    assert (code, len(found[0]["results"])) == (0, 10), said


@pytest.mark.parametrize("flags", [["--size", "8193"], ["--hard_negatives", "51"]])
def test_sizes_have_limits(flags, built, capfd):
    code, _, said = run(
        capfd,
        "adapt",
        "--index_dir",
        built / "index",
        "--train_file",
        built / "ids.csv",
        "--kind",
        "mlp",
        *flags,
    )
    assert (code, flags[0] in said) == (2, True), said


def test_the_tower_of_a_bundle_is_not_trained(tmp_path, published, built, capfd):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    flags = ["--index_dir", built / "index", "--train_file", built / "ids.csv", *LORA]

    code, _, said = run(capfd, "adapt", *flags, "--model", tmp_path / "bundle")

    assert (code, "is a bundle, whose weights are fixed" in said) == (2, True), said


def test_the_service_embeds_queries_with_the_tower(published):
    pair, texts = load_pair(PairSource(published / "index")), [QUERIES[0][0]]
    record = pair.index.manifest.query_adapter

    search, queries, products = Engine(pair).answer(
        [
            SearchJob(SearchRequest(query=texts[0], explain=True)),
            EmbedJob(texts, EmbedOptions("query")),
            EmbedJob(texts, EmbedOptions("product")),
        ]
    )

    assert search.model.fingerprint == search.hits[0].explain["query_adapter"] == record.fingerprint
    towers = load_encoder(published / "run", device="cpu")
    np.testing.assert_allclose(queries.embeddings, towers.encode_queries(texts), atol=1e-6)
    np.testing.assert_allclose(products.embeddings, towers.encode_products(texts), atol=1e-6)


def test_another_adapter_takes_the_place_of_the_tower(index_dir, built, capfd):
    before = read_manifest(index_dir).query_adapter
    flags = ["--index_dir", index_dir, "--train_file", built / "ids.csv", "--learning_rate", "0.02"]

    code, document, said = run(capfd, "adapt", *flags, "--temperature", "0.1", "--batch_queries", "16")

    assert code == 0, said
    assert document["ndcg@10"]["before"] == pytest.approx(before.ndcg_after)  # compared with the tower
    if document["published"]:
        now = read_manifest(index_dir)
        assert (now.query_adapter.kind, now.query_adapter.base_fingerprint) == ("linear", now.fingerprint)
        assert now.query_fingerprint is None
        assert not any(name.startswith(TOWER_FOLDER) for name in now.files)


def test_a_tower_that_gains_nothing_is_not_published(built, tmp_path, capfd):
    shutil.copytree(built / "index", tmp_path / "index")
    wrong = [(query, PRODUCTS[number * 7 % 40][0]) for number, (query, _, _) in enumerate(QUERIES)]
    pairs = write_rows(tmp_path / "wrong.csv", ["query", "product_id"], wrong)
    flags = ["--index_dir", tmp_path / "index", "--train_file", pairs, *LORA, "--num_train_epochs", "1"]

    code, document, said = run(capfd, "adapt", *flags)

    assert (code, document["published"], document["version"]) == (0, False, 1), said
    assert "not published: " in said


def test_a_missing_or_foreign_tower_is_refused(index_dir, published, capfd):
    tower = next(index_dir.glob(f"versions/*/{TOWER_FOLDER}"))
    (tower / "config.json").write_text("{}")
    code, _, said = run(capfd, "verify", "--index_dir", index_dir)
    assert (code, "config.json" in said) == (2, True)
    shutil.rmtree(tower)
    code, _, said = run(capfd, "query", "--index_dir", index_dir, "a sofa")
    assert code == 2
    assert f"{TOWER_FOLDER}" in said
    assert "Traceback" not in said
