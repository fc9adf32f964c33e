"""Settings that several commands share: types, limits and help texts."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from aisle.config.annotations import Help
from aisle.data import rows
from aisle.types.choices import PoolingMode

Count = Annotated[int, Interval(ge=1)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Interval(ge=0)]
Share = Annotated[float, Interval(ge=0, lt=1)]
LARGEST_RATING = 1e9

Json = Annotated[bool, Help("Print one JSON document on stdout, and everything else on stderr.")]
ConfigFile = Annotated[
    str | None,
    Help(
        "YAML file with values for any of these flags, or the name of a recipe that comes with aisle, "
        "such as faq. A flag on the command line wins."
    ),
]

IndexDir = Annotated[str, Help("Directory of the index.")]
KeepVersions = Annotated[
    Count | None,
    Help(
        "Versions of the index to keep from now on, including the new version. If not given: as many as "
        "the index keeps now, 3 for a new index. The versions that the current version was made from are "
        "removed last; see rollback."
    ),
]

IndexModel = Annotated[
    str | None,
    Help(
        "Encoder of the index, a folder or a Hub id. If not given: the folder or id that is "
        "recorded in the index."
    ),
]
AdapterBase = Annotated[
    str | None,
    Help("Base model of the encoder's adapter. If not given: the base model that the adapter names."),
]
ModelRevision = Annotated[str | None, Help("Branch, tag or commit of the model on the Hub.")]
OverwriteOutputDir = Annotated[bool, Help("Replace the run or model in --output_dir, if there is one.")]
TrustRemoteCode = Annotated[bool, Help("Run the Python code in the model's repository.")]
MaxTokens = Annotated[
    Annotated[int, Interval(ge=64)] | None,
    Help("Tokens to encode at a time, padding included. If not given: 1,024 on a CPU, 65,536 on a GPU."),
]
MaxLength = Annotated[
    Annotated[int, Interval(ge=4)] | None,
    Help("Longest text in tokens; the rest is cut off. If not given: the model's maximum."),
]
Pooling = Annotated[
    PoolingMode | None,
    Help("How a text's token vectors become one embedding. If not given: as the model is set."),
]
QueryPrompt = Annotated[
    str | None,
    Help('Text to put before every query, such as "query: " for e5. If not given: as the model is set.'),
]
ProductPrompt = Annotated[
    str | None,
    Help('Text to put before every product, such as "passage: " for e5. If not given: as the model is set.'),
]

CatalogIdColumn = Annotated[str, Help("Column of --catalog with the product id. Ids are unique.")]
TextTemplate = Annotated[
    str,
    Help('Text to embed, made from the columns of --catalog, such as "{title} {brand}".'),
]
QrelsIdColumn = Annotated[
    str | None,
    Help(
        "Column of --qrels with the product id. If not given, it is found by its name (product_id, "
        "corpus-id, doc_id)."
    ),
]
QueryIdColumn = Annotated[
    str | None,
    Help(
        "Column of --queries and --qrels with the query id. If not given, it is found by its name "
        "(query_id, qid)."
    ),
]
LabelMax = Annotated[
    Annotated[float, Interval(gt=0, le=LARGEST_RATING)] | None,
    Help(
        "Highest value of a rating from 0, such as 5 for sentence pairs that are rated 0 to 5. Labels are "
        "divided by it. If not given: 1."
    ),
]
Delimiter = Annotated[
    str | None,
    Help(
        'Character between the fields of csv files, such as ";", or the word tab. If not given: a '
        "comma, or the character that the first line names (sep=;). tsv files always have tabs."
    ),
]
Encoding = Annotated[
    str, Help("Character encoding of csv, tsv, jsonl and json files, such as cp1252 or utf-16.")
]
OnBadRow = Annotated[
    rows.OnBadRow,
    Help("What to do with rows that cannot be used: stop and list them (error), or leave them out (skip)."),
]

HubModelId = Annotated[str | None, Help("Repository on the Hub. If not given: the name of the run's folder.")]
HubToken = Annotated[
    str | None,
    Help("Hub token. If not given: the token of `hf auth login`. The token is never saved or logged."),
]
HubPrivate = Annotated[
    bool, Help("Create the repository as private. A repository that exists must be private already.")
]
HubOverwriteCard = Annotated[
    bool,
    Help("Replace the model card even if it was edited on the Hub; otherwise the edited card stays."),
]
