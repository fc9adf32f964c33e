"""The settings of `rag`, and the checks of its settings and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from pydantic import Field

from aisle.commands.generator_settings import (
    DEFAULT_INPUT,
    GeneratorInput,
    GeneratorName,
    RagTemperature,
    input_problems,
)
from aisle.commands.named_inputs import check_data_sets, check_indexes, check_models
from aisle.commands.shared_settings import (
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    IndexDir,
    IndexModel,
    Json,
    OnBadRow,
    OverwriteOutputDir,
    Seed,
    TrustRemoteCode,
)
from aisle.config.annotations import Required


@dataclass(frozen=True)
class RagSettings:
    """Train the query tower of an index through the answers of a generator.

    For each question, the documents found are read by the generator, and the loss is the negative
    log-likelihood of the answer, summed over the documents (RAG-Sequence). The documents and the generator
    stay as they are, and the index stays valid.
    """

    index_dir: IndexDir
    generator: GeneratorName
    output_dir: str
    """Folder of the run: a run of two towers, for queries the trained tower, for products the encoder of the
    index."""
    train_file: Required[tuple[str, ...]] = ()
    """Questions with answers: csv, tsv, jsonl, json or parquet files. Globs and .gz are allowed."""
    validation_file: tuple[str, ...] | None = None
    """Questions whose answers choose the epoch, in files like those of --train_file. If not given, a share of
    the training questions is held out."""
    query_column: str | None = None
    """Column with the question. If not given, it is found by its name (query, question)."""
    answer_column: str = "answer"
    """Column with the answer."""
    validation_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Share of the questions to hold out without --validation_file. The epoch with the likeliest answers to
    them is saved."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    top_k: Count = 5
    """Documents to retrieve for a question."""
    temperature: RagTemperature = 0.05
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    """Learning rate of AdamW, constant."""
    num_train_epochs: Count = 3
    """Passes over the questions."""
    batch_size: Count = 8
    """Questions in a step."""
    generator_input: GeneratorInput = DEFAULT_INPUT
    seed: Seed = 42
    """Seed of the order of the questions, and of those to hold out."""
    model: IndexModel = None
    overwrite_output_dir: OverwriteOutputDir = False
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def rag_problems(settings: RagSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    missing = [] if settings.train_file else ["--train_file: required; give the questions with their answers"]
    return [*missing, *input_problems(settings.generator_input)]


def rag_inputs(settings: RagSettings) -> None:
    """Check that the index, the questions and the model exist, if they are given as files or folders."""
    check_indexes(settings.index_dir)
    check_data_sets((*settings.train_file, *(settings.validation_file or ())))
    check_models(settings.model)
