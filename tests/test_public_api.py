import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import aisle
from aisle.commands.train.from_python import train
from aisle.index import build_index, open_index
from aisle.search.load_encoder import load_encoder
from aisle.search.open_searcher import open_searcher
from aisle.types.encoder_settings import Overrides


def test_public_names_are_those_of_their_rooms():
    assert aisle.load_encoder is load_encoder
    assert aisle.build_index is build_index
    assert aisle.open_index is open_index
    assert aisle.open_searcher is open_searcher
    assert aisle.train is train


def test_the_module_runs_as_the_command_does():
    said = subprocess.run(
        [sys.executable, "-m", "aisle", "--version"], capture_output=True, text=True, check=True
    )

    assert said.stdout == f"aisle {aisle.__version__}\n"


def test_all_public_names_are_listed_and_there():
    assert set(aisle.__all__) <= set(dir(aisle))
    assert all(getattr(aisle, name) is not None for name in aisle.__all__)


def test_a_name_that_there_is_not_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match=r"^module 'aisle' has no attribute 'load_encodr'$"):
        aisle.load_encodr  # noqa: B018


def test_opening_an_index_does_not_load_torch():
    code = "import aisle, sys; aisle.open_index; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_index_built_and_searched_by_the_public_names_finds_the_product_itself(tiny_bert, tmp_path):
    titles = ["red running shoes", "deep learning book", "garden hose 20 m", "espresso machine"]

    encoder = aisle.load_encoder(tiny_bert, device="cpu")
    aisle.build_index(
        tmp_path / "index",
        product_ids=["a", "b", "c", "d"],
        payload=pa.table({"title": titles}),
        embeddings=[encoder.encode_products(titles)],
        dim=encoder.dim,
        fingerprint=encoder.fingerprint,
        encoder={"model": str(tiny_bert)},
        text_template=None,
    )
    index = aisle.open_index(tmp_path / "index", fingerprint=encoder.fingerprint)
    result = index.search(encoder.encode_queries(titles), top_k=1)

    assert result.product_ids[:, 0].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(result.scores[:, 0], 1, atol=1e-5)


def test_an_encoder_prints_on_three_short_lines(tiny_bert):
    overrides = Overrides(query_prompt="query: " * 4, product_prompt="a long prompt " * 3)

    lines = repr(aisle.load_encoder(tiny_bert, device="cpu", overrides=overrides)).split("\n")

    assert len(lines) == 3
    assert max(map(len, lines)) <= 120
    assert "32 dim, mean pooling" in lines[0]
    assert "product_prompt 'a long prompt a long prompt a '" in lines[1]
    assert "on cpu, fingerprint " in lines[2]
