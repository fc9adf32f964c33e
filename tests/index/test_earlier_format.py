"""An index of format 3, written before graph backends had names: it opens, updates and rolls back as before.

`fixtures/index_of_format_3.tar.gz` has three versions (build, upsert, delete) of 48 products with texts; the
JSON file with the same name has the answers of its searches at that time.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aisle.index import compact_index, list_versions, open_index, retune_index, rollback, upsert_products
from aisle.types.columns import TEXT_COLUMN

FIXTURES = Path(__file__).parent / "fixtures"
ANSWERS = json.loads((FIXTURES / "index_of_format_3.json").read_text(encoding="utf-8"))


@pytest.fixture
def old_index(tmp_path):
    with tarfile.open(FIXTURES / "index_of_format_3.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dense", {}),
        ("exact", {"exact": True}),
        ("lexical", {"mode": "lexical"}),
        ("hybrid", {"mode": "hybrid"}),
        ("filtered", {"where": "price <= 30"}),
    ],
)
def test_an_index_of_the_earlier_format_gives_the_same_answers(old_index, name, arguments):
    embeddings = np.array(ANSWERS["query_embeddings"], np.float32)

    found = open_index(old_index).search(embeddings, queries=ANSWERS["queries"], top_k=5, **arguments)

    assert found.product_ids.tolist() == ANSWERS[name]["ids"]
    assert found.scores == pytest.approx(np.array(ANSWERS[name]["scores"]), abs=1e-5)


def test_an_index_of_the_earlier_format_is_updated(old_index):
    embedding = np.eye(8, dtype=np.float32)[:1]
    product = {"product_id": ["new"], TEXT_COLUMN: ["brass lantern"], "title": ["brass lantern"]}
    product |= {"price": [3.5], "brand": ["b9"]}

    upsert_products(old_index, products=pa.table(product), embeddings=[embedding], fingerprint="f" * 64)

    index = open_index(old_index)
    assert len(index) == ANSWERS["count"] + 1
    assert index.search(embedding, top_k=1).product_ids.tolist() == [["new"]]
    assert index.search(queries=["lantern"], top_k=1, mode="lexical").product_ids.tolist() == [["new"]]


def test_an_index_of_the_earlier_format_is_compacted_and_tuned(old_index):
    compact_index(old_index)
    retune_index(old_index, ef_search=40)

    index = open_index(old_index)
    found = index.search(np.array(ANSWERS["query_embeddings"], np.float32), top_k=5, exact=True)
    assert index.manifest.ef_search == 40
    assert found.product_ids.tolist() == ANSWERS["exact"]["ids"]


def test_an_index_of_the_earlier_format_is_rolled_back(old_index):
    assert [version.number for version in list_versions(old_index)] == [1, 2, 3]

    rollback(old_index, to=1)

    assert len(open_index(old_index)) == 48
