"""A bundle's files are checked before they are used; each problem is one message that names the file."""

import json
from dataclasses import replace

import pytest

from aisle.bundle.bundle_file import (
    check_cpu,
    contents_sha256,
    is_bundle,
    read_bundle,
    verify_checksums,
    write_bundle_file,
)
from aisle.bundle.bundle_record import Bundle, BundledTokenizer, BundledTower, BundleSource, GateResults
from aisle.errors import ModelError
from tests.edit_json import edit_json

DESCRIBED = Bundle(
    precision="fp32",
    towers=(BundledTower(sides=("query", "product"), graph="tower.onnx", dim=4),),
    pooling="mean",
    query_prompt="query: ",
    product_prompt="passage: ",
    max_length=32,
    normalize=True,
    tokenizer=BundledTokenizer(pad_token_id=0, unk_token_id=1),
    source=BundleSource(model="runs/shop", fingerprint="a" * 64, query_fingerprint="a" * 64),
    made_with={"aisle": "1"},
    gates=GateResults(
        passed=True, figures={"greatest_difference": 1e-6}, limits={"greatest_difference": 1e-4}
    ),
    accepted=False,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tower.onnx").write_bytes(b"graph of the tower")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    return tmp_path


def test_a_bundle_reads_as_it_was_written(folder):
    written = write_bundle_file(folder, DESCRIBED)

    assert read_bundle(folder) == written
    assert verify_checksums(folder, written) is None
    assert {name: file.bytes for name, file in written.files.items()} == {
        "tokenizer.json": 2,
        "tower.onnx": 18,
    }
    assert replace(written, files={}, towers=DESCRIBED.towers) == DESCRIBED
    assert (is_bundle(folder), is_bundle(folder / "tower.onnx"), is_bundle("all-MiniLM-L6-v2")) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"query_prompt": "q: "},
        {"max_length": 31},
        {"precision": "int8"},
        {"tokenizer": BundledTokenizer(pad_token_id=0, unk_token_id=1, truncation_side="left")},
    ],
)
def test_the_fingerprint_covers_what_determines_an_embedding(folder, changed):
    assert (
        write_bundle_file(folder, replace(DESCRIBED, **changed)).fingerprint
        != write_bundle_file(folder, DESCRIBED).fingerprint
    )


@pytest.mark.parametrize("name", ["tower.onnx", "tower.onnx.data", "tokenizer.json"])
def test_the_fingerprint_covers_graph_weights_and_tokenizer(folder, name):
    before = write_bundle_file(folder, DESCRIBED).fingerprint

    (folder / name).write_bytes(b"other")

    assert write_bundle_file(folder, DESCRIBED).fingerprint != before


def test_the_fingerprint_leaves_out_where_the_bundle_came_from(folder):
    moved = replace(DESCRIBED, source=replace(DESCRIBED.source, model="elsewhere"), made_with={"aisle": "2"})

    assert write_bundle_file(folder, moved).fingerprint == write_bundle_file(folder, DESCRIBED).fingerprint


def test_separate_towers_have_separate_fingerprints(folder):
    (folder / "query.onnx").write_bytes(b"graph of queries")
    towers = (
        BundledTower(sides=("query",), graph="query.onnx", dim=4),
        BundledTower(sides=("product",), graph="tower.onnx", dim=4),
    )
    shared = write_bundle_file(folder, DESCRIBED)

    separate = write_bundle_file(folder, replace(DESCRIBED, towers=towers))

    assert read_bundle(folder) == separate
    assert separate.fingerprint == shared.fingerprint != separate.query_fingerprint


def test_an_altered_file_is_named(folder):
    bundle = write_bundle_file(folder, DESCRIBED)
    (folder / "tower.onnx").write_bytes(b"graph of the towar")

    read_bundle(folder)
    with pytest.raises(ModelError, match=r"tower\.onnx: altered: .*export runs/shop again"):
        verify_checksums(folder, bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tower\.onnx: missing, and bundle.json records 18 bytes; restore the file, or export"),
        (b"graph of", r"tower\.onnx: truncated or altered: it has 8 bytes, and bundle.json records 18 bytes"),
    ],
)
def test_a_missing_or_truncated_file_is_named(folder, content, message):
    write_bundle_file(folder, DESCRIBED)
    path = folder / "tower.onnx"
    path.unlink() if content is None else path.write_bytes(content)

    with pytest.raises(ModelError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "reads bundles of format 2, found format 1; export the run again"),
        ({"query_prompt": "other"}, "it was altered; restore the file or export the run again"),
        ({"max_length": "32"}, "max_length: Input should be a valid integer, found '32'"),
        ({"precision": "bf16"}, "precision: Input should be 'fp32' or 'int8'"),
        ({"surplus": 1}, "surplus: Unexpected keyword argument"),
        ({"towers": []}, r"must read queries and products, each once, found \[\]"),
        ({"files": {}}, r"must list tokenizer\.json among its files"),
        ({"files": {"../x": {"sha256": "a" * 64, "bytes": 1}}}, "String should match pattern"),
        (
            {
                "gates": {
                    "passed": False,
                    "figures": {"worst": 0.5},
                    "limits": {"worst": 0.99},
                    "failed": ["worst"],
                }
            },
            r"failed a gate of its export \(worst 0\.5 \(limit 0\.99\)\), and nobody accepted",
        ),
    ],
)
def test_a_bundle_file_that_breaks_a_rule_is_refused(folder, changes, message):
    write_bundle_file(folder, DESCRIBED)
    edit_json(folder / "bundle.json", **changes)
    document = json.loads((folder / "bundle.json").read_text())
    del document["sha256"]
    edit_json(folder / "bundle.json", sha256=contents_sha256(document))

    with pytest.raises(ModelError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize("field", [*sorted(vars(DESCRIBED)), "sha256"])
def test_a_change_of_any_field_is_noticed(folder, field):
    write_bundle_file(folder, DESCRIBED)
    path = folder / "bundle.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document))  # the form does not matter
    read_bundle(folder)

    path.write_text(json.dumps({**document, field: altered(document[field])}))

    with pytest.raises(ModelError, match="it was altered; restore the file or export the run again"):
        read_bundle(folder)


def altered(value):
    """Return a value of the same type, with a change in its first part."""
    if isinstance(value, dict):
        first = next(iter(value), "new")
        return {**value, first: altered(value.get(first))}
    if isinstance(value, list):
        return [altered(value[0]), *value[1:]]
    return value + type(value)(1) if type(value) in (int, float, str) else not value


@pytest.mark.parametrize("content", ["{", "[]", "", '{"format_version": 2}'])
def test_a_damaged_bundle_file_is_refused(folder, content):
    (folder / "bundle.json").write_text(content)

    with pytest.raises(ModelError, match=r"bundle\.json: not a valid bundle: .*; restore the file or export"):
        read_bundle(folder)


def test_a_folder_without_bundle_file_is_no_bundle(folder):
    with pytest.raises(ModelError, match=r"a bundle has bundle\.json, found none; make one with"):
        read_bundle(folder)


def test_only_the_failed_gates_are_named(folder):
    failed = GateResults(
        passed=False,
        figures={"worst": 0.5, "mean": 0.9995, "texts": 9},
        limits={"worst": 0.99, "mean": 0.999},
        failed=("worst",),
    )

    bundle = write_bundle_file(folder, replace(DESCRIBED, gates=failed, accepted=True))

    assert read_bundle(folder).failed_gates == bundle.failed_gates == "worst 0.5 (limit 0.99)"


def test_a_bundle_that_passed_names_no_gate(folder):
    assert write_bundle_file(folder, DESCRIBED).failed_gates is None


def test_int8_is_refused_where_its_sums_may_be_wrong(monkeypatch):
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: "this CPU has no VNNI")

    check_cpu("fp32", name="bundles/mine")
    with pytest.raises(ModelError, match=r"^bundles/mine: this CPU has no VNNI, so sums of 8-bit products"):
        check_cpu("int8", name="bundles/mine")


def test_int8_is_allowed_where_its_sums_are_exact(monkeypatch):
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: None)

    check_cpu("int8", name="bundles/mine")
