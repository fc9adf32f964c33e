"""Packages that are loaded and unloaded while the server runs, by name."""

from __future__ import annotations

import errno
import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aisle.errors import AisleError
from aisle.service.hidden_paths import local_places, public_message
from aisle.service.packages.served_package import package_size, read_package
from aisle.service.request_errors import RequestError
from aisle.service.running_service import RunningService
from aisle.system.available_memory import available_memory
from aisle.system.memory import return_free_memory

__all__ = ["LoadedModel", "LoadedModels"]


@dataclass(frozen=True)
class LoadedModel:
    """A package that answers.

    Args:
        name: Name that the platform gave it.
        url: Folder of the package, as the platform named it.
        service: Engine and queue of the package.
    """

    name: str
    url: str
    service: RunningService


class LoadedModels:
    """The packages in memory; any number of threads may use them.

    Args:
        start: Function that loads the package in a folder and starts its service.
        available: Function that returns the bytes of memory that are left; None if unknown.
    """

    def __init__(
        self,
        start: Callable[[Path], RunningService],
        available: Callable[[], int | None] = available_memory,
    ) -> None:
        self._start = start
        self._available = available
        self._changed = threading.Lock()
        self._loaded: dict[str, LoadedModel] = {}
        self._loading: dict[str, int] = {}

    def load(self, name: str, url: str) -> None:
        """Load a package.

        Raises:
            RequestError: The name is in use, or there is too little memory; the platform then unloads
                another model and tries again. Or the folder has no package, or it is damaged.
        """
        folder = Path(url)
        try:
            read_package(folder)
        except AisleError as error:
            raise _unusable(error, folder) from None
        needed = package_size(folder)
        with self._changed:
            if name in self._loaded or name in self._loading:
                raise RequestError("model_loaded", f"model_name: {name!r:.100} is loaded already")
            self._check_memory(needed)
            self._loading[name] = needed
        try:
            service = self._start(folder)
            with self._changed:
                self._loaded[name] = LoadedModel(name, url, service)
        except MemoryError:
            raise _no_memory(needed, None) from None
        except AisleError as error:
            raise _unusable(error, folder) from None
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise _no_memory(needed, None) from None
            raise _unusable(f"url: {url}: cannot be read: {error}", folder) from None
        finally:
            with self._changed:
                del self._loading[name]

    def _check_memory(self, needed: int) -> None:
        """Refuse a package that does not fit beside those that are being loaded."""
        available = self._available()
        if available is not None and needed > available - sum(self._loading.values()):
            raise _no_memory(needed, available)

    def __getitem__(self, name: str) -> LoadedModel:
        """Return a loaded package.

        Raises:
            RequestError: It is not loaded.
        """
        with self._changed:
            found = self._loaded.get(name)
        if found is None:
            raise RequestError("not_found", f"model_name: {name!r:.100} is not loaded")
        return found

    def all(self) -> list[LoadedModel]:
        """Return the loaded packages in the order of their names."""
        with self._changed:
            return [self._loaded[name] for name in sorted(self._loaded)]

    def unload(self, name: str) -> None:
        """Finish the requests of a package, and free its memory.

        Raises:
            RequestError: It is not loaded.
        """
        found = self[name]
        with self._changed:
            if self._loaded.pop(name, None) is None:
                raise RequestError("not_found", f"model_name: {name!r:.100} is not loaded")
        found.service.stop()
        del found
        gc.collect()  # the parts of a service refer to each other, so they go only now
        return_free_memory()

    def close(self, seconds: float) -> None:
        """Stop all packages at the end of the server.

        Args:
            seconds: Most seconds to wait for busy threads, of all packages together.
        """
        with self._changed:
            models = list(self._loaded.values())
            self._loaded.clear()
        until = time.monotonic() + seconds
        for model in models:
            model.service.stop(max(0.0, until - time.monotonic()))


def _unusable(error: AisleError | str, folder: Path) -> RequestError:
    """Return the error of a package that cannot be loaded, without the server's paths."""
    return RequestError("invalid_request", public_message(str(error), local_places([folder])))


def _no_memory(needed: int, available: int | None) -> RequestError:
    left = "" if available is None else f", and {available / 1e6:,.0f} MB are left"
    return RequestError(
        "insufficient_memory", f"the package takes about {needed / 1e6:,.0f} MB{left}; unload another model"
    )
