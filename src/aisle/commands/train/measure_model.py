"""Measure a model on validation pairs, as an evaluation of a run would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.output import Output
from aisle.commands.train.distillation_settings import DistillationSettings
from aisle.commands.train.head_settings import HeadSettings
from aisle.commands.train.lora_settings import LoraSettings
from aisle.commands.train.read_data import read_training_data
from aisle.commands.train.resolve_settings import resolve_settings
from aisle.commands.train.settings import TrainSettings
from aisle.commands.train.tower_settings import TowerSettings
from aisle.commands.train.trainer_setup import make_trainer
from aisle.training.accelerator import make_accelerator


def measure_model(
    model: str,
    settings: TrainSettings,
    *,
    revision: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the metrics of a model before any training.

    Args:
        model: Folder or Hub id of the model.
        settings: Settings of a run: its training and validation pairs and its selection metric. The folder
            of the run holds files only while they are needed.
        revision: Branch, tag or commit of a model of the Hub.
        log: Logs messages for the user.

    Raises:
        AisleError: The data or the model cannot be used.
    """
    accelerator = make_accelerator(
        mixed_precision=settings.optim.mixed_precision,
        report_to=None,
        project_dir=Path(str(settings.run.output_dir)),
    )
    settings = replace(
        settings,
        model=replace(settings.model, model_name_or_path=model, model_revision=revision),
        lora=LoraSettings(),
        head=HeadSettings(),
        towers=TowerSettings(),
        distillation=DistillationSettings(),
        objective=replace(settings.objective, loss=None),
    )
    data = read_training_data(settings.data, seed=settings.optim.seed, token=settings.run.hub_token, log=log)
    settings, base = resolve_settings(settings, data, log=log)
    progress = Output(silent=True).progress
    return make_trainer(settings, data, base, accelerator, log=log, progress=progress).evaluate_base()
