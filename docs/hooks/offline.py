"""mkdocs hook: fail the build if a page loads anything from the network."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

# Links to other sites (<a href>) are allowed: pages do not load them.
LOADED_FROM_OUTSIDE = re.compile(
    r"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+""",
    re.IGNORECASE,
)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Check that a page loads nothing from the network, and return it unchanged.

    Raises:
        PluginError: If a script, style sheet, image or frame has an address on the network.
    """
    found = LOADED_FROM_OUTSIDE.search(output)
    if found is not None:
        raise PluginError(
            f"{page.file.src_uri}: the site must work offline, but the page loads {found.group()}"
        )
    return output
