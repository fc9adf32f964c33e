"""An evaluation as one HTML page that opens from the disk, with the same figures as PNG and JSON."""

from aisle.evaluation.html_report.charts import figures_of
from aisle.evaluation.html_report.drawing import png_bytes, rgb_pixels
from aisle.evaluation.html_report.explained import alt_text
from aisle.evaluation.html_report.page import write_report
from aisle.evaluation.html_report.plain import PlainTable, scalars_of, tables_of
from aisle.evaluation.html_report.wording import headline_of, metric_name

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
