"""Templates of self-contained pages: the environment that fills them in, and the hash of an inline text."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aisle.evaluation.number_format import counted
from aisle.reporting.html.formatting import (
    byte_count,
    clean,
    clipped,
    count,
    encodable,
    figure,
    listing,
    metric_name,
    moment,
    signed,
)

__all__ = ["own_text", "policy_hash", "template_environment"]


def template_environment() -> Environment:
    """Return the environment of the templates: it escapes every text, and refuses unknown variables."""
    environment = Environment(
        loader=PackageLoader("aisle.reporting.html", "."),
        autoescape=True,
        finalize=_encodable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=clean,
        clipped=clipped,
        count=count,
        counted=counted,
        figure=figure,
        signed=signed,
        metric_name=metric_name,
        listing=listing,
        byte_count=byte_count,
        moment=moment,
    )
    return environment


def _encodable(value: Any) -> Any:
    """Replace characters that HTML cannot contain in text that the template writes."""
    return encodable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def own_text(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (files("aisle.reporting.html") / name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """Return the Content-Security-Policy source that allows only this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
