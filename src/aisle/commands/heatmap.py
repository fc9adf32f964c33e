"""`aisle heatmap`: draw the similarity of chosen texts as a picture and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.named_inputs import check_models
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Json,
    MaxLength,
    ProductPrompt,
    QueryPrompt,
    TrustRemoteCode,
)
from aisle.commands.terminal import printable
from aisle.commands.text_lines import read_lines
from aisle.config.annotations import Positional
from aisle.errors import DataError
from aisle.extras import require_extra

if TYPE_CHECKING:
    import numpy as np

MOST_SHOWN = 40
"""Most characters without a font to list."""
MOST_TEXTS = 50
"""Most rows and most columns of a heat map: a picture of more cannot be read."""


@dataclass(frozen=True)
class HeatmapSettings:
    """Draw the similarity of chosen texts as a picture and a page.

    Each text is compared with each other, or with the texts of --products_file. A cell is the cosine of two
    embeddings.
    """

    text: Positional[tuple[str, ...]] = ()
    """Texts."""
    model: str = "all-MiniLM-L6-v2"
    """Encoder: a run, a base model or a bundle, as a folder or a Hub id."""
    output_dir: str = "heatmap"
    """Folder for heatmap.png, heatmap.svg and heatmap.html, which replace earlier ones."""
    texts_file: str | None = None
    """Text file with a text on each line, after those of the command line."""
    products_file: str | None = None
    """Text file with a product on each line, for the columns. Products are encoded as products, all other
    texts as queries. If not given, the columns are the texts themselves."""
    max_length: MaxLength = None
    query_prompt: QueryPrompt = None
    product_prompt: ProductPrompt = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def heatmap_problems(settings: HeatmapSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    if not settings.text and settings.texts_file is None:
        return ["no text: give texts, or --texts_file"]
    return []


def heatmap_inputs(settings: HeatmapSettings) -> None:
    """Check that the model and its base model exist, if they are given as folders."""
    check_models(settings.model, settings.base_model)


def heatmap(settings: HeatmapSettings) -> None:
    """Embed the texts, and write the picture and the page.

    Raises:
        AisleError: The texts or the model cannot be used, or the folder cannot be written.
    """
    from aisle.search.load_encoder import extra_for, load_encoder
    from aisle.types.encoder_settings import Overrides

    output = Output(json_only=settings.json)
    texts = list(settings.text)
    if settings.texts_file is not None:
        texts += read_lines(settings.texts_file, flag="--texts_file", what="text")
    products = None
    if settings.products_file is not None:
        products = read_lines(settings.products_file, flag="--products_file", what="product")
    _check_texts(texts, products or [])
    extra = extra_for(settings.model)
    require_extra(extra)
    if extra == "encode":
        quieten_libraries()

    from aisle.evaluation.document import Heatmap
    from aisle.reporting.html.fonts import without_font
    from aisle.reporting.html.heatmap_page import write_heatmap

    encoder = load_encoder(
        settings.model,
        base_model=settings.base_model,
        overrides=Overrides(
            max_length=settings.max_length,
            query_prompt=settings.query_prompt,
            product_prompt=settings.product_prompt,
        ),
        trust_remote_code=settings.trust_remote_code,
    )
    rows = _of_unit_norm(encoder.encode_queries(texts))
    columns = rows if products is None else _of_unit_norm(encoder.encode_products(products))
    names = texts if products is None else products
    cosines = (rows @ columns.T).clip(-1, 1).tolist()
    page = write_heatmap(
        Path(settings.output_dir),
        Heatmap(
            system=settings.model,
            queries=tuple(texts),
            products=tuple(names),
            scores=tuple(map(tuple, cosines)),
            relevance=((None,) * len(names),) * len(texts),
        ),
    )
    output.log(f"{len(texts)} x {len(names)} cosines in {page}, with the pictures beside it")
    missing = without_font([*texts, *names])
    if missing:
        output.log(
            f"no installed font has {len(missing)} of the characters, which are squares in the pictures (the "
            f"page has them): {printable(missing[:MOST_SHOWN])}; install a font such as Noto Sans CJK"
        )
    output.document({"rows": texts, "columns": names, "cosines": cosines, "page": str(page)})


def _of_unit_norm(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings to unit L2 norm, which a run with `--similarity dot` leaves as they are."""
    import numpy as np

    scaled: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(min=1e-12)
    return scaled


def _check_texts(texts: list[str], products: list[str]) -> None:
    if any(not text.strip() for text in texts):
        raise DataError("a text is blank; give some text")
    for name, count in (("texts", len(texts)), ("products", len(products))):
        if count > MOST_TEXTS:
            raise DataError(f"{count:,} {name}: a heat map has at most {MOST_TEXTS}; choose fewer")


COMMAND = Command(
    "heatmap", HeatmapSettings, heatmap, problems=heatmap_problems, inputs=heatmap_inputs, extra="report"
)
