"""A bundle searches its own indexes and those of the model that it was exported from, and no others."""

import json
import subprocess
import sys

import numpy as np
import pytest

from aisle.bundle.bundle_record import GateResults
from aisle.bundle.onnx_encoder import load_bundle
from aisle.commands.indexing.queries_bundle import queries_bundle
from aisle.errors import FingerprintMismatchError, ModelError
from aisle.index import read_manifest
from aisle.search.encoders import encoder_of_index, encoder_record, source_in_fp32
from aisle.search.open_searcher import open_searcher
from aisle.search.searcher import Searcher
from aisle.types.encoder_settings import Overrides
from tests.bundle.small_bundle import SOURCE, write_small_bundle
from tests.search.word_encoder import titles_of, write_shop

QUERIES = ["red sofa", "a lamp for the desk", "black shelf"]


@pytest.fixture
def bundle(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir)
    return tmp_path / "bundle"


def record(model):
    return encoder_record(
        model=str(model), revision=None, base_model=None, precision="fp32", overrides=Overrides()
    )


@pytest.fixture
def own_index(bundle, tmp_path):
    """An index that the bundle made."""
    write_shop(tmp_path / "own", load_bundle(bundle), encoder=record(bundle))
    return tmp_path / "own"


@pytest.fixture
def index_of_source(bundle, tmp_path):
    """An index of the model that the bundle was exported from."""
    write_shop(tmp_path / "of_source", load_bundle(bundle).in_place_of_source(), encoder=record("runs/shop"))
    return tmp_path / "of_source"


def test_an_index_is_searched_with_the_bundle_that_it_records(own_index, bundle):
    titles = titles_of(60)

    found = open_searcher(own_index, exact=True).search(titles[:5], 1)

    assert read_manifest(own_index).fingerprint == load_bundle(bundle).fingerprint
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)


def test_an_index_of_the_source_is_searched_with_the_bundle(index_of_source, own_index, bundle):
    searcher = open_searcher(index_of_source, model=str(bundle), exact=True)

    found, expected = searcher.search(QUERIES, 10), open_searcher(own_index, exact=True).search(QUERIES, 10)

    assert searcher.encoder.fingerprint == SOURCE
    assert found.product_ids.tolist() == expected.product_ids.tolist()
    assert not searcher.reload_if_changed()


def test_a_bundle_of_another_model_is_refused_with_all_named(index_of_source, minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "other", minilm_dir, fingerprint="b" * 64)
    own = load_bundle(tmp_path / "other").fingerprint

    with pytest.raises(
        FingerprintMismatchError,
        match=rf"made by the encoder runs/shop with fingerprint {SOURCE}, and the bundle .*other has "
        rf"fingerprint {own} and was exported from runs/shop with fingerprint {'b' * 64}\. Give",
    ):
        open_searcher(index_of_source, model=str(tmp_path / "other"))


def test_an_index_of_the_fp32_bundle_is_searched_with_the_int8_bundle(
    bundle, minilm_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: None)
    write_small_bundle(tmp_path / "int8", minilm_dir, precision="int8")
    encoders = {"fp32": load_bundle(bundle), "int8": load_bundle(tmp_path / "int8")}
    for name, encoder in encoders.items():
        recorded = encoder_record(
            model=encoder.name,
            revision=None,
            base_model=None,
            precision=name,
            overrides=Overrides(),
            source=source_in_fp32(encoder),
        )
        write_shop(tmp_path / f"by_{name}", encoder, encoder=recorded)
    by_fp32 = tmp_path / "by_fp32"

    searcher = open_searcher(by_fp32, model=str(tmp_path / "int8"), exact=True)

    assert encoders["fp32"].fingerprint != encoders["int8"].fingerprint
    assert searcher.encoder.fingerprint == read_manifest(by_fp32).fingerprint == encoders["fp32"].fingerprint
    np.testing.assert_allclose(searcher.search(titles_of(60)[:5], 1).scores[:, 0], 1, atol=1e-6)
    assert queries_bundle(read_manifest(by_fp32), str(tmp_path / "int8")).answers == "source"
    with pytest.raises(FingerprintMismatchError, match="no products"):
        encoder_of_index(
            read_manifest(by_fp32),
            by_fp32,
            model=str(tmp_path / "int8"),
            base_model=None,
            trust_remote_code=False,
            to_search=False,
        )
    with pytest.raises(FingerprintMismatchError, match="build the index again"):
        open_searcher(tmp_path / "by_int8", model=str(bundle))
    assert queries_bundle(read_manifest(tmp_path / "by_int8"), str(bundle)).answers == "no"


def test_a_changed_bundle_does_not_search_the_index_of_the_one_before(own_index, minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "other", minilm_dir, query_prompt="query: ")

    with pytest.raises(FingerprintMismatchError, match=r"Give the encoder of the index, or a bundle of it"):
        open_searcher(own_index, model=str(tmp_path / "other"))


def test_in_python_a_bundle_takes_the_place_of_its_source_only_if_told(index_of_source, bundle):
    from aisle.index import open_index

    index, encoder = open_index(index_of_source), load_bundle(bundle)

    with pytest.raises(FingerprintMismatchError, match=r"is searched with its own encoder"):
        Searcher(index, encoder)
    assert Searcher(index, encoder.in_place_of_source()).search(QUERIES, 3).rows.shape == (3, 3)


def test_a_bundle_embeds_no_products_for_an_index_of_its_source(index_of_source, own_index, bundle):
    def encoder_for(index_dir):
        return encoder_of_index(
            read_manifest(index_dir),
            index_dir,
            model=str(bundle),
            base_model=None,
            trust_remote_code=False,
            to_search=False,
        )

    with pytest.raises(FingerprintMismatchError, match=r"may embed queries for this index but no products"):
        encoder_for(index_of_source)
    assert encoder_for(own_index).fingerprint == load_bundle(bundle).fingerprint


def test_a_failed_gate_is_logged_if_it_was_accepted_and_refused_otherwise(
    index_of_source, minilm_dir, tmp_path
):
    failed = GateResults(
        passed=False,
        figures={"worst": 0.5, "mean": 1},
        limits={"worst": 0.99, "mean": 0.999},
        failed=("worst",),
    )
    write_small_bundle(tmp_path / "accepted", minilm_dir, gates=failed, accepted=True)
    write_small_bundle(tmp_path / "refused", minilm_dir, gates=failed)
    lines = []

    open_searcher(index_of_source, model=str(tmp_path / "accepted"), log=lines.append)

    assert lines == [f"{tmp_path / 'accepted'}: its export accepted a failed gate: worst 0.5 (limit 0.99)"]
    with pytest.raises(ModelError, match=r"refused: failed a gate of its export"):
        open_searcher(index_of_source, model=str(tmp_path / "refused"))


def test_the_command_answers_from_a_bundle_without_torch(index_of_source, bundle):
    code = """
import sys
import aisle.cli
assert aisle.cli.main(sys.argv[1:]) == 0
assert not {"torch", "transformers"} & set(sys.modules)
"""
    flags = ["query", "--index_dir", index_of_source, "--model", bundle, "--json", "--exact", *QUERIES]

    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, flags)], capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    expected = open_searcher(index_of_source, model=str(bundle), exact=True).search(QUERIES, 10)
    found = [[hit["product_id"] for hit in answer["results"]] for answer in json.loads(ran.stdout)]
    assert found == expected.product_ids.tolist()


def test_a_missing_bundle_is_one_message_that_names_the_flag(index_of_source, bundle):
    (bundle / "tower.onnx").unlink()

    with pytest.raises(ModelError, match=r"if it has moved, give it with --model\. .*tower\.onnx: missing"):
        open_searcher(index_of_source, model=str(bundle))
