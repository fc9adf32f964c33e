"""The base model of an encoder, and its embeddings of a catalogue, which processes share and reuse."""

import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from aisle.commands.evaluate import base_encoder
from aisle.commands.evaluate.base_encoder import base_of, cache_folder
from aisle.commands.indexing import catalog_embeddings as embeddings_file
from aisle.commands.indexing import embedding
from aisle.commands.indexing.catalog_embeddings import catalog_embeddings
from aisle.commands.output import Output
from aisle.errors import IndexStoreError
from aisle.index import build_index, open_index
from aisle.models.loading import load_encoder
from aisle.models.run_file import FORMAT_VERSION
from aisle.search.encoders import encoder_record
from aisle.training.process_group import Processes
from aisle.types.encoder_settings import Overrides
from tests.commands.evaluate.evaluated_shop import build, evaluate, write_adapter, write_shop

TEXTS = ["red sofa", "blue lamp", "oak table", "red sofa", "oak bed", "garden chair", "wool rug"]
SILENT = Output(silent=True)


@pytest.fixture
def products():
    return pa.table({"product_id": [f"p{row}" for row in range(len(TEXTS))], "__text__": TEXTS})


def embed(products, encoder, folder, processes=None):
    return catalog_embeddings(
        products, encoder, folder, precision="fp32", processes=processes or Processes(), output=SILENT
    )


def test_freed_memory_returns_to_the_system_after_every_few_shards(
    products, tiny_bert, tmp_path, monkeypatch
):
    trims = []
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 1)
    monkeypatch.setattr(embedding, "SHARDS_PER_TRIM", 2)
    monkeypatch.setattr(embedding, "return_free_memory", lambda: trims.append(True))

    embed(products, load_encoder(tiny_bert, device="cpu"), tmp_path)

    assert len(trims) == len(set(TEXTS)) // 2 > 0


def test_embeddings_are_in_the_order_of_the_texts(products, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 2)
    encoder = load_encoder(tiny_bert, device="cpu")
    found = embed(products, encoder, tmp_path)

    np.testing.assert_allclose(found, encoder.encode_products(TEXTS), atol=1e-6)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_processes_share_the_shards_and_write_the_same_file(products, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 2)
    shards = {}
    original = embeddings_file.embed_shards

    def told(plan, *arguments, process_index, **options):
        shards[process_index] = range(process_index, len(plan.keys), 2)
        original(plan, *arguments, process_index=process_index, **options)

    monkeypatch.setattr(embeddings_file, "embed_shards", told)
    barrier = threading.Barrier(2, timeout=30)
    state = SimpleNamespace(wait_for_everyone=barrier.wait)
    encoders = [load_encoder(tiny_bert, device="cpu") for _ in range(2)]
    found = {}

    def process(index):
        found[index] = embed(products, encoders[index], tmp_path, Processes(index, 2, None, state))

    helper = threading.Thread(target=process, args=(1,))
    helper.start()
    process(0)
    helper.join()
    expected = encoders[0].encode_products(TEXTS)
    for index in (0, 1):
        np.testing.assert_allclose(found[index], expected, atol=1e-6)
    assert {index: list(own) for index, own in shards.items()} == {0: [0, 2], 1: [1]}


def test_shards_of_a_killed_evaluation_are_reused(products, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 2)
    encoder = load_encoder(tiny_bert, device="cpu")
    with monkeypatch.context() as killed:
        killed.setattr(embeddings_file, "write_embeddings", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            embed(products, encoder, tmp_path)
    monkeypatch.setattr(type(encoder), "tokenize_products", lambda *_, **__: pytest.fail("embedded again"))
    found = embed(products, encoder, tmp_path)

    assert found.shape == (7, 32)


def test_the_base_of_a_run_has_the_settings_of_run_and_index(tiny_bert, tmp_path):
    saved = {"pooling": "cls", "query_prompt": "query: ", "product_prompt": "", "max_length": 9}
    saved |= {"normalize": True, "base_model": str(tiny_bert), "base_revision": "abc"}
    saved |= {"format_version": FORMAT_VERSION}
    (tmp_path / "aisle.json").write_text(json.dumps(saved))
    base = base_of(str(tmp_path), recorded={"max_length": 12, "query_prompt": None})

    assert (base.name, base.revision) == (str(tiny_bert), "abc")
    assert base.overrides.pooling == "cls"
    assert base.overrides.query_prompt == "query: "
    assert base.overrides.max_length == 12


def test_an_adapter_has_the_base_in_pefts_file_and_a_base_model_has_none(tiny_bert, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", tiny_bert)

    assert base_of(str(adapter)).name == str(tiny_bert)
    assert base_of(str(adapter), base_model="elsewhere").name == "elsewhere"
    assert base_of(str(tiny_bert)) is None


def test_base_embeddings_go_to_the_report_if_they_cannot_be_written_beside_the_index(tmp_path):
    (tmp_path / "index.base").write_text("a file stands in the way")

    assert cache_folder(tmp_path / "index", tmp_path / "report") == tmp_path / "report" / ".base"
    with pytest.raises(IndexStoreError, match="give --report a folder, or --base_model_row none"):
        cache_folder(tmp_path / "index", None)


@pytest.fixture
def shop(tmp_path, tiny_bert):
    files = write_shop(tmp_path)
    return files, ["--queries", files["queries"], "--qrels", files["qrels"]]


def test_an_index_without_texts_gives_the_row_tuned_and_notes_on_the_missing_rows(
    shop, tiny_bert, tmp_path, capfd
):
    adapter = write_adapter(tmp_path / "adapter", tiny_bert)
    built = open_index(build(adapter, shop[0]["catalog"], tmp_path / "index", "--precision", "fp32"))
    manifest = built.manifest
    build_index(
        tmp_path / "bare",
        product_ids=built.products.column("product_id").to_pylist(),
        payload=built.products.select(["title"]),
        embeddings=[np.asarray(built.embeddings)],
        dim=manifest.dim,
        fingerprint=manifest.fingerprint,
        encoder=manifest.encoder,
        text_template=None,
        threads=1,
    )
    code, found, said = evaluate(capfd, "--index_dir", tmp_path / "bare", *shop[1])

    assert code == 0
    assert [row["name"] for row in found["retrieval"]["rows"]] == ["tuned"]
    assert [note.split(":")[0] for note in found["notes"]][:3] == [
        "no row bm25",
        "no row hybrid",
        "no row base",
    ]
    assert all(note in said for note in found["notes"])
    for flags, start in ((["--rows", "base"], "--rows base: "), (["--mode", "hybrid"], "--mode hybrid: ")):
        code, _, said = evaluate(capfd, "--index_dir", tmp_path / "bare", *shop[1], *flags)
        assert code == 2
        assert f"error: {start}" in said


def test_a_missing_base_model_gives_a_note_that_names_the_flag(shop, tiny_bert, tmp_path, capfd):
    tuned = tmp_path / "full"
    shutil.copytree(tiny_bert, tuned)
    encoder = load_encoder(tiny_bert, device="cpu")
    saved = {**vars(encoder.settings), "base_model": str(tmp_path / "gone")}
    saved |= {"format_version": FORMAT_VERSION}
    (tuned / "aisle.json").write_text(json.dumps({**saved, "fingerprint": encoder.fingerprint}))
    index_dir = build(tuned, shop[0]["catalog"], tmp_path / "index")
    flags = ["--index_dir", index_dir, *shop[1], "--rows", "base", "tuned"]
    _, found, said = evaluate(capfd, *flags)

    assert [row["name"] for row in found["retrieval"]["rows"]] == ["tuned"]
    assert "no row base" in found["notes"][0]
    assert "--base_model_row" in said
    _, found, _ = evaluate(capfd, *flags, "--base_model_row", tiny_bert)
    assert "the very encoder of the index" in found["notes"][0]


def test_the_record_of_a_base_model_gives_its_precision_and_no_base(tiny_bert):
    record = encoder_record(
        model=str(tiny_bert),
        revision=None,
        base_model=None,
        precision="bf16",
        overrides=Overrides(),
    )
    encoder = load_encoder(tiny_bert, device="cpu")

    assert base_of(record["model"], recorded=record) is None
    assert base_encoder.precision_on(encoder, record["precision"]) == "bf16"
    assert base_encoder.precision_on(encoder, "int8") == "fp32"
    assert base_encoder.precision_on(encoder, None) == "fp32"
