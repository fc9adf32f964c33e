"""`aisle package`: the same bytes from the same contents, and no package of a pair that does not fit."""

import errno
import json
import os
import re
import shutil
import tarfile
from dataclasses import replace

import pytest

from aisle.bundle.bundle_record import BundleSource
from aisle.cli import main
from aisle.errors import IndexIntegrityError
from aisle.index import read_manifest
from aisle.service.packages import package_writer
from aisle.service.packages.served_package import read_package
from aisle.service.pairs.served_pair import PairSource, load_pair
from tests.bundle.small_bundle import SOURCE, write_small_bundle
from tests.service.served_shop import write_served_shop


def package(shop, output, *flags):
    given = ["package", "--index_dir", shop.index_dir, "--model", shop.bundle, "--output", output, *flags]
    return main([*map(str, given)])


def files_of(folder):
    """Return the content of every file by its path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def unpack(archive, folder):
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def test_a_package_has_the_bundle_the_current_version_and_the_settings(shop, tmp_path):
    assert package(shop, tmp_path / "folder") == 0
    assert package(shop, tmp_path / "model.tar.gz", "--sagemaker") == 0

    found = files_of(tmp_path / "folder")

    assert found == files_of(unpack(tmp_path / "model.tar.gz", tmp_path / "unpacked"))
    bundle = {f"bundle/{name}": content for name, content in files_of(shop.bundle).items()}
    assert {name: content for name, content in found.items() if name.startswith("bundle/")} == bundle
    index = files_of(shop.index_dir)
    assert found["index/manifest.json"] == found["index/versions/000001/manifest.json"]
    packaged, manifest = read_manifest(tmp_path / "folder" / "index"), read_manifest(shop.index_dir)
    assert packaged == replace(manifest, encoder={**manifest.encoder, "model": "./bundle"})
    assert set(found) - set(bundle) == {
        "package.json",
        "serve.yaml",
        *(f"index/{name}" for name in index if name not in {"lock"}),
    }


def test_a_package_answers_as_its_index_does_where_neither_bundle_nor_index_is_any_more(shop, tmp_path):
    package(shop, tmp_path / "model.tar.gz", "--sagemaker")
    folder = unpack(tmp_path / "model.tar.gz", tmp_path / "opt")

    pair = load_pair(PairSource(folder / "index", str(folder / "bundle")))

    expected = shop.pair().searcher.search(["red lamp"], 8)
    found = pair.searcher.search(["red lamp"], 8)
    assert found[0] == expected[0]
    record = read_package(folder)
    assert (record.index_version, record.products) == (1, 8)
    assert record.model_fingerprint == shop.encoder.query_fingerprint


def test_a_package_names_no_folder_of_the_machine_that_wrote_it(minilm_dir, tmp_path, monkeypatch):
    places = {"model": str(tmp_path / "runs" / "mine"), "base_model": str(tmp_path / "models" / "base")}
    source = BundleSource(fingerprint=SOURCE, query_fingerprint=SOURCE, **places)
    built = write_served_shop(tmp_path / "built", minilm_dir, source=source)
    assert str(tmp_path) in (built.index_dir / "manifest.json").read_text()

    assert package(built, tmp_path / "package") == 0

    found = files_of(tmp_path / "package")
    assert [name for name, content in found.items() if str(tmp_path).encode() in content] == []
    recorded = json.loads(found["bundle/bundle.json"])["source"]
    assert (recorded["model"], recorded["base_model"]) == ("mine", "base")
    shutil.move(tmp_path / "built", tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "package")
    assert main(["query", "--index_dir", "index", "lamp"]) == 0


def test_the_same_contents_give_the_same_bytes_whatever_their_times_order_and_modes(shop, tmp_path):
    package(shop, tmp_path / "first.tar.gz", "--sagemaker")
    copied = type(shop)(tmp_path / "copied-bundle", tmp_path / "copied-index", shop.encoder)
    for source, target in ((shop.bundle, copied.bundle), (shop.index_dir, copied.index_dir)):
        for path in sorted(source.rglob("*"), reverse=True):
            if path.is_file():
                place = target / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
                os.utime(place, (10**9, 10**9))
                place.chmod(0o600)
    before = os.umask(0o077)
    try:
        package(copied, tmp_path / "second.tar.gz", "--sagemaker")
        package(copied, tmp_path / "folder")
    finally:
        os.umask(before)

    first = (tmp_path / "first.tar.gz").read_bytes()
    assert first == (tmp_path / "second.tar.gz").read_bytes()
    # The header of gzip (RFC 1952): no name of the file, and no time, which two runs in a second share.
    assert first[:8] == b"\x1f\x8b\x08\x00" + bytes(4)
    with tarfile.open(tmp_path / "first.tar.gz") as packed:
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in packed} == {(0, 0, 0, "")}
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert modes == {"0o644"}
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_only_the_current_version_is_packaged(shop, tmp_path):
    index_dir = tmp_path / "index"
    shutil.copytree(shop.index_dir, index_dir)
    assert main(["delete", "--index_dir", str(index_dir), "p000"]) == 0
    changed = type(shop)(shop.bundle, index_dir, shop.encoder)

    assert package(changed, tmp_path / "folder") == 0

    versions = [path.name for path in (tmp_path / "folder" / "index" / "versions").iterdir()]
    assert versions == ["000002"]
    assert (
        load_pair(PairSource(tmp_path / "folder" / "index", str(tmp_path / "folder" / "bundle"))).version == 2
    )


def test_a_bundle_of_another_model_is_refused(shop, minilm_dir, tmp_path, capsys):
    write_small_bundle(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    other = type(shop)(tmp_path / "other", shop.index_dir, shop.encoder)

    assert package(other, tmp_path / "folder") == 2
    assert package(other, tmp_path / "model.tar.gz", "--sagemaker", "--serve_config", lexical(tmp_path)) == 2

    assert "was exported from runs/shop with fingerprint bbbb" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"other", "serve.yaml"}


def lexical(tmp_path):
    """Write settings with which the server would load no model, and so would not compare it."""
    (tmp_path / "serve.yaml").write_text("mode: lexical\n")
    return tmp_path / "serve.yaml"


@pytest.mark.parametrize("name", ["index/versions/000001/embeddings.npy", "bundle/tower.onnx"])
def test_a_damaged_file_is_refused(name, shop, tmp_path, capsys):
    shutil.copytree(shop.bundle, tmp_path / "bundle")
    shutil.copytree(shop.index_dir, tmp_path / "index")
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)

    assert package(type(shop)(tmp_path / "bundle", tmp_path / "index", None), tmp_path / "folder") == 2

    assert f"{tmp_path / name}: altered" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_a_model_that_is_no_bundle_is_refused_with_the_command_that_exports_it(
    shop, tiny_bert, tmp_path, capsys
):
    given = type(shop)(tiny_bert, shop.index_dir, None)

    assert package(given, tmp_path / "folder") == 2

    assert f"export the model with `aisle export {tiny_bert} --output_dir BUNDLE`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "flags", "message"),
    [
        ("model.tar", ["--sagemaker"], "SageMaker takes a file whose name ends with .tar.gz"),
        ("model.tar.gz", [], "add --sagemaker for a compressed file, or give a folder"),
        ("other", [], "exists and is no package; give another name"),
        ("package", [], "exists; give another name, or --overwrite to replace it"),
    ],
)
def test_an_output_that_cannot_take_the_package_is_refused(output, flags, message, shop, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    package(shop, tmp_path / "package")
    before = files_of(tmp_path)

    assert package(shop, tmp_path / output, *flags) == 2

    assert message in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_a_package_is_replaced_if_asked(shop, tmp_path):
    (tmp_path / "serve.yaml").write_text("mode: hybrid\n")
    package(shop, tmp_path / "package", "--serve_config", tmp_path / "serve.yaml")

    assert package(shop, tmp_path / "package", "--overwrite") == 0

    assert (tmp_path / "package" / "serve.yaml").read_text() == ""
    assert {path.name for path in tmp_path.iterdir()} == {"package", "serve.yaml"}


@pytest.mark.parametrize(
    "name", ["notes.txt", "bundle/notes.txt", "index/notes.txt", "index/versions/000001/notes.txt"]
)
def test_a_package_with_other_files_is_not_replaced(name, shop, tmp_path, capsys):
    package(shop, tmp_path / "package")
    (tmp_path / "package" / name).write_text("mine")
    before = files_of(tmp_path)

    assert package(shop, tmp_path / "package", "--overwrite") == 2

    assert f"do not belong to its package ({name}) and that would be deleted" in capsys.readouterr().err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("output", ["package", "model.tar.gz"])
def test_a_full_disk_leaves_nothing_behind(output, shop, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(package_writer.shutil, "copyfile", full)
    monkeypatch.setattr(package_writer.tarfile.TarFile, "addfile", full)

    assert package(shop, tmp_path / output, *(["--sagemaker"] if output.endswith("gz") else [])) == 2

    shown = capsys.readouterr().err
    assert f"--output {tmp_path / output}: cannot be written: [Errno 28] No space" in shown
    assert re.search(r"; its files take [\d,]{5,} bytes unpacked$", shown.strip())
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_server_are_checked_and_packaged(shop, tmp_path, capsys):
    path = tmp_path / "serve.yaml"
    path.write_text("mode: hybrid\nmax_queries: 64\n")
    assert package(shop, tmp_path / "package", "--serve_config", path) == 0
    assert (tmp_path / "package" / "serve.yaml").read_text() == "mode: hybrid\nmax_queries: 64\n"

    for text, message in (
        ("host: 0.0.0.0\nport: 1\n", "host, port: not a setting of a package, which has mode, window"),
        ("max_querys: 64\n", "did you mean 'max_queries'?"),
        ("max_queries: 0\n", "max_queries: input should be greater than or equal to 1"),
        ("- mode\n", "--serve_config"),
    ):
        path.write_text(text)
        assert package(shop, tmp_path / "refused", "--serve_config", path) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_the_result_is_printed_as_json(shop, tmp_path, capsys):
    package(shop, tmp_path / "model.tar.gz", "--sagemaker", "--json")

    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == (tmp_path / "model.tar.gz").stat().st_size
    unpacked = files_of(unpack(tmp_path / "model.tar.gz", tmp_path / "unpacked"))
    assert found["unpacked_bytes"] == sum(map(len, unpacked.values()))
    assert (found["index_version"], found["products"], found["serve"]) == (1, 8, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "serves packages of format 1, found format 2"),
        ({"index_fingerprint": "0" * 64}, "records the index 000000000000, and index/ holds"),
        ({"products": -1}, "not the record of a package"),
        ({"more": 1}, "not the record of a package"),
    ],
)
def test_another_record_is_refused(change, message, shop, tmp_path):
    package(shop, tmp_path / "package")
    path = tmp_path / "package" / "package.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(IndexIntegrityError, match=message):
        read_package(tmp_path / "package")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_record_that_is_no_json_object_is_refused(content, tmp_path):
    (tmp_path / "package.json").write_bytes(content)

    with pytest.raises(IndexIntegrityError, match="not the record of a package"):
        read_package(tmp_path)


def test_a_folder_without_a_package_is_refused(tmp_path):
    with pytest.raises(IndexIntegrityError, match="must be the folder of a package"):
        read_package(tmp_path)
