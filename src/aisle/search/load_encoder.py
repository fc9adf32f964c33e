"""Load an encoder of either kind: a bundle on ONNX Runtime, anything else on torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from aisle.bundle.bundle_file import is_bundle
from aisle.errors import ModelError
from aisle.types.encoder_settings import Overrides

if TYPE_CHECKING:
    from aisle.bundle.onnx_encoder import OnnxEncoder
    from aisle.models.encoder import TorchEncoder

__all__ = ["LoadedEncoder", "extra_for", "load_encoder", "refuse_changes"]

LoadedEncoder: TypeAlias = "TorchEncoder | OnnxEncoder"
"""An encoder that was loaded from files."""


def extra_for(model: str | Path) -> Literal["onnx", "encode"]:
    """Return the extra that an encoder needs."""
    return "onnx" if is_bundle(model) else "encode"


def load_encoder(
    model: str | Path,
    *,
    base_model: str | Path | None = None,
    overrides: Overrides | None = None,
    revision: str | None = None,
    token: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedEncoder:
    """Load the encoder of a run, an adapter, a base model or an exported bundle.

    A bundle needs the extra `onnx` only, and torch is not imported. Everything else needs the extra `encode`.

    Args:
        model: Folder or Hub id of a run, a PEFT adapter or a base model, or the folder of a bundle.
        base_model: Base model of an adapter, if its configuration names no base model, or an old path.
        overrides: Settings that override those in the files.
        revision: Branch, tag or commit on the Hub.
        token: Token for gated and private repositories.
        device: Type of device, `cuda`, `cpu`, ...; None takes the accelerator if the machine has one. A
            bundle always computes on the CPU.
        trust_remote_code: Whether to run Python code from the model's repository.

    Raises:
        ModelError: Files are missing, altered, do not fit together or are not safetensors; or an argument
            would change a bundle.
        OptionalDependencyError: The extra is not installed.
    """
    if is_bundle(model):
        from aisle.bundle.onnx_encoder import load_bundle

        refuse_changes(model, base_model=base_model, overrides=overrides, revision=revision)
        return load_bundle(model)

    from aisle.models.loading import load_encoder as load_on_torch

    return load_on_torch(
        model,
        base_model=base_model,
        overrides=overrides,
        revision=revision,
        token=token,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def refuse_changes(
    model: str | Path,
    *,
    base_model: str | Path | None,
    overrides: Overrides | None,
    revision: str | None,
) -> None:
    """Refuse arguments that would change a bundle.

    Raises:
        ModelError: One of the arguments is given.
    """
    changes = {"base_model": base_model, "model_revision": revision, **vars(overrides or Overrides())}
    given = [f"--{name}" for name, value in changes.items() if value is not None]
    if given:
        raise ModelError(
            f"{' and '.join(given)}: {model} is a bundle, whose settings and weights are fixed; leave the "
            "flags out, or export the run again with them"
        )
