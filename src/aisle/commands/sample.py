"""`aisle sample`: write a synthetic catalogue with judged queries."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, Json, Seed

if TYPE_CHECKING:
    from aisle.sample_shop.generate import SampleFiles


@dataclass(frozen=True)
class SampleSettings:
    """Write a synthetic catalogue with judged queries.

    The same seed gives the same files.
    """

    output_dir: str
    """Folder to write."""
    products: Annotated[int, Interval(ge=1, le=1_000_000)] = 2400
    """Products in the catalogue."""
    seed: Seed = 0
    """Seed of the random numbers. Another seed gives another catalogue."""
    overwrite: bool = False
    """Replace the sample in --output_dir, if there is one."""
    json: Json = False
    config: ConfigFile = None


def sample(settings: SampleSettings) -> SampleFiles:
    """Write the sample and print its counts.

    Raises:
        DataError: The folder contains other files, or --products is too low.
    """
    from aisle.sample_shop.generate import write_sample

    output = Output(json_only=settings.json)
    started = time.perf_counter()
    with output.progress("products", settings.products) as bar:
        written = write_sample(
            Path(settings.output_dir),
            products=settings.products,
            seed=settings.seed,
            overwrite=settings.overwrite,
            on_progress=bar.reach,
        )
    seconds = time.perf_counter() - started
    output.log(
        f"{written.product_count:,} synthetic products and {written.query_count:,} judged queries "
        f"in {settings.output_dir}, {seconds:.1f} s"
    )
    output.document({name: _plain(value) for name, value in asdict(written).items()})
    return written


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


COMMAND = Command("sample", SampleSettings, sample)
