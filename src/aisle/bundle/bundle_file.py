"""Read, check and write `bundle.json`, which describes an exported encoder and its files.

A bundle is a folder: a graph for each tower, `tokenizer.json` and `bundle.json`. The graph's input is
`input_ids`, (texts, tokens) int64, and all texts of a call have the same number of tokens; its output is
`embeddings`, (texts, dim) float32, unit L2 norm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aisle.bundle.bundle_record import Bundle, BundledFile, BundledTower, BundlePrecision, Reads
from aisle.errors import ModelError
from aisle.io.durable import file_sha256, replace_text
from aisle.io.json_object import InvalidJsonError, read_object, record_of
from aisle.io.record_schema import record_validator
from aisle.system.cpu_features import why_int8_saturates
from aisle.types.encoder_protocol import Precision

__all__ = [
    "BUNDLE_FILE",
    "DATA_SUFFIX",
    "FORMAT_VERSION",
    "INPUT",
    "OUTPUT",
    "TOKENIZER_FILE",
    "bundle_text",
    "check_cpu",
    "check_precision",
    "contents_sha256",
    "is_bundle",
    "read_bundle",
    "verify_checksums",
    "write_bundle_file",
]

FORMAT_VERSION = 2
BUNDLE_FILE = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
DATA_SUFFIX = ".data"
"""End of the name of the file with the weights of a graph."""
INPUT = "input_ids"
OUTPUT = "embeddings"

CHECKSUM = "sha256"
"""Field of `bundle.json` with the SHA-256 of all others."""

OTHER_KIND: dict[Reads, str] = {
    "texts": "is the bundle of an encoder, which gives embeddings; --reranker takes that of a reranker",
    "pairs": "is the bundle of a reranker, which has no embeddings; give it as --reranker",
}
_VALIDATOR = record_validator(Bundle)


def is_bundle(model: str | Path) -> bool:
    """Return whether a model's name is the folder of a bundle."""
    return (Path(model).expanduser() / BUNDLE_FILE).is_file()


def write_bundle_file(folder: Path, bundle: Bundle) -> Bundle:
    """Write `bundle.json` with the checksums of all files in the folder, and return its contents.

    Call it last: it reads every graph and the tokenizer.

    Raises:
        OSError: A file cannot be read or written.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != BUNDLE_FILE]
    files = {path.name: BundledFile(file_sha256(path), path.stat().st_size) for path in paths}
    bundle = replace(bundle, files=files)
    towers = tuple(replace(tower, fingerprint=_fingerprint(bundle, tower)) for tower in bundle.towers)
    bundle = replace(bundle, towers=towers)
    replace_text(folder / BUNDLE_FILE, bundle_text(bundle))
    return bundle


def bundle_text(bundle: Bundle) -> str:
    """Return the text of `bundle.json`, with a SHA-256 of its contents."""
    document = {"format_version": FORMAT_VERSION, **asdict(bundle)}
    document[CHECKSUM] = contents_sha256(document)
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_bundle(folder: Path, *, unmeasured: bool = False, reads: Reads = "texts") -> Bundle:
    """Return the contents of `bundle.json`, after a check of every file's size.

    `verify_checksums` detects changed bytes. It is separate because it reads every file (0.1 s for 100 MB),
    which can be done while the graph is loaded.

    Args:
        folder: Folder of the bundle.
        unmeasured: Whether the gates may be missing, as in the bundle that an export is about to measure.
        reads: What the graphs must read: texts of an encoder, or pairs of a reranker.

    Raises:
        ModelError: The bundle is of the other kind; the file is missing, damaged or of another format; a file
            of the bundle is missing or has another size; or the bundle failed its gates, and nobody accepted
            that, or was never measured.
    """
    path = folder / BUNDLE_FILE
    bundle = _parsed(path)
    if bundle.reads != reads:
        raise ModelError(f"{folder}: {OTHER_KIND[bundle.reads]}")
    _check_sides(path, bundle)
    for name in (TOKENIZER_FILE, *(tower.graph for tower in bundle.towers)):
        if name not in bundle.files:
            raise _damaged(path, f"it must list {name} among its files")
    for tower in bundle.towers:
        found = _fingerprint(bundle, tower)
        if tower.fingerprint != found:
            raise _damaged(
                path,
                f"the tower {tower.graph} is recorded with fingerprint {tower.fingerprint[:12] or 'none'}, "
                f"and the settings have {found[:12]}: it was altered",
            )
    if not unmeasured:
        _check_gates(folder, bundle)
    for name, recorded in bundle.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != recorded.bytes:
            problem = "missing" if size is None else f"truncated or altered: it has {size} bytes"
            raise ModelError(
                f"{file}: {problem}, and {BUNDLE_FILE} records {recorded.bytes} bytes; {_mend(bundle)}"
            )
    return bundle


def verify_checksums(folder: Path, bundle: Bundle, names: Iterable[str] | None = None) -> None:
    """Compare the SHA-256 of files with the record.

    Args:
        folder: Folder of the bundle.
        bundle: Contents of `bundle.json`.
        names: Names of the files; None compares all.

    Raises:
        ModelError: A file was altered or cannot be read.
    """
    for name in bundle.files if names is None else names:
        recorded = bundle.files[name]
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read: {error}; check its permissions") from None
        if found != recorded.sha256:
            raise ModelError(
                f"{folder / name}: altered: its SHA-256 is {found[:12]}..., and {BUNDLE_FILE} records "
                f"{recorded.sha256[:12]}...; {_mend(bundle)}"
            )


def _check_sides(path: Path, bundle: Bundle) -> None:
    """Refuse towers that do not read each side once, or whose embeddings have different lengths."""
    sides = sorted(side for tower in bundle.towers for side in tower.sides)
    if sides != ["product", "query"]:
        raise _damaged(path, f"its towers must read queries and products, each once, found {sides}")
    if bundle.tower("query").dim != bundle.tower("product").dim:
        raise _damaged(path, "its towers must give embeddings of the same length")


def check_precision(bundle: Bundle, precision: Precision | None, *, name: str, flag: str) -> None:
    """Refuse a precision other than the bundle's; None is the bundle's.

    Args:
        bundle: Bundle to compute with.
        precision: Precision to compute in.
        name: Name of the bundle, for the message.
        flag: Name of the argument, for the message.

    Raises:
        ModelError: The bundle computes in another precision.
    """
    if precision not in (None, bundle.precision):
        raise ModelError(
            f"{flag} {precision}: {name} is a bundle that computes in {bundle.precision}; "
            f"leave it out, or export the run in {precision}"
        )


def check_cpu(precision: BundlePrecision, *, name: str) -> None:
    """Refuse int8 on a CPU where the embeddings may be wrong.

    Args:
        precision: Number type of a bundle's graphs.
        name: Name of the bundle or of the flag, for the message.

    Raises:
        ModelError: The CPU may give wrong sums.
    """
    reason = why_int8_saturates() if precision == "int8" else None
    if reason is not None:
        raise ModelError(
            f"{name}: {reason}, so sums of 8-bit products may be wrong; use a CPU with VNNI (Intel since "
            "Cascade Lake, AMD since Zen 4) or an ARM CPU, or export in fp32"
        )


def contents_sha256(document: dict[str, Any]) -> str:
    """Return the SHA-256 of the fields of `bundle.json` other than the checksum, however they are written."""
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _parsed(path: Path) -> Bundle:
    """Return the contents of a bundle's file, unaltered and with the right fields and types."""
    try:
        document = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path.parent}: a bundle has {BUNDLE_FILE}, found none; make one with `aisle export`"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}; check its permissions") from None
    except InvalidJsonError as error:
        raise _damaged(path, str(error)) from None
    recorded, version = document.pop(CHECKSUM, None), document.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path}: this aisle reads bundles of format {FORMAT_VERSION}, found format {version}; "
            "export the run again with this aisle, or load the bundle with the aisle that made it"
        )
    if recorded != contents_sha256(document):
        raise _damaged(path, f"its {CHECKSUM} must be that of its other fields: it was altered")
    del document["format_version"]
    try:
        bundle: Bundle = record_of(document, _VALIDATOR)
    except InvalidJsonError as error:
        raise _damaged(path, str(error)) from None
    return bundle


def _check_gates(folder: Path, bundle: Bundle) -> None:
    """Refuse a bundle that failed its gates, unless that was accepted, or was never measured."""
    if bundle.gates.passed:
        return
    if not bundle.gates.figures:
        raise ModelError(f"{folder}: its export was stopped before it was measured; export again")
    if not bundle.accepted:
        raise ModelError(
            f"{folder}: failed a gate of its export ({bundle.failed_gates}), and nobody accepted that; "
            "export again with --accept to use it nevertheless"
        )


def _fingerprint(bundle: Bundle, tower: BundledTower) -> str:
    """Return the hash of everything that determines the embeddings of a tower's graph."""
    graph: Sequence[str] = (tower.graph, tower.graph + DATA_SUFFIX)
    parts = {
        "graph": [bundle.files[name].sha256 for name in graph if name in bundle.files],
        "tokenizer": [bundle.files[TOKENIZER_FILE].sha256, asdict(bundle.tokenizer)],
        "settings": asdict(bundle.settings),
        "precision": bundle.precision,
        "dim": tower.dim,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(f"{path}: not a valid bundle: {found}; restore the file or export the run again")


def _mend(bundle: Bundle) -> str:
    return f"restore the file, or export {bundle.source.model} again"
