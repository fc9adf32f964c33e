"""Judgements by product id, joined with a catalogue."""

import json

import pyarrow as pa
import pytest

from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_data import read_training_data
from aisle.data.catalog_file import write_catalog
from aisle.data.files import iter_rows
from aisle.errors import DataError
from aisle.types.columns import TEXT_COLUMN

CATALOG = """sku,title,brand,price
P1,Compact couch,Birk,349
P2,Corner sofa,,899
P3,Sofa cover,Alder,39
"""
JUDGED = """query,sku,relevance
red sofa,P1,1
red sofa,P3,0
big settee,P2,1
big settee,P3,0.2
"""
NO_CATALOG = {"catalog": None, "id_column": None, "text_template": None}


@pytest.fixture
def files(tmp_path):
    """Write the two files and return a function that reads them as training data."""

    def read(judged=JUDGED, shop=CATALOG, name="judged.csv", said=None, **settings):
        (tmp_path / name).write_text(judged, encoding="utf-8")
        (tmp_path / "catalog.csv").write_text(shop, encoding="utf-8")
        given = {
            "train_file": (str(tmp_path / name),),
            "catalog": (str(tmp_path / "catalog.csv"),),
            "id_column": "sku",
            "text_template": "{title} by {brand}",
            "validation_share": 0.5,
        }
        said = [] if said is None else said
        return read_training_data(DataSettings(**(given | settings)), seed=1, token=None, log=said.append)

    return read


def rows_of(data):
    pairs = []
    for part in (data.train, data.validation):
        pairs += zip(part.queries, part.products, part.relevance.tolist(), strict=True)
    return sorted(pairs)


def test_pairs_have_the_texts_that_an_index_of_the_catalogue_embeds(files, tmp_path):
    said = []
    data = files(said=said)
    index = write_catalog(
        iter_rows([tmp_path / "catalog.csv"]), tmp_path / "built.arrow", id_column="sku",
        text_template="{title} by {brand}", on_bad_row="error",
    )  # fmt: skip
    texts = pa.Table.from_batches([*index.batches()]).column(TEXT_COLUMN).to_pylist()
    assert texts == ["Compact couch by Birk", "Corner sofa by", "Sofa cover by Alder"]
    assert rows_of(data) == [
        ("big settee", texts[1], 1.0),
        ("big settee", texts[2], pytest.approx(0.2)),
        ("red sofa", texts[0], 1.0),
        ("red sofa", texts[2], 0.0),
    ]
    assert sorted({*data.train.product_ids, *data.validation.product_ids}) == ["P1", "P2", "P3"]
    assert "catalogue: 3 products, 3 of them judged; a product's text is '{title} by {brand}'" in said
    assert any("product: the catalogue's by sku" in line for line in said)


def test_validation_files_are_joined_too(files, tmp_path):
    (tmp_path / "held_out.csv").write_text("query,sku,relevance\ncover,P3,1\ncover,P1,0\n")
    data = files(validation_file=(str(tmp_path / "held_out.csv"),))
    assert data.validation.products == ["Sofa cover by Alder", "Compact couch by Birk"]


def test_hard_negatives_are_ids_as_well(files):
    row = {"query": "red sofa", "product_id": "P1", "hard_negatives": ["P3", "P2"]}
    other = {"query": "cover", "product_id": "P3", "hard_negatives": []}
    lines = "".join(json.dumps(one) + "\n" for one in (row, other))
    data = files(lines, name="judged.jsonl", product_id_column="product_id")
    parts = (data.train, data.validation)
    found = {q: n for part in parts for q, n in zip(part.queries, part.hard_negatives, strict=True)}
    assert found == {"red sofa": ["Sofa cover by Alder", "Corner sofa by"], "cover": []}


def test_an_id_that_is_not_in_the_catalogue_is_a_bad_row(files):
    judged = JUDGED + "red sofa,P9,1\nred sofa, p2,1\n"
    with pytest.raises(DataError) as refused:
        files(judged)
    assert "2 of 6 rows are bad:\n  2 x sku is not in the catalogue" in str(refused.value)
    assert "row 5 (line 6): sku is not in the catalogue: 'P9'" in str(refused.value)
    assert "row 6 (line 7): sku is not in the catalogue: ' p2'; the catalogue has 'P2'" in str(refused.value)
    said = []
    data = files(judged, on_bad_row="skip", said=said)
    assert len(data.train) + len(data.validation) == 4
    assert any("2 x sku is not in the catalogue" in line for line in said)


def test_ids_that_never_meet_show_both_sides(files):
    catalog = CATALOG.replace("P", "")
    with pytest.raises(DataError) as refused:
        files(JUDGED.replace("P", "0"), catalog)
    assert str(refused.value) == (
        "the judgements and the catalogue have no product id in common; both must use the same ids. In the "
        "judgements: '01', '02', '03'; in the catalogue: '1', '2', '3'. Written without leading zeros, 3 of "
        "them would match"
    )
    with pytest.raises(DataError) as refused:
        files(JUDGED.replace("P", "A-"), catalog)
    assert "In the judgements: 'A-1', 'A-2', 'A-3'; in the catalogue: '1', '2', '3'" in str(refused.value)
    assert "would match" not in str(refused.value)


def test_bad_rows_of_the_catalogue_follow_on_bad_row(files):
    twice = CATALOG + "P1,Another couch,Birk,1\n"
    with pytest.raises(DataError, match="'P1'"):
        files(shop=twice)
    said = []
    assert "Compact couch by Birk" in str(rows_of(files(shop=twice, on_bad_row="skip", said=said)))
    assert any(line.startswith("catalogue: 1 of 4 rows are bad") for line in said)


def test_judgements_by_id_without_a_catalogue_get_advice(files):
    with pytest.raises(DataError, match="training looks up the texts with --catalog"):
        files(JUDGED.replace("sku", "product_id"), **NO_CATALOG)
