"""build, query, upsert and evaluate take a bundle for --model, and need no torch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from aisle.bundle.bundle_record import BundleSource, GateResults
from aisle.bundle.onnx_encoder import load_bundle
from aisle.cli import index_main, main
from aisle.index import open_index, read_manifest
from tests.bundle.small_bundle import write_small_bundle
from tests.commands.conftest import write_rows
from tests.commands.evaluate.evaluated_shop import PRODUCTS, build, evaluate, write_shop

CODE = """
import sys
import aisle.cli
code = aisle.cli.main(sys.argv[1:])
loaded = {"torch", "transformers", "peft", "accelerate"} & set(sys.modules)
sys.exit(f"imported {loaded}" if loaded else code)
"""


@pytest.fixture
def bundle(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir, query_prompt="query: ")
    return tmp_path / "bundle"


@pytest.fixture
def catalog(tmp_path):
    return write_rows(tmp_path / "catalog.csv", ["product_id", "title", "department"], PRODUCTS)


def without_torch(*arguments):
    """Run a command in a new process, which must not import torch; return its JSON document."""
    command = [sys.executable, "-c", CODE, *map(str, arguments), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_an_index_is_built_queried_and_extended_by_a_bundle_without_torch(bundle, catalog, tmp_path):
    index = ["--index_dir", tmp_path / "index"]
    encoder = load_bundle(bundle)

    without_torch("build", "--model", bundle, "--catalog", catalog, *index, "--threads", 1)
    answers = without_torch("query", *index, "--exact", "--top_k", 2, "oak bed")
    more = write_rows(tmp_path / "more.csv", ["product_id", "title", "department"], [("g", "steel bin", "-")])
    without_torch("upsert", "--catalog", more, *index, "--threads", 1)

    titles = [title for _, title, _ in PRODUCTS]
    scores = encoder.encode_products(titles) @ encoder.encode_queries(["oak bed"])[0]
    best = [PRODUCTS[row][0] for row in np.argsort(-scores)[:2]]
    assert [hit["product_id"] for hit in answers[0]["results"]] == best
    manifest, opened = read_manifest(tmp_path / "index"), open_index(tmp_path / "index")
    assert (manifest.fingerprint, manifest.count) == (encoder.fingerprint, len(PRODUCTS) + 1)
    assert manifest.encoder["precision"] == "fp32"
    np.testing.assert_allclose(opened.embeddings[-1], encoder.encode_products(["steel bin"])[0], atol=1e-6)


def test_a_bundle_is_evaluated_on_its_index_and_on_an_index_of_its_source(
    tiny_bert, minilm_dir, tmp_path, capfd
):
    shop = write_shop(tmp_path / "shop")
    source_index = build(tiny_bert, shop["catalog"], tmp_path / "of_source")
    fingerprint = read_manifest(source_index).fingerprint
    source = BundleSource("runs/shop", fingerprint, fingerprint, base_model=str(tiny_bert))
    write_small_bundle(tmp_path / "bundle", minilm_dir, dim=32, source=source)
    own_index = build(tmp_path / "bundle", shop["catalog"], tmp_path / "own")
    judged = ["--queries", shop["queries"], "--qrels", shop["qrels"]]

    code, own, _ = evaluate(capfd, "--index_dir", own_index, *judged)
    code_of_source, of_source, _ = evaluate(
        capfd, "--index_dir", source_index, "--model", tmp_path / "bundle", *judged
    )

    assert (code, code_of_source) == (0, 0)
    names = [[row["name"] for row in found["retrieval"]["rows"]] for found in (own, of_source)]
    assert names == [["bm25", "base", "tuned", "hybrid"]] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--precision", "int8"],
            "--precision int8: {bundle} is a bundle that computes in fp32; leave it out",
        ),
        (["--pooling", "cls", "--max_length", 9], "--pooling and --max_length: {bundle} is a bundle, whose"),
        (["--base_model", "all-MiniLM-L6-v2"], "--base_model: {bundle} is a bundle, whose settings"),
        (["--model_revision", "main"], "--model_revision: {bundle} is a bundle, whose settings"),
    ],
)
def test_a_flag_that_would_change_a_bundle_is_refused(flags, message, bundle, catalog, tmp_path, capfd):
    given = ["build", "--model", bundle, "--catalog", catalog, "--index_dir", tmp_path / "index", *flags]

    assert index_main([*map(str, given)]) == 2

    assert message.format(bundle=bundle) in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "index").exists()


def test_a_build_in_int8_without_a_bundle_is_refused_before_anything_is_read(tiny_bert, tmp_path, capfd):
    given = ["--model", tiny_bert, "--catalog", tmp_path / "none.csv", "--index_dir", tmp_path / "index"]

    assert index_main(["build", *map(str, given), "--precision", "int8"]) == 2

    said = " ".join(capfd.readouterr().err.split())
    assert f"--precision int8: int8 needs a bundle, and {tiny_bert} is not a bundle; export the model" in said
    assert f"`aisle export {tiny_bert} --output_dir DIR --precision int8`, and use DIR as the model" in said
    assert "none.csv" not in said
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("flags", [(), ("--precision", "int8")])
def test_an_int8_bundle_builds_an_index_and_adds_to_it(flags, minilm_dir, catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: None)
    write_small_bundle(tmp_path / "int8", minilm_dir, precision="int8")
    index_dir = build(tmp_path / "int8", catalog, tmp_path / "index", *flags)
    more = write_rows(tmp_path / "more.csv", ["product_id", "title", "department"], [("g", "steel bin", "-")])

    assert index_main(["upsert", "--index_dir", str(index_dir), "--catalog", str(more)]) == 0

    manifest = read_manifest(index_dir)
    assert (manifest.encoder["precision"], manifest.count) == ("int8", len(PRODUCTS) + 1)


def test_upsert_refuses_a_bundle_for_an_index_of_its_source(tiny_bert, minilm_dir, catalog, tmp_path, capfd):
    index_dir = build(tiny_bert, catalog, tmp_path / "index")
    fingerprint = read_manifest(index_dir).fingerprint
    write_small_bundle(tmp_path / "bundle", minilm_dir, dim=32, fingerprint=fingerprint)
    more = write_rows(tmp_path / "more.csv", ["product_id", "title", "department"], [("g", "steel bin", "-")])
    flags = ["upsert", "--index_dir", index_dir, "--catalog", more, "--model", tmp_path / "bundle"]

    assert index_main([*map(str, flags)]) == 2

    assert "may embed queries for this index but no products" in " ".join(capfd.readouterr().err.split())
    assert read_manifest(index_dir).version == 1


def test_an_exported_model_answers_from_its_index_as_torch_does(tiny_bert, catalog, tmp_path, capfd):
    index_dir = build(tiny_bert, catalog, tmp_path / "index")
    assert main(["export", str(tiny_bert), "--output_dir", str(tmp_path / "exported")]) == 0
    query = ["query", "--index_dir", index_dir, "--exact", "--top_k", 4, "red bed", "a lamp for the garden"]
    capfd.readouterr()
    assert index_main([*map(str, query), "--json"]) == 0
    by_torch = json.loads(capfd.readouterr().out)

    by_bundle = without_torch(*query, "--model", tmp_path / "exported")

    for expected, found in zip(by_torch, by_bundle, strict=True):
        assert [hit["product_id"] for hit in found["results"]] == [
            hit["product_id"] for hit in expected["results"]
        ]
        np.testing.assert_allclose(
            [hit["score"] for hit in found["results"]],
            [hit["score"] for hit in expected["results"]],
            atol=1e-5,
        )


def test_info_names_the_bundle_that_answers(bundle, minilm_dir, tiny_bert, catalog, tmp_path, capfd):
    own_index = build(bundle, catalog, tmp_path / "own")
    other_index = build(tiny_bert, catalog, tmp_path / "of_source")
    fingerprint = read_manifest(other_index).fingerprint
    gates = GateResults(passed=True, figures={"worst_cosine": 0.995}, limits={"worst_cosine": 0.99})
    write_small_bundle(tmp_path / "of_bert", minilm_dir, dim=32, fingerprint=fingerprint, gates=gates)
    failed = GateResults(
        passed=False,
        figures={"worst_cosine": 0.9, "mean_cosine": 0.9999},
        limits={"worst_cosine": 0.99, "mean_cosine": 0.999},
        failed=("worst_cosine",),
    )
    write_small_bundle(
        tmp_path / "accepted", minilm_dir, dim=32, fingerprint=fingerprint, gates=failed, accepted=True
    )

    def info(*flags):
        capfd.readouterr()
        assert index_main(["info", *map(str, flags), "--json"]) == 0
        said = capfd.readouterr()
        return json.loads(said.out)["bundle"], " ".join(said.err.split())

    own, _ = info("--index_dir", own_index)
    source, line = info("--index_dir", other_index, "--model", tmp_path / "of_bert")
    other, _ = info("--index_dir", other_index, "--model", bundle)
    accepted, accepted_line = info("--index_dir", other_index, "--model", tmp_path / "accepted")

    assert [found["answers"] for found in (own, source, other)] == ["own", "source", "no"]
    assert own["path"] == str(bundle)
    assert source["source_fingerprint"] == fingerprint
    assert "exported from the encoder of this index; compared with its source: worst_cosine 0.995" in line
    assert accepted["failed_gates"] == "worst_cosine 0.9 (limit 0.99)"
    assert "accepted although it failed: worst_cosine 0.9 (limit 0.99)" in accepted_line
    assert "limit 0.999" not in accepted_line
    assert info("--index_dir", other_index)[0] is None
