"""A run of two towers in every command: the product tower builds, the query tower searches."""

import json

import numpy as np
import pytest

from aisle.cli import index_main
from aisle.index import open_index, read_manifest
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.two_towers import TwoTowers, UnchangedModel
from aisle.search.open_searcher import open_searcher
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.service.service_info import service_info
from aisle.service.service_limits import ServiceLimits
from aisle.types.encoder_settings import Overrides
from tests.commands.conftest import write_rows

TITLES = ["red sofa", "blue lamp", "wooden garden table", "steel bed", "outdoor chair", "red lamp"]


@pytest.fixture(scope="module")
def shop(tiny_model, tmp_path_factory):
    """Two runs with the same product tower and different query towers, and an index of the first."""
    folder = tmp_path_factory.mktemp("shop")
    bert, distilbert = (load_base(find_model(str(tiny_model(name))), overrides=Overrides()) for name in NAMES)
    prompted = load_base(find_model(str(tiny_model("bert"))), overrides=Overrides(query_prompt="find "))
    TwoTowers(UnchangedModel(bert), UnchangedModel(distilbert)).save(folder / "run")
    TwoTowers(UnchangedModel(prompted), UnchangedModel(distilbert)).save(folder / "tuned")
    catalog = folder / "catalog.csv"
    write_rows(catalog, ["product_id", "title"], [(f"p{row}", title) for row, title in enumerate(TITLES)])
    given = ["--model", folder / "run", "--catalog", catalog, "--text_template", "{title}"]
    assert (
        index_main(["build", *map(str, given), "--index_dir", str(folder / "index"), "--threads", "1"]) == 0
    )
    return folder


NAMES = ("bert", "distilbert")


def query(shop, capfd, *flags):
    capfd.readouterr()
    code = index_main(["query", "--index_dir", str(shop / "index"), "red sofa", *map(str, flags), "--json"])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_the_index_has_the_product_tower_s_embeddings_and_records_both_towers(shop):
    encoder = load_encoder(shop / "run", device="cpu")
    manifest = read_manifest(shop / "index")

    assert (manifest.fingerprint, manifest.query_fingerprint) == (
        encoder.fingerprint,
        encoder.query_fingerprint,
    )
    np.testing.assert_allclose(
        open_index(shop / "index").embeddings, encoder.encode_products(TITLES), atol=1e-5
    )


def test_queries_are_embedded_by_the_query_tower(shop, capfd):
    encoder = load_encoder(shop / "run", device="cpu")
    cosines = encoder.encode_products(TITLES) @ encoder.encode_queries(["red sofa"])[0]

    code, out, err = query(shop, capfd)

    results = json.loads(out)[0]["results"]
    assert code == 0
    assert [result["product_id"] for result in results] == [f"p{row}" for row in np.argsort(-cosines)]
    assert results[0]["score"] == pytest.approx(cosines.max(), abs=1e-5)
    assert "query tower" not in err


def test_another_query_tower_searches_the_index_and_is_printed(shop, capfd):
    encoder = load_encoder(shop / "tuned", device="cpu")
    cosines = encoder.encode_products(TITLES) @ encoder.encode_queries(["red sofa"])[0]

    code, out, err = query(shop, capfd, "--model", shop / "tuned")

    assert code == 0
    assert json.loads(out)[0]["results"][0]["score"] == pytest.approx(cosines.max(), abs=1e-5)
    assert f"query tower {encoder.query_fingerprint[:12]}" in err
    assert f"query tower {read_manifest(shop / 'index').query_fingerprint[:12]}" in err


def test_a_tower_alone_is_not_the_encoder_of_the_index(shop, capfd):
    code, _, err = query(shop, capfd, "--model", shop / "run" / "query")

    assert code == 2
    assert "was made by the encoder" in err


def test_info_shows_both_towers(shop, capfd):
    capfd.readouterr()
    assert index_main(["info", "--index_dir", str(shop / "index")]) == 0
    shown = "".join(capfd.readouterr().out.split())  # long lines are folded
    manifest = read_manifest(shop / "index")

    assert manifest.fingerprint in shown
    assert manifest.query_fingerprint in shown


def test_the_service_shows_the_towers_of_the_index_and_of_the_encoder(shop):
    tuned = load_encoder(shop / "tuned", device="cpu")
    manifest = read_manifest(shop / "index")
    pair = load_pair(PairSource(shop / "index", mode="dense", model=str(shop / "tuned")))

    found = service_info(pair, None, ServiceLimits())

    assert found["index"]["query_tower"] == manifest.query_fingerprint
    assert found["index"]["product_tower"] == manifest.fingerprint == tuned.fingerprint
    assert found["model"]["fingerprint"] == tuned.query_fingerprint != manifest.query_fingerprint
    assert found["model"]["product_fingerprint"] == tuned.fingerprint


def test_open_searcher_reads_a_run_of_two_towers(shop):
    found = open_searcher(shop / "index").search(["blue lamp"], 2)

    assert found.scores.shape == (1, 2)
