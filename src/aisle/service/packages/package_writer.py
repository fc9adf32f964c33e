"""Write a package as a folder or as a model.tar.gz; the same contents always give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from aisle.bundle.bundle_file import BUNDLE_FILE, bundle_text
from aisle.bundle.bundle_record import Bundle
from aisle.index.layout import MANIFEST_FILE, version_directory
from aisle.index.manifest import Manifest, manifest_text
from aisle.io.durable import replacing, sync
from aisle.io.folder_swap import put_in_place
from aisle.io.staged_folder import staged_folder
from aisle.service.packages.served_package import (
    BUNDLE_FOLDER,
    INDEX_FOLDER,
    PACKAGE_FILE,
    SERVE_FILE,
    PackageRecord,
    package_text,
)
from aisle.version import __version__

__all__ = ["Contents", "contents_size", "package_contents", "write_archive", "write_folder"]

Contents: TypeAlias = Mapping[str, Path | bytes]
"""Path in the package to the file, or to its content."""
FILE_MODE = 0o644
FOLDER_MODE = 0o755
COMPRESSION = 1
"""Level of gzip. Embeddings hardly shrink at any level; this one takes a fifth of the default's time."""


def package_contents(
    *, version_dir: Path, manifest: Manifest, bundle_dir: Path, bundle: Bundle, serve_yaml: str
) -> dict[str, Path | bytes]:
    """Return the files of a package: the current version of an index, a bundle, and settings of `serve`.

    The manifest and `bundle.json` record the model by its folder on this machine. The package's manifest
    names its own bundle instead, from the package's folder, and its `bundle.json` has the last part of the
    folder's name.

    Args:
        version_dir: Folder of the version.
        manifest: Manifest of the version.
        bundle_dir: Folder of the bundle.
        bundle: Contents of its `bundle.json`.
        serve_yaml: Settings of `aisle serve`, as YAML.
    """
    manifest = _with_tower_of_bundle(manifest)
    encoder = {**manifest.encoder, "model": f"./{BUNDLE_FOLDER}", "base_model": None, "revision": None}
    described = manifest_text(replace(manifest, encoder=encoder)).encode()
    base_model = bundle.source.base_model
    source = replace(
        bundle.source,
        model=_without_folders(bundle.source.model),
        base_model=None if base_model is None else _without_folders(base_model),
    )
    record = PackageRecord(
        index_version=manifest.version,
        index_fingerprint=hashlib.sha256(described).hexdigest(),
        model_fingerprint=bundle.query_fingerprint,
        products=manifest.count,
        made_with=__version__,
    )
    version = version_directory(Path(INDEX_FOLDER), manifest.version).as_posix()
    return {
        PACKAGE_FILE: package_text(record).encode(),
        SERVE_FILE: serve_yaml.encode(),
        f"{INDEX_FOLDER}/{MANIFEST_FILE}": described,
        f"{version}/{MANIFEST_FILE}": described,
        **{f"{version}/{name}": version_dir / name for name in manifest.files},
        f"{BUNDLE_FOLDER}/{BUNDLE_FILE}": bundle_text(replace(bundle, source=source)).encode(),
        **{f"{BUNDLE_FOLDER}/{name}": bundle_dir / name for name in bundle.files},
    }


def _with_tower_of_bundle(manifest: Manifest) -> Manifest:
    """Return the manifest without a query tower in the version's folder, which the bundle has built in.

    `load_pair` has checked that the bundle has that query tower.
    """
    if manifest.query_adapter is None or manifest.query_adapter.kind != "lora":
        return manifest
    files = {name: file for name, file in manifest.files.items() if name not in manifest.adapter_files}
    return replace(manifest, files=files, query_adapter=None)


def _without_folders(model: str) -> str:
    """Return the last part of a path of this machine; a Hub id stays as it is."""
    return Path(model).name if Path(model).is_absolute() else model


def contents_size(contents: Contents) -> int:
    """Return the bytes of all files."""
    return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in contents.values())


def write_folder(contents: Contents, folder: Path) -> None:
    """Write a package as a folder, which takes the place of an earlier one in the end.

    Everyone may read the files: a container may run as another user.

    Raises:
        OSError: A file cannot be read or written; an earlier folder stays as it was.
    """
    with staged_folder(folder) as staging:
        for name in _folders(contents):
            (staging / name).mkdir()
        for name, file in contents.items():
            path = staging / name
            if isinstance(file, bytes):
                path.write_bytes(file)
            else:
                shutil.copyfile(file, path)
            path.chmod(FILE_MODE)
            sync(path)
        for made in (staging, *(staging / name for name in _folders(contents))):
            made.chmod(FOLDER_MODE)
        put_in_place(staging, folder)


def write_archive(contents: Contents, path: Path) -> None:
    """Write a package as a tar file compressed with gzip, without times, users and order of the disk.

    Raises:
        OSError: A file cannot be read or written; an earlier file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as beside,
        beside.open("wb") as raw,
        gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _folders(contents):
            archive.addfile(_entry(name, tarfile.DIRTYPE, FOLDER_MODE))
        for name, file in sorted(contents.items()):
            entry = _entry(name, tarfile.REGTYPE, FILE_MODE)
            if isinstance(file, bytes):
                entry.size = len(file)
                archive.addfile(entry, io.BytesIO(file))
            else:
                entry.size = file.stat().st_size
                with file.open("rb") as source:
                    archive.addfile(entry, source)


def _folders(contents: Contents) -> list[str]:
    """Return the folders of all files, each before those in it."""
    parents = {parent.as_posix() for name in contents for parent in PurePosixPath(name).parents}
    return sorted(parents - {"."})


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    """Return a member of the archive that belongs to root and was changed in 1970."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry
