"""Searches of the retrievers: with an open searcher, or by HTTP with a service (`aisle serve`)."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from aisle.errors import ConfigError, SearchError
from aisle.integrations.found_products import FoundProduct, RetrieverOptions
from aisle.search.candidates import WINDOW
from aisle.search.searcher import Searcher
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.json_values import json_ready

__all__ = ["TIMEOUT_SECONDS", "ProductSearch", "product_search"]

TIMEOUT_SECONDS = 30.0


class ProductSearch(Protocol):
    """A search for products; any number of threads may use it."""

    def find(self, query: str, options: RetrieverOptions) -> list[FoundProduct]:
        """Return the best products of a query, best first.

        Raises:
            SearchError: The search cannot be answered.
        """


def product_search(
    source: Searcher | str, *, api_key: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> ProductSearch:
    """Return the search of a searcher or service.

    Args:
        source: An open searcher, or the URL of a service, such as `http://127.0.0.1:8080`.
        api_key: Key of the service.
        timeout: Seconds to wait for the service.

    Raises:
        ConfigError: The URL is not one of HTTP, the timeout is not positive, or a key is given with a
            searcher.
    """
    if isinstance(source, Searcher):
        if api_key is not None:
            raise ConfigError("api_key: a searcher in this process takes none; leave it out")
        return _SearcherSearch(source)
    if not isinstance(source, str) or not source.startswith(("http://", "https://")):
        raise ConfigError(
            f"source: must be a searcher (aisle.open_searcher) or the URL of a service, such as "
            f"http://127.0.0.1:8080, found {source!r:.100}"
        )
    if timeout <= 0:
        raise ConfigError(f"timeout: must be above 0 seconds, found {timeout}")
    return _ServiceSearch(source, api_key, timeout)


class _SearcherSearch:
    """Searches with an open searcher.

    Args:
        searcher: The searcher.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def find(self, query: str, options: RetrieverOptions) -> list[FoundProduct]:
        (found,) = self._searcher.candidates(
            [query],
            where=options.filter,
            mode=options.mode,
            min_score=options.min_score,
            p=options.p,
            window=max(WINDOW, options.top_k),
        )
        names = options.columns
        if names is not None:
            known = [name for name in found.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
            for name in names:
                if name not in known:
                    raise SearchError(
                        f"fields: the index has no column {name!r}; it has {', '.join(known) or 'none'}"
                    )
        return [
            FoundProduct(
                product_id=candidate.product_id,
                rank=candidate.rank,
                score=candidate.score,
                scores=candidate.scores,
                ranks=candidate.ranks,
                fields=json_ready(
                    candidate.payload if names is None else {name: candidate.payload[name] for name in names}
                ),
                index_version=found.version,
            )
            for candidate in found.page(0, options.top_k, columns=names)
        ]


class _NoRedirects(HTTPRedirectHandler):
    """Refuse redirects, which would send the API key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _ServiceSearch:
    """Searches by HTTP.

    Args:
        url: Address of the service.
        api_key: Key of the service; None sends none.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self._opener = build_opener(_NoRedirects)

    def find(self, query: str, options: RetrieverOptions) -> list[FoundProduct]:
        asked = {
            "query": query,
            "top_k": options.top_k,
            "filter": options.filter,
            "mode": options.mode,
            "min_score": options.min_score,
            "p": options.p,
            "fields": options.columns,
        }
        answer = self._answer({name: value for name, value in asked.items() if value is not None})
        try:
            return [
                FoundProduct(
                    product_id=hit["id"],
                    rank=hit["rank"],
                    score=hit["score"],
                    scores=hit["scores"],
                    ranks=hit["ranks"],
                    fields=hit["fields"],
                    index_version=answer["index"]["version"],
                )
                for hit in answer["hits"]
            ]
        except (KeyError, TypeError):
            raise SearchError(f"{self._url}: {_NOT_OURS}") from None

    def _answer(self, asked: dict[str, Any]) -> Any:
        request = Request(f"{self._url}/search", json.dumps(asked).encode(), self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return json.load(response)
        except HTTPError as error:
            with error:
                raise SearchError(f"{self._url}: {_refusal(error)}") from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise SearchError(
                f"{self._url}: gave no answer ({str(reason) or type(reason).__name__}); start it with: "
                "aisle serve --index_dir DIR"
            ) from None
        except ValueError:
            raise SearchError(f"{self._url}: {_NOT_OURS}") from None


_NOT_OURS = "its answer is not that of aisle serve; give the address that aisle serve prints"


def _refusal(error: HTTPError) -> str:
    """Return the reason that a service gives in its error."""
    try:
        message = json.loads(error.read(100_000))["error"]["message"]
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return f"answered with status {error.code}; {_NOT_OURS}"
    after = error.headers.get("Retry-After")
    return f"{message} (status {error.code}{f', try again after {after} s' if after else ''})"
