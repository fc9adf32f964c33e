"""An evaluation as one HTML page that opens from the disk, with the same figures as PNG and JSON."""

from aisle.evaluation.html_report.charts import figures_of
from aisle.evaluation.html_report.page import write_report
from aisle.evaluation.html_report.wording import headline_of

__all__ = ["figures_of", "headline_of", "write_report"]
