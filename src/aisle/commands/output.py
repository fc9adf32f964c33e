"""Output of a command: text and progress for people, one JSON document for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from aisle.commands.terminal import escaped, printable

UNLIMITED = 10_000
"""Width, in characters, of a line in a file or a pipe."""


class _Console(Console):
    """A console that removes control characters, and stops printing when its reader has exited (`| head`)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, self.file.fileno())


@dataclass(frozen=True)
class Output:
    """The output of a process; only the main process prints.

    Args:
        json_only: Print results as JSON on stdout, and everything else on stderr.
        silent: Print nothing; for processes other than the main process.
        stderr: Print text for people on stderr, also without `json_only`. A notebook shows it either way.
    """

    json_only: bool = False
    silent: bool = False
    stderr: bool = False
    console: Console = field(init=False)

    def __post_init__(self) -> None:
        console = self._console()
        object.__setattr__(self, "console", console)

    def _console(self, width: int | None = None) -> Console:
        stderr = self.json_only or self.stderr
        return _Console(stderr=stderr, quiet=self.silent, highlight=False, width=width)

    def log(self, message: str) -> None:
        """Print a line of text for people."""
        self.console.print(printable(message), markup=False, soft_wrap=True)

    def show(self, renderable: RenderableType, *, whole_lines: bool = False) -> None:
        """Print a table or another renderable for people.

        Args:
            renderable: Table or text to print.
            whole_lines: Do not wrap lines in a file or a pipe.
        """
        if whole_lines and not self.console.is_terminal:
            wide = self._console(width=UNLIMITED)
            wide.print(renderable)
        else:
            self.console.print(renderable)

    def document(self, content: Any) -> None:
        """Print the JSON document of `--json`; without that flag, print nothing."""
        if self.json_only and not self.silent:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False)
            sys.stdout.write(escaped(text) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Bar]:
        """Yield a progress bar: live on a terminal and in a notebook, a log line every 15 s elsewhere."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        live = self.console.is_terminal or _has_widgets(self.console)
        hidden = self.silent or not live
        with Progress(*columns, console=self.console, disable=hidden, transient=True) as bar:
            task = bar.add_task(label, total=total, note="")
            yield Bar(self, bar, task, label, total)


def _has_widgets(console: Console) -> bool:
    """Return whether a console belongs to a notebook that can redraw a bar."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def shown_time(iso: str) -> str:
    """Return a time as people read it, to the second: `2026-01-31 09:30:00`."""
    return iso[:19].replace("T", " ")


@dataclass
class Bar:
    """A progress bar; if it cannot be drawn, it logs a line every 15 s."""

    output: Output
    _bar: Progress
    _task: Any
    label: str
    total: int | None
    _done: int = 0
    _logged: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Advance the bar by `count`."""
        self._done += count
        self._bar.update(self._task, advance=count, note=note)
        if self._bar.disable and not self.output.silent and time.monotonic() - self._logged > 15:
            self._logged = time.monotonic()
            of = "" if self.total is None else f" of {self.total:,}"
            self.output.log(f"{self.label}: {self._done:,}{of} {note}".rstrip())

    def reach(self, done: int) -> None:
        """Set the bar to `done`, counted from the start."""
        self.advance(done - self._done)


def quieten_libraries() -> None:
    """Turn off the libraries' progress bars and notices, except for errors and download bars."""
    import huggingface_hub.utils
    import transformers

    hub_bars: Any = huggingface_hub.utils
    downloads_shown = not hub_bars.are_progress_bars_disabled()
    notices: Any = transformers.utils.logging
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    if downloads_shown:
        hub_bars.enable_progress_bars()
    if find_spec("datasets") is not None:  # not in the extra `encode`
        import datasets

        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)


SHOWN_METRICS = (
    *("served_ndcg@10", "unranked_ndcg@10"),
    *("roc_auc", "average_precision", "best_f1", "spearman"),
    *("mrr", "recall@10", "ndcg@10", "precision@1", "joint_pool_mrr", "joint_pool_precision@1"),
)


def figures(metrics: Mapping[str, Any]) -> str:
    """Return an evaluation's metrics in one line, with the reason if a metric is undefined."""
    shown = [f"{name} {metrics[name]:.4f}" for name in SHOWN_METRICS if metrics.get(name) is not None]
    if metrics.get("note"):
        shown.append(str(metrics["note"]))
    return ", ".join(shown) or "nothing was evaluated"
