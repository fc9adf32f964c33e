"""Write a heat map of chosen texts: a picture as PNG and SVG, and a page with the same figures."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from aisle.errors import EvaluationError
from aisle.evaluation.document import Heatmap
from aisle.io.durable import replace_bytes, replace_text, sync
from aisle.reporting.html.charts import heatmap_figure
from aisle.reporting.html.drawing import png_bytes, svg_bytes
from aisle.reporting.html.page_content import heat_rows
from aisle.reporting.html.page_template import own_text, policy_hash, template_environment

__all__ = ["write_heatmap"]


def write_heatmap(folder: Path, heatmap: Heatmap) -> Path:
    """Write heatmap.png, heatmap.svg and heatmap.html, and return the path of the page.

    The page contains its styles and loads nothing. The same heat map gives the same bytes.

    Args:
        folder: Folder to write to; created if missing.
        heatmap: Cosines of at least one text with at least one text.

    Raises:
        EvaluationError: The folder cannot be written.
    """
    figure = heatmap_figure(heatmap)
    path = folder / "heatmap.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(folder / "heatmap.png", png_bytes(figure))
        replace_bytes(folder / "heatmap.svg", svg_bytes(figure))
        replace_text(path, _page(heatmap))
        sync(folder)
    except OSError as error:
        raise EvaluationError(
            f"--output_dir {folder}: the heat map cannot be written: {error.strerror}; name a writable folder"
        ) from error
    return path


def _page(heatmap: Heatmap) -> str:
    ((_, rows),) = heat_rows([heatmap])
    style = own_text("style.css")
    return (
        template_environment()
        .get_template("heatmap.html.j2")
        .render(
            heatmap=heatmap,
            rows=rows,
            style=Markup(style),  # our own file
            style_hash=policy_hash(style),
        )
    )
