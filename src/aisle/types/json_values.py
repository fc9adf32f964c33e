"""Values of products as JSON has them."""

from __future__ import annotations

import base64
import math
from typing import Any

__all__ = ["json_ready"]


def json_ready(value: Any) -> Any:
    """Return a payload value for JSON: dates and decimals as text, bytes in base64, NaN as null."""
    if isinstance(value, dict):
        return {str(name): json_ready(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value if value is None or isinstance(value, str | int) else str(value)
