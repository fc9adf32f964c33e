"""Two towers: save a model for queries and a model for products as one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from aisle.models.backbone import hidden_size
from aisle.models.bi_encoder import check_dimensions_agree
from aisle.models.fingerprint import TOKENIZER_FILES, fingerprint_of, refers_to_code
from aisle.models.heads import Normalize, load_heads
from aisle.models.loading import LoadedModel
from aisle.models.modules_file import MODULES_FILE, listed_modules, read_json, write_json
from aisle.models.persistence import ADVICE, finish_run, staged_run
from aisle.models.run_file import ROUTER_FILE, SEPARATE_TOWERS, SETTINGS_FILE, TOWER_FOLDERS
from aisle.models.st_files import lower_cases
from aisle.models.tower import Tower
from aisle.models.tower_files import (
    ST_PACKAGE,
    ST_SETTINGS_FILE,
    TRANSFORMER_FILE,
    describe,
    st_settings,
    write_modules,
)
from aisle.text.tokens import Side

ROUTES: Mapping[Side, str] = {"query": "query", "product": "document"}
"""Names of the sides in sentence-transformers: `encode_query` and `encode_document`."""
ROUTER = f"{ST_PACKAGE}.Router"
UNCHANGED_FILES = (
    *("*.safetensors", "model.safetensors.index.json", "config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", *TOKENIZER_FILES),
)
"""Files of a model that are copied to keep its fingerprint."""


class TowerToSave(Protocol):
    """Model that becomes a tower of a run."""

    @property
    def tower(self) -> Tower:
        """The tower."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the model's files, except `aisle.json`, to a folder; return the contents of that file."""


@dataclass(frozen=True)
class UnchangedModel:
    """Model that was not trained: its files are copied, so that it keeps its fingerprint.

    An index of its embeddings then stays valid.

    Args:
        loaded: The model, without an adapter.
    """

    loaded: LoadedModel

    @cached_property
    def tower(self) -> Tower:
        """The tower of the model."""
        return self.loaded.tower()

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the model's files, except `aisle.json`, to a folder; return the contents of that file.

        Raises:
            OSError: A file cannot be written.
        """
        loaded, source = self.loaded, self.loaded.source
        patterns = (*UNCHANGED_FILES, "*.py") if refers_to_code(source.path) else UNCHANGED_FILES
        for path in {path for pattern in patterns for path in source.path.glob(pattern)}:
            shutil.copyfile(path, folder / path.name)
        heads = [*loaded.heads, *([Normalize()] if loaded.settings.normalize else [])]
        write_modules(folder, self.tower, heads, loaded.settings)
        if lower_cases(source.path):
            write_json(
                folder / TRANSFORMER_FILE, read_json(folder / TRANSFORMER_FILE) | {"do_lower_case": True}
            )
        fingerprint = fingerprint_of(
            base_dir=folder,
            model_dir=folder,
            adapter=False,
            settings=loaded.settings,
            heads=load_heads(folder, dim=hidden_size(loaded.backbone)),
        )
        return describe(loaded.settings, source, fingerprint, adapter=False, heads=heads)


@dataclass(frozen=True)
class TwoTowers:
    """Model for queries and model for products, to save as one run.

    Both are saved as whole models: sentence-transformers does not read adapters in the folders of its Router.

    Args:
        query: Model for queries.
        product: Model for products; their embeddings must have the same dimension.
        lineage: As in `save_encoder`.
    """

    query: TowerToSave
    product: TowerToSave
    lineage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def save(
        self,
        folder: Path,
        *,
        more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
        advice: str = ADVICE,
    ) -> str:
        """Write both towers to a folder and return the fingerprint of the product tower.

        `query/` and `product/` are whole models, which every command and library reads by itself. The files
        above them are aisle's and sentence-transformers' description of the two.

        Args:
            folder: Folder of the run; files of an earlier model there are replaced.
            more_files: As in `save_encoder`.
            advice: As in `save_encoder`.

        Raises:
            ModelError: The towers' embeddings have different dimensions, or the run cannot be written; the
                folder is unchanged.
        """
        check_dimensions_agree(self.query.tower.dim, self.product.tower.dim)
        with staged_run(folder, advice=advice) as staging:
            query = _written(self.query, staging / TOWER_FOLDERS["query"])
            product = _written(self.product, staging / TOWER_FOLDERS["product"])
            description = {
                **product,
                "query_prompt": query["query_prompt"],
                "query_fingerprint": query["fingerprint"],
                "towers": [
                    {"sides": list(sides), "path": TOWER_FOLDERS[sides[0]], **_origin(tower)}
                    for sides, tower in zip(SEPARATE_TOWERS, (query, product), strict=True)
                ],
            }
            whole = st_settings(
                description["query_prompt"], description["product_prompt"], normalize=description["normalize"]
            )
            write_json(staging / ST_SETTINGS_FILE, whole)
            write_json(staging / MODULES_FILE, [{"idx": 0, "name": "0", "path": "", "type": ROUTER}])
            write_json(staging / ROUTER_FILE, _router(staging))
            finish_run(staging, description, lineage=self.lineage, more_files=more_files)
        return str(description["fingerprint"])


def _written(tower: TowerToSave, folder: Path) -> dict[str, Any]:
    """Write a tower to a folder with its `aisle.json`, and return the contents of that file."""
    folder.mkdir()
    description = tower.write(folder)
    write_json(folder / SETTINGS_FILE, description)
    return description


def _origin(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's `aisle.json` records of a tower: fingerprint, base model, pooling and heads."""
    names = ("fingerprint", "base_model", "base_model_hub_id", "base_revision", "pooling", "heads")
    return {name: tower[name] for name in names if name in tower}


def _router(staging: Path) -> dict[str, Any]:
    """Return the contents of sentence-transformers' router file: the modules of each route, by their folders.

    See https://sbert.net/docs/package_reference/base/modules.html (Router).
    """
    root = staging.resolve()
    listed = {
        route: {
            module.folder.relative_to(root).as_posix(): module.type
            for module in listed_modules(root / TOWER_FOLDERS[side])
        }
        for side, route in ROUTES.items()
    }
    return {
        "types": {name: kind for modules in listed.values() for name, kind in modules.items()},
        "structure": {route: list(modules) for route, modules in listed.items()},
        "parameters": {
            "default_route": ROUTES["product"],
            "allow_empty_key": True,
            "route_mappings": {},
        },
    }
