"""Choose the LoRA settings of a run; an adapter that is trained further decides them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aisle.commands.train.lora_settings import LoraSettings
from aisle.errors import ConfigError
from aisle.models.trained_adapter import TrainedAdapter

SHAPE = ("lora_rank", "lora_alpha", "lora_target_modules", "use_dora", "use_rslora")
"""Settings that the shape of an adapter's weights depends on. Dropout can change from run to run."""


def resolve_lora(
    lora: LoraSettings, adapter: TrainedAdapter | None, *, frozen: bool, log: Callable[[str], None]
) -> LoraSettings:
    """Return the LoRA settings of a run: as given, or as in the adapter that is trained further.

    Args:
        lora: Settings as given.
        adapter: Adapter of the run that training starts from; None without.
        frozen: Whether the encoder is frozen.
        log: Logs what happens to the adapter.

    Raises:
        ConfigError: A given setting differs from the adapter's.
    """
    usual = lora.complete()
    if adapter is None:
        return usual
    run, base = adapter.run.name, adapter.base.name
    if adapter.merged:
        then = "the encoder is frozen" if frozen else "all weights are trained on from there"
        log(f"model: the adapter of {run} is merged into {base}, and {then}")
        return usual
    targets = adapter.config.get("target_modules")
    own = replace(
        lora,
        lora_rank=int(adapter.config["r"]),
        lora_alpha=int(adapter.config["lora_alpha"]),
        lora_target_modules=tuple(sorted(targets)) if isinstance(targets, list) else None,
        use_dora=bool(adapter.config.get("use_dora")),
        use_rslora=bool(adapter.config.get("use_rslora")),
    )
    not_given = LoraSettings()
    for name in SHAPE:
        wanted, found = getattr(lora, name), getattr(own, name)
        if wanted not in (getattr(not_given, name), found) and _set(wanted) != _set(found):
            raise ConfigError(
                f"--{name} {_plain(wanted)}: the adapter of {run} has {_plain(found)}, and is trained "
                "further; leave the flag out, or merge the adapter first: train without --use_peft"
            )
    log(
        f"model: the adapter of {run} (rank {own.lora_rank}, alpha {own.lora_alpha}"
        f"{', DoRA' if own.use_dora else ''}) is trained further, over {base}"
    )
    return own


def _set(value: object) -> object:
    return set(value) if isinstance(value, tuple) else value


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
