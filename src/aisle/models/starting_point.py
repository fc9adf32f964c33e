"""What a training begins at: a base model, or a finished run whose adapter is trained further or merged."""

from __future__ import annotations

from aisle.errors import ModelError
from aisle.models.adapters import load_adapter
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import (
    ADAPTER_FILE,
    LoadedModel,
    Overrides,
    base_of_adapter,
    check_prompts,
    has_tokenizer,
    load_base,
    read_settings_file,
    saved_settings,
    with_saved,
)
from aisle.models.model_source import ModelSource
from aisle.models.st_files import read_json
from aisle.models.tokenizers import load_tokenizer
from aisle.models.trained_adapter import TrainedAdapter


def load_starting_point(
    source: ModelSource,
    *,
    overrides: Overrides,
    train_adapter: bool,
    token: str | None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Return the model that a training begins at.

    Of a LoRA run it is the base that the run's adapter was trained on: with `train_adapter` as it is, since
    the adapter is put on it and trained further; otherwise with the adapter merged into its weights.

    Args:
        source: a base model, a run, or a folder with a PEFT adapter.
        overrides: settings that win over the files'.
        train_adapter: whether an adapter is trained, not all weights.
        token: for a base on the Hub.
        trust_remote_code: run the code that the base's repository brings.

    Raises:
        ModelError: files are missing or do not fit together, or the adapter is not LoRA.
    """
    if not (source.path / ADAPTER_FILE).is_file():
        return load_base(source, overrides=overrides, trust_remote_code=trust_remote_code)
    config = read_json(source.path / ADAPTER_FILE)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{source.name}: its adapter is of the kind {kind}, and aisle trains LoRA alone")
    saved = read_settings_file(source.path)
    if saved is not None:
        overrides = with_saved(overrides, saved)
    base_source = base_of_adapter(source, saved, None, token)
    base = load_base(base_source, overrides=overrides, trust_remote_code=trust_remote_code)
    tokenizer = base.tokenizer
    if has_tokenizer(source.path):
        tokenizer = load_tokenizer(source.path, trust_remote_code=trust_remote_code)
    own = base.settings if saved is None else saved_settings(saved, Overrides())
    settings = base.settings if saved is None else saved_settings(saved, overrides)
    check_prompts(settings, tokenizer)
    fingerprint = fingerprint_of(base_dir=base_source.path, model_dir=source.path, adapter=True, settings=own)
    if saved is not None and fingerprint != saved["fingerprint"]:
        raise ModelError(
            f"{source.name}: was saved with fingerprint {saved['fingerprint']}, and with the base model "
            f"{base_source.path} it has {fingerprint}: the base is another one, or a file was altered"
        )
    adapter = TrainedAdapter(
        run=source, base=base_source, fingerprint=fingerprint, config=config, merged=not train_adapter
    )
    backbone = base.backbone
    if not train_adapter:
        backbone = load_adapter(backbone, source.path).merge_and_unload()
        backbone.requires_grad_(True)  # PEFT froze them
    return LoadedModel(
        source=base_source if train_adapter else source,
        backbone=backbone,
        tokenizer=tokenizer,
        settings=settings,
        adapter=adapter,
    )
