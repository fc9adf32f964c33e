"""Check and write the run files of an evaluation, in TREC format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.compute

from aisle.commands.output import Output
from aisle.errors import ConfigError
from aisle.evaluation.runs import write_trec_run
from aisle.index import SearchIndex
from aisle.types.columns import ID_COLUMN


def check_run_file(path: Path, queries: Iterable[str], index: SearchIndex) -> None:
    """Refuse a run file that could not be written, before anything is embedded.

    Raises:
        ConfigError: Its folder does not exist or is not writable, `path` is a folder or a device, or an id
            has white space in it, which separates the fields of a run.
    """
    problem = None
    if not path.parent.is_dir():
        problem = f"there is no folder {path.parent}; make it first, or name a file elsewhere"
    elif path.exists() and not path.is_file():
        problem = "this is not a file; name one"
    elif not os.access(path.parent, os.W_OK):
        problem = f"the folder {path.parent} cannot be written to; name a file elsewhere"
    else:
        products = index.products.column(ID_COLUMN)
        spaced = products.filter(pyarrow.compute.match_substring_regex(products, r"[\s\pZ]"))
        for what, ids in (("query", queries), ("product", spaced.slice(0, 1).to_pylist())):
            odd = next((text for text in ids if text.split() != [text]), None)
            if odd is not None:
                problem = f"fields are separated by white space, which the {what} id {odd!r} has in it"
    if problem is not None:
        raise ConfigError(f"--run_file {path}: {problem}")


def write_runs(
    path: Path, runs: Mapping[str, Mapping[str, Mapping[str, float]]], *, main: str, output: Output
) -> None:
    """Write the rankings of the main row to `path`, and those of other rows to `path` with the row's name.

    The name comes before an ending .gz. A row that answers no query has no file, and a warning is printed.

    Raises:
        EvaluationError: A file cannot be written.
    """
    stem = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    for name, run in runs.items():
        ending = path.name[len(stem) :]
        target = path if name == main else path.with_name(f"{stem}.{name}{ending}")
        if any(run.values()):
            write_trec_run(target, run)
            output.log(f"ranking of {name}: {target}")
        else:
            output.log(f"warning: {name} answers no query; {target} is not written")
