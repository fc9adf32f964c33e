"""`aisle merge`: merge a run's adapter into its base model, for programs that do not use PEFT."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.named_inputs import check_models
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    HubToken,
    Json,
    ModelRevision,
    OverwriteOutputDir,
    TrustRemoteCode,
)
from aisle.config.annotations import Positional
from aisle.errors import ConfigError

if TYPE_CHECKING:
    from aisle.models.model_source import ModelSource


@dataclass(frozen=True)
class MergeSettings:
    """Merge a run's adapter into its base model.

    The result is a folder that transformers and sentence-transformers load without PEFT, with the same
    embeddings and prompts. Its weights are in float32.
    """

    model: Positional[str]
    """Run of `aisle train`, or a PEFT adapter, as a folder or a Hub id. A run of all weights and a base model
    have no adapter; they are copied in the same form."""
    output_dir: str
    """Folder of the merged model."""
    base_model: AdapterBase = None
    model_revision: ModelRevision = None
    overwrite_output_dir: OverwriteOutputDir = False
    hub_token: HubToken = field(default=None, repr=False)
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def merge_inputs(settings: MergeSettings) -> None:
    """Check that the model and its base model exist, if they are given as folders."""
    check_models(settings.model, settings.base_model)


def merge(settings: MergeSettings) -> str:
    """Write the merged model and return its fingerprint.

    Raises:
        AisleError: The model cannot be loaded, or the folder cannot be written; the folder is unchanged.
    """
    from aisle.commands.train.run_dir import METRICS, SETTINGS, check_model_dir
    from aisle.commands.write_model import write_model
    from aisle.models.merging import MERGED_FROM, merge_model
    from aisle.models.model_source import find_model
    from aisle.reporting.model_card import read_settings

    run_dir = Path(settings.output_dir)
    output = Output(json_only=settings.json)
    quieten_libraries()
    source = find_model(settings.model, revision=settings.model_revision, token=settings.hub_token)
    _check_not_replaced(run_dir, source)
    check_model_dir(run_dir, overwrite=settings.overwrite_output_dir)
    model = merge_model(
        source,
        base_model=settings.base_model,
        token=settings.hub_token,
        trust_remote_code=settings.trust_remote_code,
    )
    _check_not_replaced(run_dir, model.base)
    if model.note is not None:
        output.log(model.note)
    fingerprint = write_model(
        model,
        run_dir,
        settings=read_settings(source.path / SETTINGS),
        metrics=read_settings(source.path / METRICS),
        same_as=source.path,
    )
    merged_from = model.lineage[MERGED_FROM]
    what = "copied" if merged_from["kind"] in ("run of all weights", "base model") else "merged"
    output.log(f"{what} the {merged_from['kind']} {settings.model}; saved to {run_dir}")
    output.document({"run_dir": str(run_dir), MERGED_FROM: dict(merged_from), "fingerprint": fingerprint})
    return fingerprint


def _check_not_replaced(run_dir: Path, source: ModelSource) -> None:
    """Refuse to write into the folder of the model to merge, or of its base model."""
    if run_dir.expanduser().resolve() in (source.path.resolve(), (source.root or source.path).resolve()):
        raise ConfigError(
            f"--output_dir {run_dir}: is the folder of {source.name}, which the merged model would replace; "
            "give another folder"
        )


COMMAND = Command("merge", MergeSettings, merge, inputs=merge_inputs, extra="encode")
