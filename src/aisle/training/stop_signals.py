"""Turn SIGTERM and SIGINT into a stop request that the training loop checks between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

DEFAULT_HANDLERS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
"""Signals that request a stop, with Python's default handlers."""


class GracefulStop:
    """Context manager in which the first SIGTERM or SIGINT requests a stop, and the second ends the process.

    Outside the main thread, where Python allows no handlers, signals keep their effect. If the process was
    started with a signal ignored (by `nohup`, or as a shell's background job), it stays ignored.

        with GracefulStop() as stop:
            while not stop.requested:
                ...

    Attributes:
        requested: Name of the first signal received in the context, or None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> GracefulStop:
        self.requested = None
        if threading.current_thread() is threading.main_thread():
            for number in DEFAULT_HANDLERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            # None means that the handler was not installed from Python, and cannot be restored.
            signal.signal(number, DEFAULT_HANDLERS[number] if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        for held in self._previous:
            signal.signal(held, DEFAULT_HANDLERS[held])
