"""`aisle export --max_length` writes the bundle of an index that was built with this flag."""

import pytest

from aisle.bundle.bundle_file import read_bundle
from aisle.bundle.onnx_encoder import load_bundle
from aisle.cli import main
from aisle.models.loading import load_encoder
from aisle.types.encoder_settings import Overrides


def test_a_bundle_with_another_maximum_length_searches_the_index_that_was_built_with_it(
    tiny_bert, tmp_path, capsys
):
    index, bundle = str(tmp_path / "index"), str(tmp_path / "bundle")
    (tmp_path / "products.csv").write_text("product_id,title\np1,red sofa for the garden\np2,blue lamp\n")
    build = ["build", "--catalog", str(tmp_path / "products.csv"), "--index_dir", index]
    assert main([*build, "--model", str(tiny_bert), "--max_length", "8"]) == 0

    assert main(["export", str(tiny_bert), "--output_dir", bundle, "--max_length", "8"]) == 0

    assert read_bundle(tmp_path / "bundle").max_length == 8
    source = load_encoder(tiny_bert, device="cpu", overrides=Overrides(max_length=8))
    assert read_bundle(tmp_path / "bundle").source.fingerprint == source.fingerprint
    text = ["red sofa " * 10]
    found = load_bundle(bundle).encode_products(text)
    assert found == pytest.approx(source.encode_products(text), abs=1e-5)
    capsys.readouterr()
    assert main(["query", "--index_dir", index, "--model", bundle, "red sofa for the garden"]) == 0
    assert "p1" in capsys.readouterr().out


def test_a_maximum_length_that_the_model_cannot_read_is_refused(tiny_bert, tmp_path, capsys):
    code = main(["export", str(tiny_bert), "--output_dir", str(tmp_path / "b"), "--max_length", "65"])

    assert code == 2
    assert f"--max_length 65: {tiny_bert} reads at most 64 tokens" in capsys.readouterr().err
