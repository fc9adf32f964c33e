"""`aisle quickstart`: write the sample catalogue, train, index, evaluate and report."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisle.commands.command import Command
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import ConfigFile, Json
from aisle.config.recipes import find_config
from aisle.errors import AisleError

if TYPE_CHECKING:
    from aisle.evaluation.document import Answer, Evaluation, QueryChange
    from aisle.sample_shop.generate import SampleFiles

SAMPLE_GRADES = "E=1,S=0.1,C=0.01,I=0"
TEXT_TEMPLATE = "{title} {brand}"
QUERY = "gift for a toddler who likes trains"
IMPROVED, WORSENED = 2, 1
"""Number of queries to show with the largest gain, and with the largest loss."""


@dataclass(frozen=True)
class QuickstartSettings:
    """Train on the sample catalogue, index it, and compare.

    The report compares BM25, the base model, the tuned model and hybrid search.
    """

    output_dir: str = "runs/quickstart"
    """Folder of the run. The sample, the index and the report are written beside it."""
    recipe: str = "quickstart"
    """Training recipe: a YAML file, or the name of a recipe that comes with aisle."""
    json: Json = False
    config: ConfigFile = None


def quickstart(settings: QuickstartSettings) -> Mapping[str, Any]:
    """Run every step and return the evaluation's document with the total time in seconds.

    Raises:
        AisleError: A step failed; its message was printed above.
    """
    from aisle.evaluation.document import Evaluation
    from aisle.sample_shop.generate import write_sample

    output = Output(json_only=settings.json)
    quieten_libraries()
    started = time.perf_counter()
    run_dir = Path(settings.output_dir)
    sample_dir, index_dir, report_dir = (
        run_dir.with_name(run_dir.name + end) for end in ("-sample", "-index", "-report")
    )
    find_config(settings.recipe, flag="--recipe")

    output.log(f"writing the synthetic sample catalogue to {sample_dir}")
    sample = write_sample(sample_dir, overwrite=True)
    _run(_train_command(settings.recipe, run_dir, sample), output)
    _run(_build_command(run_dir, sample, index_dir), output)
    output.log(
        "\ncomparing BM25, the base model and the tuned model on queries and pairs that were not trained on"
    )
    _run(_evaluate_command(index_dir, sample, report_dir), output)

    document = json.loads((report_dir / "report.json").read_text(encoding="utf-8"))
    _show_changes(Evaluation.from_dict(document), output)
    seconds = round(time.perf_counter() - started, 1)
    output.log(_next_steps(run_dir, index_dir, report_dir / "report.html", seconds=seconds))
    figures = {**document, "seconds": seconds}
    output.document(figures)
    return figures


def _train_command(recipe: str, run_dir: Path, sample: SampleFiles) -> list[str]:
    return [
        *("accelerate", "launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "aisle", "train", "--use_peft", "--config", recipe, "--output_dir", str(run_dir)),
        *("--train_file", str(sample.train), "--validation_file", str(sample.validation)),
        "--overwrite_output_dir",
    ]


def _build_command(run_dir: Path, sample: SampleFiles, index_dir: Path) -> list[str]:
    return [
        *("aisle", "build", "--model", str(run_dir), "--catalog", str(sample.products)),
        *("--text_template", TEXT_TEMPLATE, "--index_dir", str(index_dir)),
    ]


def _evaluate_command(index_dir: Path, sample: SampleFiles, report_dir: Path) -> list[str]:
    return [
        *("aisle", "evaluate", "--index_dir", str(index_dir)),
        *("--queries", str(sample.queries), "--qrels", str(sample.qrels)),
        *("--pairs", str(sample.test), "--product_column", "product_title", "--label_column", "esci_label"),
        *("--pairs_label_map", SAMPLE_GRADES, "--report", str(report_dir), "--model_card"),
    ]


def _run(command: Sequence[str], output: Output) -> None:
    """Print a command and run it with this interpreter; the user sees its output."""
    output.log(f"\n$ {shlex.join(command)}")
    ours = {"aisle": ["-m", "aisle"], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}[command[0]]
    stdout = sys.stderr if output.json_only else None
    done = subprocess.run([sys.executable, *ours, *command[1:]], check=False, stdout=stdout)
    if done.returncode != 0:
        raise AisleError(
            f"the command above failed with exit code {done.returncode}; its message is printed above"
        )


def _show_changes(evaluation: Evaluation, output: Output) -> None:
    """Print the answers before and after training for the queries that gained and lost most."""
    from aisle.commands.evaluate.printed_tables import side_by_side

    shown = {"gained": evaluation.improved[:IMPROVED], "lost": evaluation.worsened[:WORSENED]}
    for what, changes in shown.items():
        if changes:
            output.log(f"\n{evaluation.headline_metric} {what} most:")
        for change in changes:
            output.show(side_by_side(change.query, _answers(change)))


def _answers(change: QueryChange) -> dict[str, list[tuple[float, str]]]:
    def titled(answers: Sequence[Answer]) -> list[tuple[float, str]]:
        return [(answer.score, answer.title) for answer in answers]

    return {
        f"base {change.base:.2f}": titled(change.before),
        f"tuned {change.tuned:.2f}": titled(change.after),
    }


def _next_steps(run_dir: Path, index_dir: Path, page: Path, *, seconds: float) -> str:
    index, bundle = shlex.quote(str(index_dir)), run_dir.with_name(f"{run_dir.name}-bundle")
    export = ["aisle", "export", str(run_dir), "--output_dir", str(bundle)]
    answer = ["aisle", "query", "--index_dir", str(index_dir), "--model", str(bundle), QUERY]
    return f"""
Done in {seconds:.0f} s. Open the report in a browser: {page.resolve().as_uri()}
The model card, as the Hub would show it: {run_dir / "README.md"}

Try next:

  aisle query --index_dir {index} "{QUERY}"
  aisle query --index_dir {index}

Export the model, and answer from the bundle, which starts fast and needs no torch:

  {shlex.join(export)}
  {shlex.join(answer)}

With your own judged pairs (a csv file with query, product and relevance from 0 to 1):

  accelerate launch -m aisle train --use_peft --train_file pairs.csv --output_dir runs/mine
  aisle build --model runs/mine --catalog products.csv --index_dir runs/mine-index

Search in a browser; in aisle's repository, make demo shows the base model beside the tuned one:

  aisle serve --demo --index_dir {index}
  make demo
"""


COMMAND = Command("quickstart", QuickstartSettings, quickstart, extra="quickstart")
