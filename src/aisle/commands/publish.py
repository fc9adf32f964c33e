"""`aisle publish`: name the model and the version of an index that are served together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    IndexDir,
    IndexModel,
    Json,
    TrustRemoteCode,
)

if TYPE_CHECKING:
    from aisle.service.pairs.pointer_file import Published


@dataclass(frozen=True)
class PublishSettings:
    """Publish a model and a version of an index as a pair for `serve --follow`.

    Both are loaded and checked first; a pair that does not fit together is refused, and the file stays as it
    was. Servers that follow the file switch to the pair, model and index at once.
    """

    index_dir: IndexDir
    model: IndexModel = None
    pointer: str | None = None
    """File to write, for `aisle serve --follow`. If not given: INDEX_DIR.serving.json, beside the index."""
    version: Count | None = None
    """Number of the version to publish. If not given: the current version."""
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def publish(settings: PublishSettings) -> Published:
    """Check a pair, and write the pointer file.

    Raises:
        AisleError: The index is damaged, the model cannot be loaded, or they do not fit together.
    """
    from aisle.service.pairs.pointer_file import pointer_beside, publish_pair
    from aisle.service.pairs.served_pair import PairSource, load_pair

    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    model = settings.model
    if model is not None and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().resolve())
    source = PairSource(
        index_dir,
        model=model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
        version=settings.version,
    )
    pair = load_pair(source, log=output.log)
    pointer = pointer_beside(index_dir) if settings.pointer is None else Path(settings.pointer)
    published = publish_pair(pair, pointer)
    output.log(f"published version {pair.version} of {index_dir} with {pair.model_name} in {pointer}")
    output.document({"pointer": str(pointer), **asdict(published)})
    return published


COMMAND = Command("publish", PublishSettings, publish, extra="serve")
