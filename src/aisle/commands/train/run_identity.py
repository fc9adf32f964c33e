"""Identity of a run: settings, data and model that must match a checkpoint to resume from it."""

from __future__ import annotations

import hashlib
from typing import Any

from aisle.commands.train.settings import TrainSettings
from aisle.config.load import saved_form
from aisle.data.pairs import Pairs
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import LoadedModel

FREE_TO_CHANGE = frozenset(
    {
        *("model_name_or_path", "model_revision", "trust_remote_code"),  # the model's files are compared
        *("num_train_epochs", "max_train_steps", "mixed_precision"),  # their effect is compared
        "embedding_cache",
        *("query_model_name_or_path", "similarity"),  # likewise
        *("teacher", "teacher_cache"),  # likewise
    }
)
"""Settings that may differ in a resumed run."""
STEPS = "steps in all"
TEXTS_AT_A_TIME = 10_000


def run_identity(
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    *,
    train: str,
    validation: str,
    total_steps: int,
    accelerator: Any,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Return the values that must match those of a checkpoint, by name.

    Args:
        settings: Resolved settings.
        base: The base model.
        train: Digest of the training pairs.
        validation: Digest of the validation pairs.
        total_steps: Steps of the run.
        accelerator: Gives the precision and the number of processes.
        teacher: Fingerprint of the teacher that scored the training pairs; None without.
    """
    return {
        **_compared(settings),
        **_of_query_tower(base),
        "base model's fingerprint": base_fingerprint(base)[:16],
        **({} if teacher is None else {"teacher's fingerprint": teacher[:16]}),
        "keep": settings.run.keep,  # a run that keeps the last weights has discarded the best
        "selection": settings.run.selection,  # the best evaluation so far depends on it
        "eval_sample": settings.run.eval_sample,  # and so it depends on this
        STEPS: total_steps,
        "precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "training pairs": train,
        "validation pairs": validation,
    }


def values_before_settings_existed() -> dict[str, Any]:
    """Return the defaults of the compared settings; a version without a setting trained with its default."""
    return _compared(TrainSettings())


def _compared(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that must match, by name."""
    groups = (
        settings.model,
        settings.lora,
        settings.head,
        settings.towers,
        settings.objective,
        settings.distillation,
        settings.optim,
    )
    chosen = {name: value for group in groups for name, value in saved_form(group).items()}
    return {name: value for name, value in chosen.items() if name not in FREE_TO_CHANGE}


def _of_query_tower(base: LoadedModel | LoadedCrossEncoder) -> dict[str, str]:
    """Return the fingerprint of the model that a separate query tower starts from."""
    if base.query is None:
        return {}
    return {"query tower's base model's fingerprint": base_fingerprint(base.query)[:16]}


def base_fingerprint(base: LoadedModel | LoadedCrossEncoder) -> str:
    """Return the fingerprint of the model that training starts from, before it is changed."""
    if isinstance(base, LoadedCrossEncoder):
        return base.fingerprint
    if base.adapter is None:
        base_dir = model_dir = base.source.path
    else:
        base_dir, model_dir = base.adapter.base.path, base.adapter.run.path
    return fingerprint_of(
        base_dir=base_dir,
        model_dir=model_dir,
        adapter=base.adapter is not None,
        settings=base.settings,
        heads=base.heads,
    )


def digest_of(pairs: Pairs) -> str:
    """Return a short hash of the texts, ids and labels of pairs, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for start in range(0, len(pairs), TEXTS_AT_A_TIME):
        part = pairs.table.with_format("arrow")[start : start + TEXTS_AT_A_TIME]
        for name in sorted(part.column_names):
            digest.update(repr((name, part[name].to_pylist())).encode(errors="surrogatepass"))
    return f"{len(pairs)} with hash {digest.hexdigest()}"
