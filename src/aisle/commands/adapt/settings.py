"""The settings of `adapt`, and the checks of its settings and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Interval
from pydantic import Field

from aisle.commands.named_inputs import check_indexes, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    IndexDir,
    IndexModel,
    Json,
    KeepVersions,
    OnBadRow,
    OverwriteOutputDir,
    Seed,
    TrustRemoteCode,
)
from aisle.config.annotations import Required
from aisle.config.label_map import LabelGains
from aisle.data.files import expand_files
from aisle.types.adapter_options import AdapterOptions
from aisle.types.choices import AdapterKind

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SIZES: Mapping[AdapterKind, int] = {"low_rank": 32, "mlp": 256, "lora": 8}
"""Default of --size."""
MOST_SIZE = 8192
Share = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True)
class AdaptSettings:
    """Train a query adapter for an index: a small function of query embeddings, or the query tower with LoRA.

    No product is embedded. The adapter learns from judged pairs whose products are in the index. It becomes
    part of a new version of the index, which shares all other files with the version before, and every search
    applies it. It is kept only if it gains on queries that are held out: the 95% interval of the gain must
    lie above 0. Otherwise nothing is published, and the command ends with exit code 0. `rollback` goes back.
    """

    index_dir: IndexDir
    train_file: Required[tuple[str, ...]] = ()
    """Judged pairs: csv, tsv, jsonl, json or parquet files. Globs and .gz are allowed. A pair names a product
    of the index by its id, or by the text that was embedded. Pairs with other products are left out and
    counted."""
    held_out_file: tuple[str, ...] | None = None
    """Judged pairs that decide whether the adapter is kept, in files like those of --train_file. Their
    queries are left out of the training. If not given, a share of the queries is held out."""
    held_out_share: Share = 0.2
    """Share of the queries to hold out without --held_out_file."""
    validation_share: Share = 0.15
    """Share of the training queries that choose the best epoch."""
    query_column: str | None = None
    """Column with the query. If not given, it is found by its name (query, question, search_term, anchor)."""
    product_column: str | None = None
    """Column with the product text, or with a list of texts. If not given, it is found by its name (product,
    product_title, title, positive, pos). Not needed if there are product ids."""
    product_id_column: str | None = None
    """Column with the product id. If not given: product_id."""
    label_column: str | None = None
    """Column with the relevance. If not given, it is found by its name; without it, every pair is a positive.
    "none" reads the pairs as if they had no labels."""
    query_id_column: str | None = None
    """Column with the query id, if any."""
    hard_negatives_column: str | None = None
    """Column with a list of wrong products for the query: texts, or ids if the pairs have only ids."""
    label_map: LabelGains = None
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    kind: AdapterKind = "linear"
    """Function of the query embedding q. linear: W q. low_rank: q + U (D q), with matrices of rank --size.
    mlp: q + O relu(H q + h) + o, with a hidden layer of --size. lora: the query tower itself, whose attention
    layers get low-rank updates (LoRA) of rank --size; each step encodes its queries. All start as the
    identity."""
    size: Annotated[int, Interval(ge=1, le=MOST_SIZE)] | None = None
    """Rank of low_rank and lora, or size of the hidden layer of mlp, at most 8,192. If not given: 32 for
    low_rank, 8 for lora, 256 for mlp."""
    num_train_epochs: Count = 20
    """Passes over the training queries. The best epoch on the validation queries is kept."""
    patience: Count | None = None
    """Epochs without a better validation figure after which training stops. If not given, all epochs are
    trained, because with few validation queries their figure rises and falls by chance."""
    batch_queries: Count = 128
    """Queries of a training step."""
    learning_rate: Positive = 3e-4
    """Highest learning rate; it falls to 0 along a cosine."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Decay of the adapter towards the identity."""
    temperature: Positive = 0.05
    """Number by which cosines are divided in the loss."""
    negatives: Count = 1024
    """Products of the whole index that the queries of a step are contrasted with."""
    hard_negatives: Annotated[int, Interval(ge=0, le=50)] = 32
    """Further products per query, drawn from the best 50 of a search, that are not judged for the query. They
    are used if the index has more products than --negatives."""
    seed: Seed = 0
    """Seed of the splits, the first weights and all draws."""
    embedding_cache: str | None = None
    """Folder to keep the embeddings of queries in, for later runs with the same encoder. If not given: a
    folder that is removed at the end."""
    output_dir: str | None = None
    """Folder for a run with two towers, if the adapter is published: for queries the encoder with the adapter
    (a function as Dense layers), for products the encoder. sentence-transformers loads it with equal
    embeddings."""
    overwrite_output_dir: OverwriteOutputDir = False
    keep_versions: KeepVersions = None
    model: IndexModel = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None

    def options(self) -> AdapterOptions:
        """Return the options of the training."""
        options = AdapterOptions(
            kind=self.kind,
            epochs=self.num_train_epochs,
            patience=self.patience,
            batch_queries=self.batch_queries,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            temperature=self.temperature,
            negatives=self.negatives,
            hard_negatives=self.hard_negatives,
            seed=self.seed,
        )
        return replace(options, size=self.size or SIZES.get(self.kind, 32))


def adapt_problems(settings: AdaptSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    problems = []
    if not settings.train_file:
        problems.append("--train_file: give the judged pairs to learn from")
    if settings.kind == "linear" and settings.size is not None:
        problems.append(f"--size {settings.size}: --kind linear has no size; it is for the others")
    return problems


def adapt_inputs(settings: AdaptSettings) -> None:
    """Check that the index, the encoder and the judged pairs exist."""
    check_indexes(settings.index_dir)
    expand_files(settings.train_file)
    expand_files(settings.held_out_file or ())
    check_models(settings.model, settings.base_model)
