"""Encoders: find and load weights, pool, attach adapters, save."""

from aisle.extras import require_extra

require_extra("encode")
