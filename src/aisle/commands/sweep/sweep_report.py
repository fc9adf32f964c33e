"""Show the trials of a sweep, and write its results: recipe, tables and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table

from aisle.commands.output import Output
from aisle.commands.sweep.final_model import Measured
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import saved_form, yaml_text
from aisle.io.durable import replace_bytes, replace_text
from aisle.reporting.markdown import escaped
from aisle.reporting.markdown import table as markdown_table
from aisle.sweep.duration import shown_duration
from aisle.sweep.search_space import Value
from aisle.sweep.study import Study
from aisle.sweep.trial import Result
from aisle.types.json_values import json_ready

RECIPE, DOCUMENT, PAGE, PICTURE = "best.yaml", "sweep.json", "sweep.md", "sweep"
SHOWN = 10
SHORT_NAMES = {
    "learning_rate": "rate",
    "lora_rank": "rank",
    "lora_target_modules": "layers",
    "per_device_train_batch_size": "batch",
    "num_train_epochs": "epochs",
    "temperature": "temp.",
}
NOT_IN_A_RECIPE = ("output_dir", "json", "threads", "config")


@dataclass(frozen=True)
class Report:
    """The results of a sweep.

    Attributes:
        metric: Metric that the trials are compared by.
        trials: All trials, by number.
        models: The winner first, then what it is compared with.
        spent: Seconds in which trials ran.
        budget: Seconds of the budget.
        measured_times: How often a winner was measured on the unseen queries.
        queries: Number of queries of each part of the data.
    """

    metric: str
    trials: tuple[Result, ...]
    models: tuple[Measured, ...]
    spent: float
    budget: float
    measured_times: int
    queries: Mapping[str, int]

    @property
    def ranked(self) -> list[Result]:
        """The complete trials, the best first."""
        complete = [one for one in self.trials if one.value is not None]
        return sorted(complete, key=lambda one: (-(one.value or 0.0), one.number))

    def selection_bias(self) -> list[str]:
        """Return lines that compare the winner's gain on the queries that chose it and on unseen ones."""
        winner = self.models[0]
        lines = []
        for other in self.models[1:]:
            seen = winner.validation - other.validation
            if winner.unseen is None or other.unseen is None:
                lines.append(
                    f"gain over {other.name}: {seen:+.4f} on the {self.queries['validation']:,} queries that "
                    f"chose it; {self.metric} could not be measured on the {self.queries['unseen']:,} "
                    "queries that took no part"
                )
                continue
            unseen = winner.unseen - other.unseen
            lines.append(
                f"gain over {other.name}: {seen:+.4f} on the {self.queries['validation']:,} queries that "
                f"chose it, {unseen:+.4f} on {self.queries['unseen']:,} queries that took no part; the "
                f"difference {seen - unseen:+.4f} is selection bias and chance"
            )
        if self.measured_times > 1:
            lines.append(
                f"the unseen queries were used {self.measured_times} times, as the sweep was continued: they "
                "are no longer quite unseen"
            )
        return lines


class TrialTable:
    """Print the trials as they end, and the best so far.

    Args:
        output: Where to print.
        study: The study.
        metric: Metric that the trials are compared by.
    """

    def __init__(self, output: Output, study: Study, metric: str) -> None:
        self._output, self._study, self._metric = output, study, metric

    def add(self, one: Result) -> None:
        """Print a trial that ended, and the table of the best trials."""
        result = f"{self._metric} {one.value:.4f}" if one.value is not None else f"{one.state}: {one.note}"
        took = "" if one.seconds is None else f" in {shown_duration(one.seconds)}"
        name = f" ({one.start})" if one.start else ""
        self._output.log(f"trial {one.number}{name}{took}: {result}")
        ranked = self._study.ranked()
        if ranked and (ranked[0].number == one.number):
            self._output.show(trial_table(ranked[:SHOWN], self._metric), whole_lines=True)


def trial_table(trials: list[Result], metric: str) -> Table:
    """Return the table of trials for a terminal."""
    names = list(dict.fromkeys(name for one in trials for name in one.values))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("trial", metric, *(SHORT_NAMES.get(name, name) for name in names), "time"):
        table.add_column(name, no_wrap=True)
    for one in trials:
        table.add_row(*_cells(one, names))
    return table


def _cells(one: Result, names: list[str]) -> list[str]:
    result = one.state if one.value is None else f"{one.value:.4f}"
    values = [_shown(one.values[name]) if name in one.values else "" for name in names]
    return [str(one.number), result, *values, "" if one.seconds is None else shown_duration(one.seconds)]


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def recipe_text(report: Report, recipe: TrainSettings) -> str:
    """Return the settings of the best trial in the form that `train --config` reads."""
    best = report.ranked[0]
    usual = saved_form(type(recipe)())
    kept = {
        name: value
        for name, value in saved_form(recipe).items()
        if name not in NOT_IN_A_RECIPE and value != usual[name]
    }
    lines = [
        f"Trial {best.number} of a sweep of {len(report.trials)} trials: {report.metric} {best.value:.4f} on "
        f"the {report.queries['validation']:,} queries that chose it.",
        *report.selection_bias(),
    ]
    return "".join(f"# {line}\n" for line in lines) + yaml_text(kept)


def write_report(report: Report, recipe: TrainSettings, folder: Path, output: Output) -> None:
    """Write the recipe, the tables and, with the extra `report`, the picture; print where they are."""
    text = recipe_text(report, recipe)
    replace_text(folder / RECIPE, text)
    document = json_ready({**asdict(report), "selection_bias": report.selection_bias()})
    replace_text(folder / DOCUMENT, json.dumps(document, indent=2) + "\n")
    replace_text(folder / PAGE, page(report, text))
    picture = find_spec("matplotlib") is not None
    if picture:
        from aisle.reporting.html.drawing import png_bytes, svg_bytes
        from aisle.reporting.html.sweep_chart import sweep_figure

        figure = sweep_figure([(one.number, one.value, one.state) for one in report.trials], report.metric)
        replace_bytes(folder / f"{PICTURE}.png", png_bytes(figure))
        replace_bytes(folder / f"{PICTURE}.svg", svg_bytes(figure))
    else:
        output.log("no picture: install the extra report to draw it")
    output.show(trial_table(report.ranked[:SHOWN], report.metric), whole_lines=True)
    for line in report.selection_bias():
        output.log(line)
    winner = report.models[0]
    output.log(f"winner: {winner.name} in {winner.model}; settings of the best trial: {folder / RECIPE}")
    output.document(document)


def page(report: Report, recipe: str) -> str:
    """Return the results in Markdown."""
    names = list(dict.fromkeys(name for one in report.trials for name in one.values))
    header = ["trial", report.metric, *(SHORT_NAMES.get(name, name) for name in names), "time", "note"]
    ended = [one for one in report.trials if one.value is None]
    rows = [
        [*_cells(one, names), escaped("; ".join(filter(None, (one.start, one.note))))]
        for one in (*report.ranked, *ended)
    ]
    figures = [
        [escaped(one.name), f"{one.validation:.4f}", "" if one.unseen is None else f"{one.unseen:.4f}"]
        for one in report.models
    ]
    unseen = f"{report.queries['unseen']:,} unseen queries"
    parts = [
        "# Sweep",
        f"{len(report.trials)} trials in {shown_duration(report.spent)}, compared by {report.metric} on "
        f"{report.queries['validation']:,} validation queries.",
        markdown_table(["model", "validation", unseen], figures),
        "\n".join(f"- {line}" for line in report.selection_bias()),
        f"## The best settings\n\n```yaml\n{recipe}```",
        "## Trials",
        markdown_table(header, rows),
    ]
    return "\n\n".join(parts) + "\n"
