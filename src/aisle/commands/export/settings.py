"""The settings of `export`, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from aisle.bundle.bundle_record import BundlePrecision
from aisle.commands.named_inputs import check_files, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    CatalogIdColumn,
    ConfigFile,
    Delimiter,
    Encoding,
    HubToken,
    Json,
    MaxLength,
    ModelRevision,
    OnBadRow,
    OverwriteOutputDir,
    Pooling,
    ProductPrompt,
    QrelsIdColumn,
    QueryIdColumn,
    QueryPrompt,
    TextTemplate,
    TrustRemoteCode,
)
from aisle.config.annotations import Positional
from aisle.config.label_map import LabelGains
from aisle.extras import require_extra


@dataclass(frozen=True)
class ExportSettings:
    """Write a model as a bundle that runs without torch.

    A bundle has an ONNX graph, the tokenizer and bundle.json. The extra `onnx` is enough to embed texts with
    it. The export compares the bundle's embeddings with the model's, and writes no bundle if they differ too
    much. The bundle of a reranker gives scores of pairs, which are compared in the same way.
    """

    model: Positional[str]
    """Run of `aisle train` or `aisle train-reranker`, adapter or base model, as a folder or a Hub id."""
    output_dir: str
    """Folder of the bundle."""
    precision: BundlePrecision = "fp32"
    """Number type of the bundle: fp32 gives the model's embeddings; int8 is faster, and nearly the same. On
    x86-64, int8 needs a CPU with VNNI instructions, to export and to embed."""
    catalog: tuple[str, ...] | None = None
    """Catalogue with texts to compare: csv, tsv, jsonl, json or parquet files. Up to 2,000 texts are
    compared, all with --qrels, and some of the sample shop. If not given: texts of the sample shop."""
    queries: str | None = None
    """Queries to compare: a csv, tsv, jsonl, json or parquet file. If not given: queries of the sample
    shop."""
    qrels: tuple[str, ...] | None = None
    """Judgements of --queries: TREC or BEIR qrels, or csv, tsv, jsonl, json or parquet files. With
    int8, nDCG@10 over --catalog must not fall by more than 0.005."""
    id_column: CatalogIdColumn = "product_id"
    qrels_id_column: QrelsIdColumn = None
    query_id_column: QueryIdColumn = None
    label_map: LabelGains = None
    text_template: TextTemplate = "{title}"
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    accept: bool = False
    """Write the bundle even if its embeddings differ too much from the model's. bundle.json records it."""
    overwrite_output_dir: OverwriteOutputDir = False
    base_model: AdapterBase = None
    model_revision: ModelRevision = None
    pooling: Pooling = None
    query_prompt: QueryPrompt = None
    product_prompt: ProductPrompt = None
    max_length: MaxLength = None
    hub_token: HubToken = field(default=None, repr=False)
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def export_problems(settings: ExportSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    if settings.qrels is not None and (settings.queries is None or settings.catalog is None):
        return ["--qrels: needs --queries and --catalog, whose queries and products it judges"]
    return []


def export_inputs(settings: ExportSettings) -> None:
    """Check that the model and the files exist, and that this CPU computes in the precision."""
    from aisle.bundle.bundle_file import check_cpu
    from aisle.data.files import expand_files

    check_cpu(settings.precision, name="--precision int8")
    check_models(settings.model, settings.base_model)
    check_files(settings.queries, *(settings.qrels or ()))
    expand_files(settings.catalog or ())
    if settings.qrels is not None:
        require_extra("eval")
