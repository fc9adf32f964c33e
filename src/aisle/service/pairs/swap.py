"""Swap the pair in use while the server runs: notice a new one, load it, check it, switch.

The current pair is that of the index's current version, or that of a pointer file. A model that is replaced
in its folder counts as a new pair too. Requests that have begun
finish on the old pair. A pair that cannot be loaded or does not fit is refused, and the old one stays.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from aisle.errors import AisleError, IndexIntegrityError
from aisle.index.layout import version_directory
from aisle.index.manifest import MANIFEST_FILE, read_manifest
from aisle.index.version_folders import lineage
from aisle.service.engine import Engine
from aisle.service.hidden_paths import local_places, public_message
from aisle.service.pairs.model_files import FilesState, files_state
from aisle.service.pairs.pointer_file import Published, read_pointer
from aisle.service.pairs.served_pair import PairSource, ServedPair, load_pair
from aisle.service.request_errors import RequestError
from aisle.service.worker_threads import start_worker

__all__ = ["POLL_SECONDS", "PairSwapper", "SwapStatus", "Target", "followed_pointer", "watched_index"]

LOGGER = logging.getLogger("aisle.service")
POLL_SECONDS = 2.0
"""Default seconds between two looks at the current version. A look reads one small file, and lists the
model's folder."""
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """The pair that should be in use.

    Args:
        source: Where it is loaded from.
        index_fingerprint: SHA-256 of the manifest of its version.
    """

    source: PairSource
    index_fingerprint: str

    def is_used_by(self, pair: ServedPair) -> bool:
        """Return whether a pair is this one, loaded from the files that its model has now."""
        same = (pair.source, pair.index_fingerprint) == (self.source, self.index_fingerprint)
        return same and not pair.model_files.changed


@dataclass(frozen=True)
class Watched:
    """Where the pair that should be in use is named.

    Args:
        name: Name of the place in messages.
        current: Function that reads the target; it raises if it cannot be read.
        fallbacks: Function that returns older sources, the newest first, for a start with a damaged target.
    """

    name: str
    current: Callable[[], Target]
    fallbacks: Callable[[], Iterator[PairSource]]


def watched_index(source: PairSource) -> Watched:
    """Watch the current version of an index."""
    index_dir = source.index_dir

    def current() -> Target:
        manifest = index_dir / MANIFEST_FILE
        read_manifest(index_dir)
        return Target(source, hashlib.sha256(manifest.read_bytes()).hexdigest())

    def fallbacks() -> Iterator[PairSource]:
        return (replace(source, version=number) for number in lineage(index_dir))

    return Watched(str(index_dir), current, fallbacks)


def followed_pointer(path: Path, options: PairSource) -> Watched:
    """Watch a pointer file, which `aisle publish` writes.

    Args:
        path: Path of the pointer file.
        options: Options of every pair, such as the mode.
    """

    def source(published: Published) -> PairSource:
        return replace(
            options,
            index_dir=Path(published.index_dir),
            model=published.model,
            version=published.index_version,
        )

    def current() -> Target:
        published = read_pointer(path)
        return Target(source(published), published.index_fingerprint)

    def fallbacks() -> Iterator[PairSource]:
        previous = read_pointer(path).previous
        return iter([] if previous is None else [source(previous)])

    return Watched(str(path), current, fallbacks)


@dataclass(frozen=True)
class SwapStatus:
    """What became of the swaps so far."""

    swaps: int = 0
    """Pairs that came into use after the first."""
    refused: int = 0
    """Attempts that failed."""
    swapped_at: str | None = None
    """Time when the pair in use came into use: ISO 8601, UTC."""
    problem: str | None = None
    """Why the pair that should be in use is not, without paths of the server; None if it is."""


class PairSwapper:
    """Keep an engine on the pair that should be in use.

    Args:
        engine: The engine.
        watched: Where that pair is named.
        poll_seconds: Seconds between two looks.
        on_failure: Function called if no pair can be loaded at the start, with the error.
    """

    def __init__(
        self,
        engine: Engine,
        watched: Watched,
        *,
        poll_seconds: float = POLL_SECONDS,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._engine = engine
        self._watched = watched
        self._poll_seconds = poll_seconds
        self._on_failure = on_failure
        self._swapping = threading.Lock()
        self._stopped = threading.Event()
        self._retry_at = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._failed: tuple[Target, FilesState] | None = None
        self.status = SwapStatus()

    def start(self) -> None:
        """Load the first pair and watch for others, in a thread."""
        start_worker(self._watch, "swap")

    def stop(self) -> None:
        """End the thread after the pair that it loads, if any."""
        self._stopped.set()

    def load_first(self) -> None:
        """Load the current pair, or the newest older one that can be loaded.

        A server that is killed after a new version was refused starts again with the last good version.

        Raises:
            AisleError: No pair can be loaded; the error is that of the current pair.
            OSError: A file cannot be read.
        """
        with self._swapping:
            target = None
            try:
                target = self._watched.current()
                self._use(self._load(target))
            except (AisleError, OSError) as error:
                pair = self._older_pair()
                if pair is None:
                    raise
                self._use(pair)
                self._refuse(error, target)

    def swap(self, *, again: bool = False) -> bool:
        """Load and use the current pair if it is not in use; return whether the pair changed.

        Args:
            again: Whether to try a pair that was refused before, without waiting.

        Raises:
            RequestError: The pair is refused; the old one answers.
        """
        with self._swapping:
            target, attempt = None, None
            try:
                target = self._watched.current()
                if target.is_used_by(self._engine.pair):
                    self.status = replace(self.status, problem=None)
                    return False
                attempt = target, self._files_of(target)
                if not again and attempt == self._failed and time.monotonic() < self._retry_at:
                    return False
                pair = self._load(target)
            except (AisleError, OSError) as error:
                self._wait_longer(attempt)
                self._refuse(error, target)
                raise RequestError("swap_refused", str(self.status.problem)) from error
            self._use(pair)
            return True

    def _load(self, target: Target) -> ServedPair:
        keep = self._engine.pair if self._engine.ready else None
        pair = load_pair(target.source, keep=keep, log=LOGGER.info)
        if target.source.version is not None and pair.index_fingerprint != target.index_fingerprint:
            raise IndexIntegrityError(
                f"{target.source.index_dir}: version {pair.version} has changed since it was published; "
                "publish it again"
            )
        return pair

    def _files_of(self, target: Target) -> FilesState:
        """Return the state of the files of a target's model, as far as they are known before it is loaded."""
        named = (target.source.model, target.source.base_model, *self._engine.pair.model_files.folders)
        return files_state(sorted({folder for folder in named if folder is not None}))

    def _older_pair(self) -> ServedPair | None:
        try:
            sources = list(self._watched.fallbacks())
        except (AisleError, OSError):
            return None
        for source in sources:
            try:
                return load_pair(source, log=LOGGER.info)
            except (AisleError, OSError) as error:
                LOGGER.error("version %s cannot be served either: %s", source.version, error)
        return None

    def _use(self, pair: ServedPair) -> None:
        swapped = self._engine.ready
        self._engine.switch(pair)
        self._failed, self._retry_seconds = None, FIRST_RETRY_SECONDS
        self.status = replace(
            self.status,
            swaps=self.status.swaps + swapped,
            swapped_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            problem=None,
        )
        LOGGER.info(
            "version %d of %s answers, with the model %s",
            pair.version,
            pair.source.index_dir,
            pair.model,
        )

    def _refuse(self, error: Exception, target: Target | None) -> None:
        pair = self._engine.pair
        reason = f"version {pair.version} of {pair.source.index_dir} keeps answering: {error}"
        wanted = [] if target is None else [*target.source.places, *_recorded_places(target.source)]
        places = local_places([self._watched.name, *pair.places, *wanted])
        problem = public_message(reason, places)
        if problem != self.status.problem:
            LOGGER.error("%s: its current pair is refused, and %s", self._watched.name, reason)
        self.status = replace(self.status, refused=self.status.refused + 1, problem=problem)

    def _wait_longer(self, attempt: tuple[Target, FilesState] | None) -> None:
        """Set when the same pair is tried again: its files may still be on their way."""
        if attempt is None or attempt != self._failed:
            self._failed, self._retry_seconds = attempt, FIRST_RETRY_SECONDS
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)

    def _watch(self) -> None:
        try:
            if not self._engine.ready:
                self.load_first()
        except BaseException as error:  # the main thread raises it
            if self._on_failure is not None:
                self._on_failure(error)
            return
        while not self._stopped.wait(self._poll_seconds):
            try:
                self.swap()
            except RequestError:
                continue  # logged
            except Exception:  # a defect must not end the watch
                LOGGER.exception("a swap failed")


def _recorded_places(source: PairSource) -> list[str | None]:
    """Return the folders of the encoder that an index records, as far as its manifest can be read."""
    index_dir, number = source.index_dir, source.version
    try:
        encoder = read_manifest(index_dir if number is None else version_directory(index_dir, number)).encoder
    except (AisleError, OSError):
        return []
    return [encoder.get("model"), encoder.get("base_model")]
