"""Arguments of `aisle serve` in a container, from the variables that its image and SageMaker set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["PACKAGE", "container_arguments", "package_arguments"]

PACKAGE = "AISLE_PACKAGE"
"""Folder of the package to serve; deploy/Dockerfile sets it."""
MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
"""`true` in a SageMaker endpoint whose models are loaded on demand."""
BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"
"""Port to listen on, if a SageMaker endpoint has several containers."""
PORT = "8080"


def container_arguments(given: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the arguments of `serve`, after those of the container if they name no index.

    SageMaker starts the program with the argument `serve` only. The container's network decides who reaches
    it, so it listens on all addresses, and needs keys only with --api_key_file.

    Args:
        given: Arguments after `serve`; they win over those of the container.
        environment: Variables of the process.

    Raises:
        IndexIntegrityError: The folder in `AISLE_PACKAGE` is no package.
    """
    names = {word.partition("=")[0].replace("-", "_") for word in given}
    if names & {"__index_dir", "__follow", "__multi_model", "__help", "_h"}:
        return list(given)
    if environment.get(MULTI_MODEL, "").lower() == "true":
        served = ["--multi_model"]
    elif environment.get(PACKAGE):
        served = package_arguments(Path(environment[PACKAGE]))
    else:
        return list(given)
    access = [] if "__api_key_file" in names else ["--allow_anonymous"]
    port = environment.get(BIND_TO_PORT) or PORT
    return [*served, "--host", "0.0.0.0", "--port", port, *access, *given]


def package_arguments(folder: Path) -> list[str]:
    """Return the arguments that serve a package.

    Raises:
        IndexIntegrityError: The folder is no package.
    """
    from aisle.service.packages.served_package import BUNDLE_FOLDER, INDEX_FOLDER, SERVE_FILE, read_package

    read_package(folder)
    pair = ["--index_dir", str(folder / INDEX_FOLDER), "--model", str(folder / BUNDLE_FOLDER)]
    return ["--sagemaker", *pair, "--config", str(folder / SERVE_FILE)]
