"""`aisle package`: put a bundle, its index and settings of `serve` together, for a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisle.commands.command import Command
from aisle.commands.named_inputs import check_files, check_indexes
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, IndexDir, Json
from aisle.errors import ConfigError

if TYPE_CHECKING:
    from aisle.index import Manifest

PACKAGED = (
    "mode",
    "window",
    "workers",
    "batch_tokens",
    "max_waiting",
    "max_queries",
    "timeout_ms",
    "log_queries",
)
"""Settings of `serve` that a package may have; the container sets the others, or they name files."""


@dataclass(frozen=True)
class PackageSettings:
    """Put a bundle and its index together, for a container or a SageMaker endpoint.

    The package has the bundle, the current version of the index and settings of `aisle serve`. All checksums
    are compared, a query is answered, and a bundle that may not search the index is refused.
    """

    index_dir: IndexDir
    output: str
    """Folder of the package; with --sagemaker a file, such as model.tar.gz."""
    model: str | None = None
    """Bundle that `aisle export` wrote. If not given: the bundle that built the index."""
    sagemaker: bool = False
    """Write the compressed file that SageMaker unpacks in its containers. The same bundle, index and settings
    always give the same bytes."""
    serve_config: str | None = None
    """YAML file with settings of `aisle serve` in the container, such as mode, max_queries and timeout_ms."""
    overwrite: bool = False
    """Replace the package in --output, if there is one."""
    json: Json = False
    config: ConfigFile = None


def package_problems(settings: PackageSettings) -> list[str]:
    """Return a message for each combination of settings that cannot work."""
    if settings.sagemaker and not settings.output.endswith(".tar.gz"):
        return [f"--output {settings.output}: SageMaker takes a file whose name ends with .tar.gz"]
    if not settings.sagemaker and settings.output.endswith(".tar.gz"):
        return [f"--output {settings.output}: add --sagemaker for a compressed file, or give a folder"]
    return []


def package_inputs(settings: PackageSettings) -> None:
    """Check that the files exist, and that the package may be written.

    Raises:
        ConfigError: There is a package already, or something else.
    """
    check_indexes(settings.index_dir)
    check_files(settings.model, settings.serve_config)
    _check_output(Path(settings.output).expanduser(), settings)


def _check_output(output: Path, settings: PackageSettings) -> None:
    """Refuse an output that is no package, or a package that must stay; write nothing."""
    from aisle.io.folder_swap import why_irreplaceable
    from aisle.service.packages.served_package import PACKAGE_FILE, files_beside_package

    if not output.exists():
        return
    is_package = output.is_file() if settings.sagemaker else (output / PACKAGE_FILE).is_file()
    if not is_package and (settings.sagemaker or output.is_file() or any(output.iterdir())):
        raise ConfigError(f"--output {output}: exists and is no package; give another name")
    if is_package and not settings.overwrite:
        raise ConfigError(f"--output {output}: exists; give another name, or --overwrite to replace it")
    if settings.sagemaker:
        return
    reason = why_irreplaceable(output)
    if reason is not None:
        raise ConfigError(f"--output {output}: {reason}")
    others = files_beside_package(output)
    if others:
        raise ConfigError(
            f"--output {output}: contains files that do not belong to its package ({', '.join(others[:3])}) "
            "and that would be deleted; move them, or give another name"
        )


def package(settings: PackageSettings) -> None:
    """Check that the bundle and the index fit together, and write the package.

    Raises:
        AisleError: A file is damaged, the bundle may not search the index, a setting of `serve` is not valid,
            or the package cannot be written.
    """
    from aisle.bundle.bundle_file import read_bundle
    from aisle.config.load import yaml_text
    from aisle.service.packages.package_writer import (
        contents_size,
        package_contents,
        write_archive,
        write_folder,
    )
    from aisle.service.pairs.served_pair import PairSource, load_pair

    log = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    output = Path(settings.output).expanduser()
    serve = _serve_settings(settings.serve_config)
    bundle_dir = _bundle_dir(settings, index_dir)
    # With mode lexical no encoder is loaded, so a bundle that does not fit would not be noticed.
    for mode in dict.fromkeys(("dense", serve.get("mode", "dense"))):
        pair = load_pair(PairSource(index_dir, str(bundle_dir), mode=mode), log=log.log)
    contents = package_contents(
        version_dir=pair.index.directory,
        manifest=pair.index.manifest,
        bundle_dir=bundle_dir,
        bundle=read_bundle(bundle_dir),
        serve_yaml=yaml_text(serve) if serve else "",
    )
    unpacked = contents_size(contents)
    try:
        (write_archive if settings.sagemaker else write_folder)(contents, output)
    except OSError as error:
        raise ConfigError(
            f"--output {output}: cannot be written: {error}; its files take {unpacked:,} bytes unpacked"
        ) from error
    _report(log, output, pair.index.manifest, unpacked, serve)


def _serve_settings(path: str | None) -> dict[str, Any]:
    """Return the settings of `serve` for the package.

    Raises:
        ConfigError: The file is not valid, or has a setting of the machine.
    """
    from aisle.commands.serve import ServeSettings
    from aisle.config.load import read_yaml, settings_of_call

    if path is None:
        return {}
    given: Mapping[str, Any] = read_yaml(Path(path), flag="--serve_config")
    settings_of_call(ServeSettings, given, caller=f"--serve_config {path}")
    others = [name for name in given if name not in PACKAGED]
    if others:
        raise ConfigError(
            f"--serve_config {path}: {', '.join(others)}: not a setting of a package, which has "
            f"{', '.join(PACKAGED)}; leave it out"
        )
    return dict(given)


def _bundle_dir(settings: PackageSettings, index_dir: Path) -> Path:
    """Return the folder of the bundle.

    Raises:
        ConfigError: The model is no bundle.
    """
    from aisle.bundle.bundle_file import is_bundle
    from aisle.index import read_manifest

    name = settings.model or str(read_manifest(index_dir).encoder.get("model"))
    if not is_bundle(name):
        source = "--model" if settings.model is not None else f"{index_dir}: was built with"
        raise ConfigError(
            f"{source} {name}: a package has a bundle, which needs no torch; export the model with "
            f"`aisle export {name} --output_dir BUNDLE`, and give --model BUNDLE"
        )
    return Path(name).expanduser().resolve()


def _report(log: Output, output: Path, manifest: Manifest, unpacked: int, serve: Mapping[str, Any]) -> None:
    size = output.stat().st_size if output.is_file() else unpacked
    log.log(
        f"packaged version {manifest.version} with {manifest.count:,} products in {output}: "
        f"{size / 1e6:,.1f} MB, {unpacked / 1e6:,.1f} MB when it is unpacked"
    )
    log.document(
        {
            "output": str(output),
            "bytes": size,
            "unpacked_bytes": unpacked,
            "index_version": manifest.version,
            "products": manifest.count,
            "serve": dict(serve),
        }
    )


COMMAND = Command("package", PackageSettings, package, package_problems, package_inputs, extra="onnx")
