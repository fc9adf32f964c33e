"""How good are the scores and the rankings: pairs, retrieval, runs, tables for people."""

from aisle.extras import require_extra

require_extra("eval")
