"""The evaluation report: a self-contained HTML page, with its charts as PNG and its figures as JSON."""

from aisle.reporting.html.captions import alt_text
from aisle.reporting.html.charts import figures_of
from aisle.reporting.html.drawing import png_bytes, rgb_pixels
from aisle.reporting.html.export import PlainTable, scalars_of, tables_of
from aisle.reporting.html.formatting import headline_of, metric_name
from aisle.reporting.html.page import write_report

__all__ = [
    "PlainTable",
    "alt_text",
    "figures_of",
    "headline_of",
    "metric_name",
    "png_bytes",
    "rgb_pixels",
    "scalars_of",
    "tables_of",
    "write_report",
]
