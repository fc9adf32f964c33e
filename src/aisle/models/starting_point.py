"""Load the model that training starts from: a base model, or a finished run."""

from __future__ import annotations

from dataclasses import replace

from aisle.errors import ModelError
from aisle.models.adapters import load_adapter
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loaded_settings import check_prompts, saved_settings, with_saved
from aisle.models.loading import (
    ADAPTER_FILE,
    LoadedModel,
    base_of_adapter,
    load_base,
    with_run_files,
)
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import read_json
from aisle.models.run_file import read_settings_file, refuse_two_towers
from aisle.models.trained_adapter import TrainedAdapter
from aisle.types.encoder_settings import Overrides


def load_starting_point(
    source: ModelSource,
    *,
    overrides: Overrides,
    train_adapter: bool,
    token: str | None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the model that training starts from.

    For a LoRA run, this is the base model of the run's adapter. With `train_adapter` its weights stay
    unchanged: the adapter is attached later and trained further. Otherwise the adapter is merged into them.

    Args:
        source: Base model, run, or folder with a PEFT adapter.
        overrides: Settings that override those in the files.
        train_adapter: Whether to train an adapter, instead of all weights.
        token: Token for a base model on the Hub.
        trust_remote_code: Whether to run Python code from the base model's repository.

    Raises:
        ModelError: Files are missing or do not fit together, or the adapter is not LoRA.
    """
    refuse_two_towers(source, read_settings_file(source.path), why="one tower is trained here")
    if not (source.path / ADAPTER_FILE).is_file():
        return load_base(source, overrides=overrides, trust_remote_code=trust_remote_code)
    config = read_json(source.path / ADAPTER_FILE)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{source.name}: its adapter is of the kind {kind}; aisle trains only LoRA adapters")
    saved = read_settings_file(source.path)
    if saved is not None:
        overrides = with_saved(overrides, saved)
    base_source = base_of_adapter(source, saved, None, token)
    base = load_base(base_source, overrides=overrides, trust_remote_code=trust_remote_code)
    base = with_run_files(base, source, trust_remote_code)
    own = base.settings if saved is None else saved_settings(saved, Overrides())
    settings = base.settings if saved is None else saved_settings(saved, overrides)
    check_prompts(settings, base.tokenizer)
    fingerprint = fingerprint_of(
        base_dir=base_source.path, model_dir=source.path, adapter=True, settings=own, heads=base.heads
    )
    if saved is not None and fingerprint != saved["fingerprint"]:
        raise ModelError(
            f"{source.name}: was saved with fingerprint {saved['fingerprint']}, and with the base model "
            f"{base_source.path} it has {fingerprint}: the base model is different, or a file was altered"
        )
    adapter = TrainedAdapter(
        run=source, base=base_source, fingerprint=fingerprint, config=config, merged=not train_adapter
    )
    backbone = base.backbone
    if not train_adapter:
        backbone = load_adapter(backbone, source.path).merge_and_unload()
        backbone.requires_grad_(True)  # PEFT froze the weights
    return replace(
        base,
        source=base_source if train_adapter else source,
        backbone=backbone,
        settings=settings,
        adapter=adapter,
        note=None,
    )
