"""Write an encoder as a bundle: export its towers, measure the gates, put the folder in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from aisle.bundle.bundle_file import BUNDLE_FILE, TOKENIZER_FILE, check_cpu, write_bundle_file
from aisle.bundle.bundle_record import (
    Bundle,
    BundledTokenizer,
    BundledTower,
    BundlePrecision,
    BundleSource,
    GateResults,
)
from aisle.bundle.onnx_encoder import load_bundle
from aisle.errors import ConfigError, ModelError
from aisle.export.gates import check_tokens, failures, measure
from aisle.export.int8_onnx import int8_copy
from aisle.export.onnx_graph import OPSET, traceable_copy, write_graph
from aisle.export.sample_texts import SampleTexts
from aisle.io.durable import apply_umask, sync
from aisle.io.folder_swap import put_in_place, why_irreplaceable
from aisle.io.recorded_files import other_files
from aisle.io.staged_folder import staged_folder
from aisle.models.encoder import TorchEncoder
from aisle.models.tower import Tower
from aisle.text.rust_tokenizers import rust_backend
from aisle.text.tokens import SIDES, Side
from aisle.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
NOT_MEASURED = GateResults(passed=False, figures={}, limits={})


@dataclass(frozen=True)
class ExportOptions:
    """Choices of an export.

    Args:
        precision: Number type of the graphs.
        sample: Texts on which the bundle is compared with its source.
        accept: Whether to write a bundle that fails a gate.
        overwrite: Whether to replace a bundle.
    """

    precision: BundlePrecision
    sample: SampleTexts
    accept: bool = False
    overwrite: bool = False


def check_bundle_dir(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with other files, or with a bundle that must stay; write nothing.

    Raises:
        ConfigError: The folder cannot take the bundle.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--output_dir {folder}: is a file; give a folder")
    reason = why_irreplaceable(folder)
    if reason is not None:
        raise ConfigError(f"--output_dir {folder}: {reason}")
    names = sorted(path.name for path in folder.iterdir())
    if names and BUNDLE_FILE not in names:
        raise ConfigError(
            f"--output_dir {folder}: contains other files ({', '.join(names[:3])}); give another folder"
        )
    if names and not overwrite:
        raise ConfigError(
            f"--output_dir {folder}: contains another bundle; give another folder, or "
            "--overwrite_output_dir to replace it"
        )
    others = other_files(folder, records=[BUNDLE_FILE])
    if names and others:
        raise ConfigError(
            f"--output_dir {folder}: contains files that its {BUNDLE_FILE} does not list "
            f"({', '.join(others[:3])}) and that would be deleted; move them, or give another folder"
        )


def write_bundle(
    encoder: TorchEncoder, folder: Path, options: ExportOptions, *, base_model: str | None = None
) -> Bundle:
    """Export an encoder, compare the bundle with it, and return the contents of `bundle.json`.

    Everything is written to a folder beside `folder`, which is renamed at the end.

    Args:
        encoder: Encoder on CPU, in fp32, with adapters merged.
        folder: Folder of the bundle.
        options: Precision, sample texts, and what to do about failed gates and an earlier bundle.
        base_model: Base model of the run, if it is one.

    Raises:
        ConfigError: The folder cannot take the bundle, or cannot be written.
        ModelError: The encoder cannot be exported, its towers have different tokenizers or settings, this CPU
            cannot compute what the gates measure, or the bundle fails a gate that is not accepted.
    """
    check_bundle_dir(folder, overwrite=options.overwrite)
    check_cpu(options.precision, name="--precision int8")
    _check_towers_alike(encoder)
    with bundle_staging(folder) as staging:
        tokenizer = write_tokenizer(encoder.name, encoder.tokenizer, staging / TOKENIZER_FILE)
        towers = _write_towers(encoder, staging, options.precision)
        settings = encoder.settings
        bundle = Bundle(
            precision=options.precision,
            towers=towers,
            pooling=settings.pooling,
            query_prompt=settings.query_prompt,
            product_prompt=settings.product_prompt,
            max_length=settings.max_length,
            normalize=settings.normalize,
            tokenizer=tokenizer,
            source=_source(encoder, base_model),
            made_with={"aisle": __version__, "opset": OPSET, **{name: version(name) for name in PACKAGES}},
            gates=NOT_MEASURED,
            accepted=False,
        )
        write_bundle_file(staging, bundle)
        gates = _measured(encoder, staging, options)
        bundle = write_bundle_file(staging, replace(bundle, gates=gates, accepted=not gates.passed))
        apply_umask(staging)
        for path in staging.iterdir():
            sync(path)
        check_bundle_dir(folder, overwrite=options.overwrite)  # it may have changed since
        put_in_place(staging, folder)
    return bundle


def _check_towers_alike(encoder: TorchEncoder) -> None:
    """Refuse towers with different tokenizers or settings: a bundle has one tokenizer for both.

    Raises:
        ModelError: The towers differ.
    """
    if not encoder.model.separate_sides:
        return
    backends = [rust_backend(encoder.tokenizer_of(side)) for side in SIDES]
    values = {
        "tokenizers": [backend and backend.to_str() for backend in backends],
        "maximum lengths": [encoder.max_length_of(side) for side in SIDES],
        "poolings": [encoder.model.tower(side).pooling.mode for side in SIDES],
    }
    differing = [name for name, (query, product) in values.items() if query != product]
    if differing:
        raise ModelError(
            f"{encoder.name}: its towers have different {' and '.join(differing)}, and a bundle has one for "
            f"both; export them one by one: {encoder.name}/query and {encoder.name}/product"
        )


def _write_towers(
    encoder: TorchEncoder, folder: Path, precision: BundlePrecision
) -> tuple[BundledTower, ...]:
    """Write the graph of each tower."""
    model, max_length = encoder.model, encoder.settings.max_length
    names: dict[str, tuple[Side, ...]] = (
        {"query.onnx": ("query",), "product.onnx": ("product",)}
        if model.separate_sides
        else {"tower.onnx": ("query", "product")}
    )
    for name, sides in names.items():
        tower = model.tower(sides[0])
        copied = int8_copy(tower, max_length=max_length) if precision == "int8" else traceable_copy(tower)
        check_space(copied, folder)
        write_graph(copied, folder / name, max_length=max_length)
    return tuple(BundledTower(sides=sides, graph=name, dim=model.dim) for name, sides in names.items())


def write_tokenizer(name: str, tokenizer: Any, path: Path) -> BundledTokenizer:
    """Write `tokenizer.json` without padding and truncation, and return the settings that it leaves out.

    Args:
        name: Name of the model, for the message.
        tokenizer: Its tokenizer.
        path: File to write.

    Raises:
        ModelError: The tokenizer runs its own Python code.
    """
    backend = rust_backend(tokenizer)
    if backend is None:
        raise ModelError(
            f"{name}: its tokenizer, {type(tokenizer).__name__}, runs its own Python code, which a "
            "bundle cannot contain. Convert it to a tokenizer.json, or serve the model with torch"
        )
    copied = Tokenizer.from_str(backend.to_str())
    copied.no_padding()
    copied.no_truncation()
    path.write_text(copied.to_str(), encoding="utf-8")
    return BundledTokenizer(tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.truncation_side)


def _source(encoder: TorchEncoder, base_model: str | None) -> BundleSource:
    local = Path(encoder.name).expanduser()
    if encoder.fingerprint is None or encoder.query_fingerprint is None:
        raise ModelError(f"{encoder.name}: was never saved, so it has no fingerprint; save it first")
    return BundleSource(
        model=str(local.resolve()) if local.exists() else encoder.name,
        fingerprint=encoder.fingerprint,
        query_fingerprint=encoder.query_fingerprint,
        base_model=base_model,
        revision=encoder.revision,
    )


def _measured(encoder: TorchEncoder, folder: Path, options: ExportOptions) -> GateResults:
    """Return the figures of the bundle in a folder.

    Raises:
        ModelError: A gate fails and that is not accepted, or the tokens differ.
    """
    exported = load_bundle(folder, unmeasured=True)
    texts = check_tokens(encoder, exported, options.sample)
    gates = measure(encoder, exported, options.sample, options.precision)
    gates = replace(gates, figures={**gates.figures, "texts_with_equal_tokens": texts})
    failed = failures(gates, options.precision)
    if failed and not options.accept:
        raise ModelError(
            f"{encoder.name}: the {options.precision} bundle differs too much from the model: "
            f"{'; '.join(failed)}. Give --accept to write it nevertheless, which bundle.json records"
        )
    return gates


@contextmanager
def bundle_staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside the bundle's, and remove it in the end if it is still there.

    Raises:
        ConfigError: The system refuses to write.
    """
    before = ""
    try:
        with staged_folder(folder) as staging:
            # Not after the error: libraries remove the file that did not fit.
            before = f"; {shutil.disk_usage(staging).free:,} bytes were free on that disk before"
            yield staging
    except OSError as error:
        raise ConfigError(f"--output_dir {folder}: cannot be written: {error}{before}") from error


def check_space(tower: Tower, staging: Path) -> None:
    """Refuse to write the weights of a tower to a disk that is too full for them.

    Raises:
        ConfigError: The weights need more bytes than are free.
    """
    needed, free = weight_bytes(tower), shutil.disk_usage(staging).free
    if needed > free:
        raise ConfigError(
            f"--output_dir: the disk of {staging.parent} is too full: the weights of a graph take about "
            f"{needed:,} bytes, and {free:,} are free; free some space, or give a folder on another disk"
        )


def weight_bytes(tower: Tower) -> int:
    """Return the bytes of a tower's weights, about the size of the file that they are written to."""
    return sum(weights.nbytes for weights in (*tower.parameters(), *tower.buffers()))
