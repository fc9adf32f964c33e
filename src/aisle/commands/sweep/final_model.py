"""Average the best runs, and measure the winner on queries that took no part in the search."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aisle.commands.sweep.query_split import QuerySplit, with_data
from aisle.commands.train.measure_model import measure_model
from aisle.commands.train.settings import TrainSettings
from aisle.commands.write_model import write_model
from aisle.errors import EvaluationError, ModelError
from aisle.models.averaging import average_runs

AVERAGE = "average"


@dataclass(frozen=True)
class Measured:
    """A model with its figures.

    Attributes:
        name: Name in the report.
        model: Folder or Hub id.
        validation: Figure on the queries that it was chosen by.
        unseen: Figure on unseen queries; None if it was not measured.
    """

    name: str
    model: str
    validation: float
    unseen: float | None = None


class Measure:
    """Measure models on the queries of a sweep.

    Args:
        settings: Settings of the sweep.
        split: The pairs of the sweep.
        metric: Metric to measure.
    """

    def __init__(self, settings: TrainSettings, split: QuerySplit, *, metric: str) -> None:
        self._settings, self._split, self._metric = settings, split, metric

    def __call__(self, model: str, part: str) -> float:
        """Return the figure of a model on a part of the data.

        Raises:
            EvaluationError: The metric is undefined on the part.
            AisleError: The model or the data cannot be used.
        """
        given = self._settings.model
        revision = given.model_revision if model == given.model_name_or_path else None
        with tempfile.TemporaryDirectory(prefix="aisle-sweep-") as folder:
            run = replace(self._settings.run, output_dir=folder)
            settings = replace(with_data(self._settings, self._split, part), run=run)
            figure = measure_model(model, settings, revision=revision).get(self._metric)
        if figure is None:
            raise EvaluationError(f"{self._metric} is undefined on the {part} queries")
        return float(figure)


def average_best(
    runs: Sequence[Measured], folder: Path, measure: Measure, *, log: Callable[[str], None]
) -> Measured | None:
    """Return the average of runs if it is better than the best of them, written to `folder`; else None.

    Runs are added from the best down, and each stays only if it raises the figure (the greedy soup of
    Wortsman et al. 2022, https://arxiv.org/abs/2203.05482).

    Args:
        runs: Runs with their validation figures, the best first.
        folder: Folder of the averaged model.
        measure: Measures a model.
        log: Logs why runs cannot be averaged.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if len(runs) < 2:
        return None
    chosen, best, found = [runs[0]], runs[0].validation, None
    with tempfile.TemporaryDirectory(prefix="aisle-average-") as staging:
        for number, run in enumerate(runs[1:]):
            target = Path(staging) / str(number)
            wanted = [each.model for each in (*chosen, run)]
            try:
                model = average_runs(wanted, [1.0] * len(wanted))
            except ModelError as error:
                log(f"no average with {run.name}: {error}")
                continue
            write_model(model, target, settings={"runs": wanted}, metrics={})
            figure = measure(str(target), "validation")
            if figure > best:
                chosen, best, found = [*chosen, run], figure, target
        if found is None:
            return None
        shutil.move(found, folder)
    return Measured(f"average of {', '.join(one.name for one in chosen)}", str(folder), best)
