"""The synthetic catalogue, written to disk."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from aisle.commands.output import Output
from aisle.commands.tool_settings import SampleSettings
from aisle.sample_shop.generate import SampleFiles, write_sample


def sample(settings: SampleSettings) -> SampleFiles:
    """Write the sample and say what it holds.

    Raises:
        DataError: the folder holds something else, or too few products are asked for.
    """
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
    output.say(
        f"{written.product_count:,} synthetic products and {written.query_count:,} judged queries "
        f"in {settings.output_dir}, {seconds:.1f} s"
    )
    output.document({name: _plain(value) for name, value in asdict(written).items()})
    return written


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
