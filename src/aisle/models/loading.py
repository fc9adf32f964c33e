"""Load an encoder from a run, an adapter or a base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.adapters import load_adapter
from aisle.models.backbone import (
    check_reads_text,
    hidden_size,
    load_backbone,
)
from aisle.models.bi_encoder import BiEncoder
from aisle.models.encoder import TorchEncoder
from aisle.models.fingerprint import fingerprint_of
from aisle.models.heads import Head, HeadDropout, Normalize, SavedHead, load_heads
from aisle.models.loaded_settings import base_settings, check_prompts, saved_settings, with_saved
from aisle.models.model_source import ModelSource, find_model
from aisle.models.modules_file import MODULES_FILE, read_json
from aisle.models.pooling import Pooling
from aisle.models.run_file import (
    TOWER_FOLDERS,
    has_two_towers,
    read_settings_file,
    require_router,
    tower_source,
)
from aisle.models.st_files import names_pooling
from aisle.models.tokenizers import load_tokenizer
from aisle.models.tower import Tower
from aisle.models.trained_adapter import TrainedAdapter
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.text.tokens import SIDES, Side
from aisle.types.encoder_settings import EncoderSettings, Overrides

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class LoadedModel:
    """Model loaded from its files, as separate parts that training can change.

    Args:
        source: Location of the files.
        backbone: Backbone, in float32.
        heads: Modules after the pooling, without the normalisation at the end.
        tokenizer: Tokenizer of the model.
        settings: Pooling, prompts, maximum length, normalisation.
        adapter: Adapter of the LoRA run that training starts from, if any.
        note: Assumption about the model that its files leave open, to print; None without.
        query: Model that the query tower starts from, if queries have a tower of their own to train; this
            model is then that of the products.
    """

    source: ModelSource
    backbone: nn.Module
    heads: tuple[SavedHead, ...]
    tokenizer: Any
    settings: EncoderSettings
    adapter: TrainedAdapter | None = None
    note: str | None = None
    query: LoadedModel | None = None

    def of(self, side: Side) -> LoadedModel:
        """Return the model of a side."""
        return self if side == "product" or self.query is None else self.query

    def tower(self, added: Sequence[Head] = (), *, output_dropout: float = 0.0) -> Tower:
        """Return a tower built from the model's parts.

        Args:
            added: Heads to add: they take the model's embeddings, normalised as the settings say, and what
                they return is normalised again.
            output_dropout: Dropout in training before the normalisation at the end.
        """
        last = [Normalize()] if self.settings.normalize else []
        dropped: list[Head] = [HeadDropout(output_dropout)] if output_dropout else []
        own = [*self.heads, *([] if added else dropped), *last]
        on_top = [*added, *dropped, *last] if added else []
        return Tower(self.backbone, Pooling(self.settings.pooling), own, on_top)

    @property
    def side_tokenizers(self) -> SideTokenizers:
        """Tokenizers for queries and products."""
        read_by_queries, settings = self.of("query").settings, self.settings
        return SideTokenizers(
            SideTokenizer(
                self.of("query").tokenizer, read_by_queries.query_prompt, read_by_queries.max_length
            ),
            SideTokenizer(self.tokenizer, settings.product_prompt, settings.max_length),
            separate=self.query is not None,
        )


@dataclass(frozen=True)
class LoadedTower:
    """Tower of an encoder, with its adapter merged.

    Args:
        model: The model, with the settings of the encoder.
        fingerprint: Fingerprint of the tower.
    """

    model: LoadedModel
    fingerprint: str


def load_encoder(
    model: str | Path,
    *,
    base_model: str | Path | None = None,
    overrides: Overrides | None = None,
    revision: str | None = None,
    token: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> TorchEncoder:
    """Load the encoder of a run, an adapter or a base model; the arguments are those of `aisle.load_encoder`.

    Raises:
        ModelError: Files are missing, do not fit together, or are not safetensors.
    """
    source = find_model(str(model), revision=revision, token=token)
    overrides = overrides or Overrides()
    saved = read_settings_file(source.path)
    if saved is not None and has_two_towers(saved):
        if base_model is not None:
            raise ModelError(
                f"--base_model: {source.name} has a tower for each side, which are whole models, so it needs "
                "no base model; leave it out"
            )
        require_router(source)
        query, product = (
            load_tower(tower_source(source, side), overrides, trust_remote_code=trust_remote_code)
            for side in SIDES
        )
        _check_towers(source, saved, query, product, overridden=overrides != Overrides())
    else:
        base = None if base_model is None else str(base_model)
        query = product = load_tower(
            source, overrides, base_model=base, token=token, trust_remote_code=trust_remote_code
        )
    return _encoder_of(source, query, product, device=device or best_device())


def load_tower(
    source: ModelSource,
    overrides: Overrides,
    *,
    base_model: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedTower:
    """Load a run with a shared tower, a tower of a run of two towers, an adapter or a base model.

    Raises:
        ModelError: As in `load_encoder`.
    """
    overridden = overrides != Overrides()
    adapter = (source.path / ADAPTER_FILE).is_file()
    saved = read_settings_file(source.path)
    if saved is not None:
        overrides = with_saved(overrides, saved)
    if adapter:
        base_source = base_of_adapter(source, saved, base_model, token)
        base = load_base(base_source, overrides=overrides, trust_remote_code=trust_remote_code)
        # A merged adapter adds no computation (MiniLM, r16 on all layers: a quarter less time).
        backbone = load_adapter(base.backbone, source.path).merge_and_unload()
        loaded = replace(with_run_files(base, source, trust_remote_code), backbone=backbone)
    else:
        base_source = source
        loaded = load_base(source, overrides=overrides, trust_remote_code=trust_remote_code)
    settings = loaded.settings if saved is None else saved_settings(saved, overrides)
    check_prompts(settings, loaded.tokenizer)
    fingerprint = fingerprint_of(
        base_dir=base_source.path,
        model_dir=source.path,
        adapter=adapter,
        settings=settings,
        heads=loaded.heads,
    )
    if saved is not None and not overridden and fingerprint != saved["fingerprint"]:
        raise ModelError(
            f"{source.name}: was saved with fingerprint {saved['fingerprint']}, and with the base model "
            f"{base_source.path} it has {fingerprint}: the base model is different, or a file was altered. "
            "Give the base model it was trained on with --base_model"
        )
    return LoadedTower(replace(loaded, settings=settings), fingerprint)


def _check_towers(
    source: ModelSource,
    saved: dict[str, Any],
    query: LoadedTower,
    product: LoadedTower,
    *,
    overridden: bool,
) -> None:
    """Refuse towers that were not saved together.

    With settings of the user, a tower's fingerprint is another; then the fingerprint in the folder's own
    `aisle.json` is compared.

    Raises:
        ModelError: A tower has another fingerprint than its run records.
    """
    recorded = [tower.get("fingerprint") for tower in saved["towers"]]
    if overridden:
        files = [read_settings_file(tower_source(source, side).path) or {} for side in SIDES]
        found = [file.get("fingerprint") for file in files]
    else:
        found = [query.fingerprint, product.fingerprint]
    for folder, was, now in zip(TOWER_FOLDERS.values(), recorded, found, strict=True):
        if was != now:
            raise ModelError(
                f"{source.name}: was saved with a tower in {folder}/ with fingerprint {was}, and the tower "
                f"there has {now}: the folder is from another run; restore it"
            )


def _encoder_of(
    source: ModelSource, query: LoadedTower, product: LoadedTower, *, device: str
) -> TorchEncoder:
    """Return the encoder of a query tower and a product tower, which may be the same."""
    shared = query is product
    towers = (product.model.tower(), None) if shared else (query.model.tower(), product.model.tower())
    read_by_queries, settings = query.model.settings, product.model.settings
    return TorchEncoder(
        model=BiEncoder(*towers).to(device).eval(),
        tokenizer=product.model.tokenizer,
        settings=replace(settings, query_prompt=read_by_queries.query_prompt),
        fingerprint=product.fingerprint,
        query_fingerprint=query.fingerprint,
        name=source.name,
        revision=source.revision,
        note=product.model.note or query.model.note,
        query_tokenizer=None if shared else query.model.tokenizer,
        query_max_length=None if shared else read_by_queries.max_length,
    )


def load_base(source: ModelSource, *, overrides: Overrides, trust_remote_code: bool = False) -> LoadedModel:
    """Load a base model in float32, with the settings from its files.

    Raises:
        ModelError: The model cannot be loaded or does not read text, there is no tokenizer, `max_length` is
            longer than the model can read, or a prompt leaves no room for a text.
    """
    backbone = load_backbone(source, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source.path, trust_remote_code=trust_remote_code)
    check_reads_text(source, backbone, tokenizer)
    settings = base_settings(source, backbone, tokenizer, overrides)
    check_prompts(settings, tokenizer)
    heads = load_heads(source.root or source.path, dim=hidden_size(backbone))
    note = None
    if overrides.pooling is None and not names_pooling(source.root or source.path):
        kind = {"last": "the last token, as is usual for decoders", "mean": "the mean of all tokens"}
        note = (
            f"{source.name}: has no file with its pooling; it is pooled by "
            f"{kind[settings.pooling]}. Give another with --pooling"
        )
    return LoadedModel(source, backbone, heads, tokenizer, settings, note=note)


def with_run_files(base: LoadedModel, source: ModelSource, trust_remote_code: bool) -> LoadedModel:
    """Replace a base model's tokenizer and heads with those in an adapter's folder, if it has them."""
    tokenizer, heads = base.tokenizer, base.heads
    if (source.path / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(source.path, trust_remote_code=trust_remote_code)
    if (source.path / MODULES_FILE).is_file():
        heads = load_heads(source.path, dim=hidden_size(base.backbone))
    return replace(base, tokenizer=tokenizer, heads=heads)


def best_device() -> str:
    """Return the type of this machine's accelerator, or `cpu` if aisle supports no accelerator here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None or accelerator.type == "mps" else accelerator.type


def base_of_adapter(
    source: ModelSource, saved: dict[str, Any] | None, base_model: str | None, token: str | None
) -> ModelSource:
    """Find an adapter's base model: from the user, else `aisle.json`, else PEFT's configuration.

    Raises:
        ModelError: No base model is given, or it cannot be found.
    """
    if base_model is not None:
        return find_model(base_model, token=token)
    if saved is not None:
        name, revision = str(saved["base_model"]), saved.get("base_revision")
    else:
        config = read_json(source.path / ADAPTER_FILE)
        name, revision = config.get("base_model_name_or_path") or "", config.get("revision")
    if not name:
        raise ModelError(f"{source.name}: the adapter names no base model; give it with --base_model")
    try:
        return find_model(name, revision=revision, token=token)
    except ModelError as error:
        raise ModelError(
            f"{source.name}: its base model cannot be found; give it with --base_model. {error}"
        ) from None
