"""upsert from the command line, on a tiny model."""

import json
import tempfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aisle.cli import index_main
from aisle.commands.upsert.run import Changes, count_changes
from aisle.index import index_writer, open_index, read_manifest
from aisle.index.layout import version_directory
from aisle.index.manifest import MANIFEST_FILE, write_manifest
from aisle.models.encoder import TorchEncoder
from aisle.types.columns import ID_COLUMN
from tests.commands.array_index import ask, write_index
from tests.commands.conftest import write_rows

HEADER = ["sku", "title", "brand", "price"]
SHOP = [
    ("a", "red sofa", "Acme", 10),
    ("b", "blue lamp", "Acme", 20),
    ("c", "oak table", "Zenith", 30),
    ("d", "oak bed", "Zenith", 40),
]
HOURLY = [
    ("a", "red sofa", "Acme", 10),
    ("b", "blue lamp", "Acme", 25),
    ("c", "walnut table", "Zenith", 30),
    ("e", "wool rug", "Zenith", 50),
    ("f", "wool rug", "Zenith", 60),
]


@pytest.fixture
def shop(tiny_bert, tmp_path, capfd):
    """Build an index of SHOP, or of other rows, and return its folder."""

    def build(*flags, rows=SHOP, header=HEADER, output="index"):
        catalog = write_rows(tmp_path / "shop.csv", header, rows)
        given = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / output, "--threads", 1]
        given += ["--id_column", "sku", "--text_template", "{title} {brand}", "--precision", "fp32"]
        assert index_main(["build", *map(str, given), *map(str, flags)]) == 0, capfd.readouterr().err
        return tmp_path / output

    return build


@pytest.fixture
def upsert(tmp_path, capfd):
    """Run `infer_index.py upsert` with rows; return its exit code, its JSON document and its log."""

    def run(index_dir, rows, *flags, header=HEADER, name="hourly.csv"):
        catalog = write_rows(tmp_path / name, header, rows)
        return ask(capfd, "upsert", "--index_dir", index_dir, "--catalog", catalog, "--threads", 1, *flags)

    return run


def products_of(index_dir):
    """Return {id: (payload, embedding)} of the current version."""
    index = open_index(index_dir)
    ids = index.products.column(ID_COLUMN).to_pylist()
    payload = index.payload(np.arange(len(index)))
    return {name: (fields, row) for name, fields, row in zip(ids, payload, index.embeddings, strict=True)}


def test_an_upsert_reports_added_replaced_and_unchanged_products(shop, upsert):
    code, document, said = upsert(shop(), HOURLY)

    assert code == 0
    assert (document["added"], document["replaced"], document["unchanged"]) == (2, 2, 1)
    assert (document["products"], document["version"], document["bad_rows"]) == (6, 2, 0)
    assert "2 added, 2 replaced, 1 unchanged" in said


def test_the_upserted_index_equals_that_of_the_merged_catalogue(shop, upsert):
    index_dir = shop()
    upsert(index_dir, HOURLY)

    merged = {row[0]: row for row in [*SHOP, *HOURLY]}
    found, expected = products_of(index_dir), products_of(shop(rows=merged.values(), output="fresh"))
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name][0] == expected[name][0]
        np.testing.assert_allclose(found[name][1], expected[name][1], atol=1e-5)


def test_a_new_product_is_found_by_its_text_at_once(shop, upsert, capfd):
    index_dir = shop()
    upsert(index_dir, HOURLY)

    _, answers, _ = ask(capfd, "query", "--index_dir", index_dir, "--top_k", 2, "wool rug Zenith")

    assert [result["product_id"] for result in answers[0]["results"]] == ["e", "f"]
    assert answers[0]["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_only_new_texts_are_embedded_each_once(shop, upsert, embedded):
    index_dir = shop()
    embedded.clear()

    upsert(index_dir, HOURLY)

    # b has a new price and its old text.
    assert sorted(embedded) == ["walnut table Zenith", "wool rug Zenith"]


def test_products_keep_their_embeddings_to_the_bit_in_a_float16_store(shop, upsert):
    index_dir = shop("--store_dtype", "float16")
    before = products_of(index_dir)

    upsert(index_dir, HOURLY)

    after = products_of(index_dir)
    assert after["b"][0]["price"] == 25
    assert after["b"][1].dtype == np.float16
    for name in ("a", "b", "d"):
        np.testing.assert_array_equal(after[name][1], before[name][1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_are_embedded_in_the_precision_of_the_index(shop, upsert, monkeypatch, precision):
    index_dir = shop("--precision", precision)
    used = []
    encode = TorchEncoder.encode_parts

    def encode_and_note(encoder, *parts, **options):
        used.append(options["precision"])
        return encode(encoder, *parts, **options)

    monkeypatch.setattr(TorchEncoder, "encode_parts", encode_and_note)
    upsert(index_dir, HOURLY)

    assert used == [precision]


def test_a_catalogue_without_changes_makes_no_version_and_loads_no_encoder(shop, upsert, monkeypatch):
    index_dir = shop()
    monkeypatch.setattr("aisle.commands.upsert.run.encoder_of_index", lambda *_, **__: pytest.fail("loaded"))

    code, document, _ = upsert(index_dir, SHOP)

    assert code == 0
    assert (document["unchanged"], document["version"]) == (4, 1)
    assert read_manifest(index_dir).version == 1


def test_many_replaced_products_recommend_compact(shop, upsert):
    index_dir = shop()

    _, document, said = upsert(
        index_dir, [(name, f"new {title}", brand, price) for name, title, brand, price in SHOP]
    )

    assert document["wants_compacting"] is not None
    assert f"aisle compact --index_dir {index_dir}" in said.replace("\n", "")


def test_a_column_of_texts_stays_one_when_the_new_values_look_like_numbers(shop, upsert):
    header = ["sku", "title", "brand", "size"]
    index_dir = shop(rows=[("a", "red shirt", "Acme", "M"), ("b", "blue shirt", "Acme", "42")], header=header)

    code, document, _ = upsert(
        index_dir, [("b", "blue shirt", "Acme", "42"), ("c", "hat", "Acme", "7")], header=header
    )

    assert code == 0
    assert (document["added"], document["unchanged"]) == (1, 1)
    assert products_of(index_dir)["c"][0]["size"] == "7"


def test_texts_that_look_like_decimals_are_kept_to_the_letter(shop, upsert):
    sized = [(*row, size) for row, size in zip(SHOP, ("L", "1.5", "XL", "2"), strict=True)]
    index_dir = shop(rows=sized, header=[*HEADER, "size"])

    code, _, _ = upsert(index_dir, [("a", "red sofa", "Acme", 10, "1.50")], header=[*HEADER, "size"])

    assert code == 0
    assert products_of(index_dir)["a"][0]["size"] == "1.50"


def test_texts_are_not_read_as_numbers_to_fit_the_index(shop, upsert):
    code, _, said = upsert(shop(), [("e", "wool rug", "Zenith", "007")])

    assert code == 2
    assert "'007'" in said


def test_a_column_of_another_type_is_refused_before_anything_is_embedded(shop, upsert, embedded):
    index_dir = shop()
    embedded.clear()

    code, document, said = upsert(index_dir, [("e", "wool rug", "Zenith", "cheap")])

    assert (code, document) == (2, None)
    assert "price is not a number, as the column is in the index (int64)" in said
    assert "'cheap'" in said
    assert embedded == []
    assert read_manifest(index_dir).version == 1


@pytest.fixture
def int8_index(shop):
    """Build an index, and record int8 in it, as earlier versions of aisle did for models on torch."""
    index_dir = shop()
    manifest = read_manifest(index_dir)
    recorded = replace(manifest, encoder={**manifest.encoder, "precision": "int8"})
    for folder in (index_dir, version_directory(index_dir, 1)):
        write_manifest(folder / MANIFEST_FILE, recorded)
    return index_dir


def test_an_index_in_int8_without_a_bundle_is_searched_but_gets_no_new_texts(int8_index, upsert, capfd):
    price_change, new_text = [("a", "red sofa", "Acme", 11)], [("e", "wool rug", "Zenith", 50)]

    assert ask(capfd, "query", "--index_dir", int8_index, "red sofa")[0] == 0
    assert upsert(int8_index, price_change)[0] == 0
    code, document, said = upsert(int8_index, new_text)

    assert (code, document) == (2, None)
    assert f"{int8_index}: its products were embedded in int8 without a bundle" in said
    assert "build the index again without --precision int8" in said
    assert read_manifest(int8_index).version == 2


@pytest.mark.parametrize("flags", [["--precision", "fp32"], []])
def test_a_rebuild_of_an_index_in_int8_without_a_bundle_embeds_everything(
    flags, int8_index, tiny_bert, tmp_path, capfd
):
    given = ["--model", tiny_bert, "--catalog", tmp_path / "shop.csv", "--index_dir", int8_index]
    given += ["--id_column", "sku", "--text_template", "{title} {brand}", "--threads", 1, *flags]

    code, _, said = ask(capfd, "build", *given)

    assert code == 0
    assert "embedded again: those of version 1 were computed in int8, which needs a bundle now" in said
    assert read_manifest(int8_index).encoder["precision"] == "fp32"


def test_bad_rows_are_refused_or_left_out_as_asked(shop, upsert):
    index_dir = shop()
    rows = [("e", "wool rug", "Zenith", 50), ("", "ghost", "Zenith", 1), ("e", "again", "Zenith", 2)]

    code, _, said = upsert(index_dir, rows)
    assert code == 2
    assert "sku" in said

    code, document, _ = upsert(index_dir, rows, "--on_bad_row", "skip")
    assert code == 0
    assert (document["added"], document["bad_rows"]) == (1, 2)


def test_a_catalogue_with_another_name_for_the_ids_can_be_read(shop, upsert):
    code, document, _ = upsert(
        shop(),
        [("e", "wool rug", "Zenith", 50)],
        "--id_column",
        "code",
        header=["code", "title", "brand", "price"],
    )

    assert code == 0
    assert document["added"] == 1


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--text_template", "{title}"], "{title} {brand}"),
        (["--id_column", "ean"], "ean"),
        (["--max_tokens", "1"], "--max_tokens"),
        (["--model", "absent/model"], "absent/model"),
    ],
)
def test_settings_that_do_not_fit_the_index_are_refused(shop, upsert, flags, part):
    index_dir = shop()

    code, document, said = upsert(index_dir, HOURLY, *flags)

    assert (code, document) == (2, None)
    assert part in said
    assert read_manifest(index_dir).version == 1


def test_the_template_of_the_build_may_be_given_again(shop, upsert):
    assert upsert(shop(), HOURLY, "--text_template", "{title} {brand}")[0] == 0


def test_another_encoder_is_refused_with_both_named(shop, upsert, tiny_model, tiny_bert):
    index_dir = shop()
    other = tiny_model("roberta")

    code, _, said = upsert(index_dir, HOURLY, "--model", other)

    assert code == 2
    assert str(other) in said
    assert str(tiny_bert) in said
    assert read_manifest(index_dir).version == 1


def test_an_upsert_into_an_index_of_pairs_is_refused_with_the_flags_to_give(
    tiny_bert, upsert, tmp_path, capfd
):
    pairs = write_rows(
        tmp_path / "pairs.csv",
        ["query", "product", "product_id"],
        [("sofa", "red sofa", "a"), ("rug", "rug", "b")],
    )
    index_dir = tmp_path / "of-pairs"
    flags = ["--model", tiny_bert, "--pairs", pairs, "--index_dir", index_dir, "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0
    rows, header = [("b", "rug"), ("c", "desk")], ["id", "product"]

    code, _, said = upsert(index_dir, rows, header=header)
    assert code == 2
    assert "--id_column and --text_template" in said

    code, _, said = upsert(index_dir, rows, "--id_column", "id", header=header)
    assert code == 2
    assert "give --text_template" in said

    code, document, _ = upsert(
        index_dir, rows, "--id_column", "id", "--text_template", "{product}", header=header
    )
    assert code == 0
    assert (document["added"], document["unchanged"]) == (1, 1)


def test_a_locked_index_is_refused_before_anything_is_embedded(shop, upsert, embedded):
    index_dir = shop()
    embedded.clear()

    with index_writer(index_dir, command="build"):
        code, _, said = upsert(index_dir, HOURLY)

    assert code == 2
    assert "build, process" in said
    assert embedded == []


def test_an_upsert_needs_a_catalogue(shop, capfd):
    code, _, said = ask(capfd, "upsert", "--index_dir", shop())

    assert code == 2
    assert "--catalog" in said


def test_nothing_stays_in_the_temporary_folder(shop, upsert, tmp_path, monkeypatch):
    index_dir = shop()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    assert upsert(index_dir, HOURLY)[0] == 0
    assert upsert(index_dir, [("e", "rug", "Zenith", "cheap")])[0] == 2
    assert list(temporary.iterdir()) == []


def test_the_outcome_is_logged_as_text(shop, tmp_path, capfd):
    index_dir = shop()
    catalog = write_rows(tmp_path / "hourly.csv", HEADER, HOURLY)
    capfd.readouterr()

    assert index_main(["upsert", "--index_dir", str(index_dir), "--catalog", str(catalog)]) == 0

    shown = capfd.readouterr().out
    assert "catalogue: 5 products, 2 added, 2 replaced, 1 unchanged" in shown
    assert "index: 6 products" in shown
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown)


def table(ids, **columns):
    return pa.table({ID_COLUMN: pa.array(ids, pa.string()), **columns})


def test_changes_are_counted_by_value_over_all_columns():
    old = table(["a", "b", "c", "d"], price=[1, 2, None, 4], gone=["x", None, None, None])
    new = table(["d", "c", "b", "a", "e"], price=[4.0, None, 2.5, 1.0, 5.0], more=[None, None, None, None, 1])

    # a loses `gone`, b has another price, c and d are equal as numbers and nulls are, e is new.
    assert count_changes(old, new) == Changes(added=1, replaced=2, unchanged=2)


def test_equal_nans_and_lists_are_not_changes():
    old = table(["a", "b"], weight=[float("nan"), 1.0], tags=[["new"], ["sale", "red"]])
    new = table(["b", "a"], weight=[1.0, float("nan")], tags=[["sale"], ["new"]])

    assert count_changes(old, new) == Changes(added=0, replaced=1, unchanged=1)


def test_more_rows_than_are_compared_at_a_time_are_counted(monkeypatch):
    monkeypatch.setattr("aisle.commands.upsert.run.COMPARED_ROWS", 3)
    ids = [f"p{row}" for row in range(10)]

    changes = count_changes(table(ids, price=range(10)), table(ids[::-1], price=[*range(9, 4, -1), *[0] * 5]))

    assert changes == Changes(added=0, replaced=4, unchanged=6)


def test_texts_of_an_index_without_texts_are_not_compared():
    old = table(["a"], price=[1])
    new = table(["a"], __text__=["red sofa"], price=[1])

    assert count_changes(old, new) == Changes(added=0, replaced=0, unchanged=1)


def test_an_index_without_texts_can_be_upserted_into(tmp_path, upsert, tiny_bert):
    from aisle.models.loading import load_encoder

    encoder = load_encoder(tiny_bert, device="cpu")
    write_index(
        tmp_path / "index",
        count=2,
        dim=encoder.dim,
        embeddings=[encoder.encode_products(["chair 0", "chair 1"])],
        texts=None,
        fingerprint=encoder.fingerprint,
        encoder={"model": str(tiny_bert), "precision": "fp32"},
    )

    code, document, _ = upsert(
        tmp_path / "index", [("p001", "chair 1", 1), ("p002", "desk", 2)], "--id_column", "sku",
        header=["sku", "title", "price"],
    )  # fmt: skip

    assert code == 0
    assert (document["added"], document["unchanged"], document["products"]) == (1, 1, 3)


def test_the_reason_for_padded_texts_is_printed(shop, tmp_path, capfd, monkeypatch):
    index_dir = shop()
    capfd.readouterr()
    monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **__: "bert cannot be packed")
    catalog = write_rows(tmp_path / "new.csv", HEADER, HOURLY)

    assert (
        index_main(["upsert", "--index_dir", str(index_dir), "--catalog", str(catalog), "--threads", "1"])
        == 0
    )

    printed = " ".join("".join(capfd.readouterr()).split())
    assert printed.count("which is slower: bert cannot be packed") == 1
