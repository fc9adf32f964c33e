"""The demo page: its files, with a Content-Security-Policy that lets a browser load nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import RedirectResponse

__all__ = ["DEMO_PAGE", "demo_routes"]

DEMO_PAGE = "/demo/"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def demo_routes() -> APIRouter:
    """Return the routes of the demo page; they need no key, and the page asks for it."""
    pages = _pages()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def root() -> Response:
        return RedirectResponse("demo/")

    @routes.get(DEMO_PAGE)
    @routes.get("/demo/{name}")
    async def page(name: str = "index.html") -> Response:
        if name not in pages:
            raise HTTPException(
                404, f"the demo page has no file of this name; it has {', '.join(sorted(pages))}"
            )
        body, content_type = pages[name]
        return Response(body, headers=HEADERS, media_type=content_type)

    return routes


def _pages() -> dict[str, tuple[bytes, str]]:
    """Return each file's bytes and content type by its name."""
    folder = files("aisle.service") / "demo"
    return {
        file.name: (file.read_bytes(), CONTENT_TYPES[PurePath(file.name).suffix]) for file in folder.iterdir()
    }
