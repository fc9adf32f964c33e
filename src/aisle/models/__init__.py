"""Encoders: where weights come from, pooling, adapters, and how all of it is saved together."""

from aisle.extras import require_extra

require_extra("encode")
