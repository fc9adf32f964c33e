"""A hook of mkdocs: a page that loads anything from outside fails the build."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

# A link to another site (<a href>) is followed by the reader, not by the page.
LOADED_FROM_OUTSIDE = re.compile(
    r"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+""",
    re.IGNORECASE,
)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Return the page as it is, after looking for what it would load from outside.

    Raises:
        PluginError: a script, style sheet, picture or frame has an address on the network.
    """
    found = LOADED_FROM_OUTSIDE.search(output)
    if found is not None:
        raise PluginError(
            f"{page.file.src_uri}: the site must work offline, and the page loads {found.group()}"
        )
    return output
