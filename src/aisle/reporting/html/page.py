"""Write the report's folder: a self-contained HTML page, its figures as JSON, its charts as PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aisle.errors import EvaluationError
from aisle.evaluation.document import Evaluation
from aisle.io.durable import replace_bytes, replace_text, sync
from aisle.reporting.html.captions import CHARTS, alt_text
from aisle.reporting.html.charts import figures_of
from aisle.reporting.html.drawing import inline_svg, png_bytes
from aisle.reporting.html.page_content import page_content
from aisle.reporting.html.page_template import own_text, policy_hash, template_environment

__all__ = ["render_page", "write_report"]

_TABLED = ("heatmap_", "slices")
"""Charts that the page shows as tables, which scroll, sort and work with screen readers."""


def write_report(folder: Path, evaluation: Evaluation) -> Path:
    """Write report.html, report.json and figures/*.png, and return the path of the page.

    The page contains its styles, script and charts, and loads nothing. The same evaluation gives the same
    bytes. Each file is written atomically, the page last, so that an existing page is complete. Outdated
    charts of an earlier report are removed.

    Args:
        folder: Folder to write to; created if missing.
        evaluation: Evaluation to show; the page leaves out missing parts.

    Raises:
        EvaluationError: If the folder cannot be written, or a figure is not finite.
    """
    _check_finite(evaluation.to_dict(), "evaluation")
    document = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n"
    figures = figures_of(evaluation)
    images = {f"{name}.png": png_bytes(figure) for name, figure in figures.items()}
    charts = {
        name: inline_svg(figure, name=name, alt=alt_text(name, evaluation))
        for name, figure in figures.items()
        if not name.startswith(_TABLED)
    }
    page = render_page(evaluation, charts)
    path = folder / "report.html"
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        _replace_images(folder / "figures", images)
        replace_text(folder / "report.json", document)
        replace_text(path, page)
        sync(folder)
    except OSError as error:
        raise EvaluationError(
            f"--report {folder}: the report cannot be written: {error.strerror}; name a writable folder"
        ) from error
    return path


def render_page(evaluation: Evaluation, charts: Mapping[str, str]) -> str:
    """Return the page as HTML.

    Args:
        evaluation: Evaluation to show.
        charts: {figure's name: its <svg> element}.
    """
    style, script = (own_text(name) for name in ("style.css", "script.js"))
    return (
        template_environment()
        .get_template("template.html.j2")
        .render(
            **page_content(evaluation),
            charts={name: Markup(svg) for name, svg in charts.items()},  # escaped by inline_svg
            chart_texts=CHARTS,
            style=Markup(style),  # our own file
            script=Markup(script),  # our own file
            style_hash=policy_hash(style),
            script_hash=policy_hash(script),
        )
    )


def _replace_images(folder: Path, images: Mapping[str, bytes]) -> None:
    for name, content in images.items():
        replace_bytes(folder / name, content)
    stale = [f"{name}.png" for name in CHARTS if f"{name}.png" not in images]
    stale += [path.name for path in folder.glob("heatmap_*.png") if path.name not in images]
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    sync(folder)


def _check_finite(value: Any, place: str) -> None:
    for where, number in _numbers(value, place):
        if not math.isfinite(number):
            raise EvaluationError(
                f"{where} is {number}; a report takes finite figures: leave it out, or give None if "
                "the figure is undefined"
            )


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{place}[{number}]")
