"""versions, info and verify from the command line."""

from dataclasses import replace

import pytest

from aisle.cli import index_main
from aisle.index import read_manifest
from aisle.index.integrity import file_record
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import INDEX_FILES, write_manifest
from tests.commands.array_index import COUNT, ask, write_index


@pytest.fixture
def built(tmp_path):
    return write_index(tmp_path / "index")


@pytest.fixture
def index_dir(built, tmp_path):
    return tmp_path / "index"


def version_dir(index_dir, number=1):
    return index_dir / "versions" / f"{number:06d}"


def rewrite(index_dir, **changes):
    """Change the manifest of version 1, with a valid checksum."""
    manifest = replace(read_manifest(index_dir), **changes)
    write_manifest(index_dir / "manifest.json", manifest)
    write_manifest(version_dir(index_dir) / "manifest.json", manifest)


def test_versions_are_listed_with_what_made_them(index_dir, built, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")

    code, document, said = ask(capfd, "versions", "--index_dir", index_dir)

    first, second = document["versions"]
    assert code == 0
    assert first == {
        "version": 1,
        "current": False,
        "parent": None,
        "command": "build",
        "created": built.created,
        "products": COUNT,
        "ann_recall@10": built.ann_recall_at_10,
        "bytes": first["bytes"],
        "problem": None,
    }
    assert (second["version"], second["current"], second["command"]) == (2, True, "delete")
    assert (second["parent"], document["keep_versions"]) == (1, 3)
    assert second["products"] == COUNT - 1
    rows = [line.split() for line in said.splitlines()]
    assert [row[:3] for row in rows if row[-1:] == ["current"]] == [["2", "1", "delete"]]
    assert built.created[:10] in said


def test_a_removed_parent_is_marked_and_the_table_fits_80_columns(index_dir, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for product_id in ("p001", "p002"):
        ask(capfd, "delete", "--index_dir", index_dir, product_id, "--keep_versions", 2)

    _, document, said = ask(capfd, "versions", "--index_dir", index_dir)

    assert [version["parent"] for version in document["versions"]] == [1, 2]
    rows = [line.split() for line in said.splitlines() if line.split()[:1] in (["2"], ["3"])]
    assert [row[:4] for row in rows] == [["2", "1", "gone", "delete"], ["3", "2", "delete", rows[1][3]]]
    assert rows[1][-1] == "current"
    assert "…" not in said


def test_sizes_are_those_on_disk_and_shared_files_count_once(index_dir, built, capfd):
    own = sum(record.size for record in built.files.values())
    ask(capfd, "tune", "--index_dir", index_dir)

    _, document, _ = ask(capfd, "versions", "--index_dir", index_dir)

    sizes = [version["bytes"] for version in document["versions"]]
    on_disk = {path.stat().st_ino: path.stat().st_size for path in index_dir.rglob("*") if path.is_file()}
    assert sizes[0] == own + (version_dir(index_dir) / "manifest.json").stat().st_size
    assert document["bytes"] == sum(on_disk.values())
    assert document["bytes"] < sum(sizes)


def test_a_version_that_cannot_be_read_is_listed_with_the_reason(index_dir, capfd):
    ask(capfd, "tune", "--index_dir", index_dir)
    (version_dir(index_dir) / "manifest.json").write_text("{")

    code, document, said = ask(capfd, "versions", "--index_dir", index_dir)

    assert code == 0
    assert "manifest" in document["versions"][0]["problem"]
    assert document["versions"][0]["products"] is None
    assert document["versions"][1]["problem"] is None
    assert "damaged" in said


def test_info_shows_the_contents_of_the_manifest(index_dir, built, capfd):
    code, document, _ = ask(capfd, "info", "--index_dir", index_dir)

    assert code == 0
    assert document["current"] is True
    assert document["version"] == 1
    assert document["ann_recall@10"] == built.ann_recall_at_10
    assert document["encoder"] == built.encoder
    assert [point["ef_search"] for point in document["recall_curve"]] == [
        point.ef_search for point in built.recall_curve
    ]
    assert document["columns"] == {"title": "string", "price": "int64"}
    assert document["files"]["graph.bin"]["sha256"] == built.files["graph.bin"].sha256


def test_info_for_people_names_encoder_graph_columns_and_curve(index_dir, built, capfd):
    assert index_main(["info", "--index_dir", str(index_dir)]) == 0

    shown = " ".join(capfd.readouterr().out.split())
    assert "1 (current), made by build" in shown
    assert "encoder shop/encoder" in shown
    assert "precision 'fp32'" in shown
    assert "revision" not in shown
    assert "{title}" in shown
    assert "title string, price int64" in shown
    assert f"{COUNT} nodes and 0 of deleted products, M 16, ef_construction 200" in shown
    assert f"ef_search {built.ef_search}, for a recall of 0.98" in shown
    point = built.recall_curve[-1]
    assert f"{point.ef_search} {point.recall:.4f} {point.milliseconds:.3f}" in shown


def test_info_shows_an_older_version(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")

    _, document, said = ask(capfd, "info", "--index_dir", index_dir, "--version", 1)

    assert "(current)" not in said
    assert (document["version"], document["count"], document["current"]) == (1, COUNT, False)


def test_info_recommends_compact_where_it_is_due(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, *[f"p{row:03d}" for row in range(60)])

    _, document, said = ask(capfd, "info", "--index_dir", index_dir)

    assert "30%" in document["wants_compacting"]
    assert "aisle compact" in said


@pytest.mark.parametrize(
    ("damage", "flags", "part"),
    [
        (lambda folder: None, ["--version", 9], "--version 9"),
        (lambda folder: (folder / "products.arrow").unlink(), [], "products.arrow"),
        (lambda folder: (folder / "manifest.json").write_text("{"), ["--version", 1], "manifest.json"),
    ],
)
def test_info_of_a_missing_index_or_version_is_refused(index_dir, capfd, damage, flags, part):
    damage(version_dir(index_dir))

    code, document, said = ask(capfd, "info", "--index_dir", index_dir, *flags)

    assert (code, document) == (2, None)
    assert part in said


def test_a_whole_index_is_ok_with_its_recall_measured_again(index_dir, built, capfd):
    code, document, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == 0
    assert document["ok"] is True
    assert [version["ann_recall@10"] for version in document["versions"]] == [built.ann_recall_at_10]
    assert "version 1: OK" in said


def test_recall_is_measured_at_the_index_s_own_ef_search(tmp_path, capfd):
    write_index(tmp_path / "index", count=500, M=4, ef_construction=8, ef_search=400)
    _, at_ten, _ = ask(capfd, "tune", "--index_dir", tmp_path / "index", "--ef_search", 10)
    ask(capfd, "rollback", "--index_dir", tmp_path / "index")

    code, document, _ = ask(capfd, "verify", "--index_dir", tmp_path / "index")

    assert code == 0
    assert document["versions"][0]["ann_recall@10"] > at_ten["ann_recall@10"] + 0.05


@pytest.mark.parametrize("name", [*INDEX_FILES, "graph.bin", "lexical/words.npy"])
def test_an_altered_file_is_found_and_named(index_dir, capfd, name):
    file = version_dir(index_dir) / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    code, document, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == 2
    assert document["ok"] is False
    assert str(file) in document["versions"][0]["problem"]
    assert f"error: {file}: altered" in said
    assert "OK" not in said


@pytest.mark.parametrize("manifest", ["manifest.json", "versions/000001/manifest.json"])
@pytest.mark.parametrize("damage", [lambda file: file.write_text("{}"), lambda file: file.unlink()])
def test_a_damaged_manifest_is_found(index_dir, capfd, manifest, damage):
    damage(index_dir / manifest)

    code, _, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == 2
    assert str((index_dir / manifest).parent) in said


def test_a_manifest_that_matches_no_version_is_found(index_dir, capfd):
    write_manifest(index_dir / "manifest.json", replace(read_manifest(index_dir), ef_search=77))

    code, _, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == 2
    assert "differs from" in said


@pytest.mark.parametrize(("off_by", "expected"), [(0.005, 0), (0.02, 2)])
def test_a_recall_that_differs_from_the_manifest_is_found(index_dir, built, capfd, off_by, expected):
    rewrite(index_dir, ann_recall_at_10=built.ann_recall_at_10 - off_by)

    code, document, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == expected
    assert document["versions"][0]["ann_recall@10"] == built.ann_recall_at_10
    assert ("graph.bin" in said) == (expected == 2)


def test_words_of_another_number_of_products_are_found(index_dir, capfd):
    folder = version_dir(index_dir)
    Bm25Index.build(["chair"]).save(folder / "lexical")
    files = read_manifest(index_dir).files
    rewrite(index_dir, files={name: file_record(folder / name) for name in files})

    code, _, said = ask(capfd, "verify", "--index_dir", index_dir)

    assert code == 2
    assert "lexical" in said


def test_older_versions_are_checked_when_all_are_asked_for(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")
    (version_dir(index_dir, 1) / "graph.bin").write_bytes(b"x")

    assert ask(capfd, "verify", "--index_dir", index_dir)[0] == 0
    code, document, said = ask(capfd, "verify", "--index_dir", index_dir, "--all_versions")

    assert code == 2
    assert [(version["version"], version["ok"]) for version in document["versions"]] == [
        (1, False),
        (2, True),
    ]
    assert str(version_dir(index_dir, 1) / "graph.bin") in said
    assert "version 2: OK" in said
