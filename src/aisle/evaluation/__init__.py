"""Quality of scores and rankings: metrics on pairs and retrieval, intervals, comparisons, run files."""

from aisle.extras import require_extra

require_extra("eval")
