"""Names of classes in the README of a data set's folder, as the Hub has it.

Files such as csv and jsonl have only the numbers of classes; the YAML at the top of the README has their
names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aisle.data.rows import Row
from aisle.errors import DataError

__all__ = ["with_card_classes"]

CARD = "README.md"
Classes = Mapping[str, tuple[str, ...]]
"""Column to the names of its numbers 0, 1, ..."""


def with_card_classes(rows: Iterator[Row], folder: Path) -> Iterator[Row]:
    """Yield rows with the names of their classes from the README, unless their file has names.

    Args:
        rows: Rows of files in the folder.
        folder: Folder of the data set.

    Raises:
        DataError: The README names the classes of the rows differently for several configurations, and no
            folder in the path of the rows' file has the name of a configuration.
    """
    configs = _configs(folder / CARD)
    if not configs:
        yield from rows
        return
    source, classes = None, None
    for row in rows:
        if row.source != source:
            source, classes = row.source, _classes_of(row, configs, folder)
        yield row if row.class_names is not None or not classes else row._replace(class_names=classes)


def _classes_of(row: Row, configs: Mapping[str, Classes], folder: Path) -> Classes | None:
    """Return the classes of the configuration of a file: of that in its path, or those that all agree on."""
    inside = Path(row.source).parts[len(folder.parts) :]
    for part in reversed(inside):
        for name in (part, part.partition(".")[0]):
            if name in configs:
                return configs[name]
    first, *others = (
        {column: names for column, names in one.items() if column in row.values} for one in configs.values()
    )
    if any(one != first for one in others):
        raise DataError(
            f"{folder / CARD}: names other classes for each of the configurations {', '.join(configs)}; give "
            "the folder of a single configuration, named like it"
        )
    return first


def _configs(card: Path) -> dict[str, Classes]:
    """Return the classes of each configuration of a README; empty if it has none."""
    infos = _front_matter(card).get("dataset_info")
    found: dict[str, Classes] = {}
    for info in infos if isinstance(infos, list) else [infos]:
        if isinstance(info, dict):
            found[str(info.get("config_name", "default"))] = dict(_class_columns(info.get("features")))
    return found if any(found.values()) else {}


def _class_columns(features: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for feature in features if isinstance(features, list) else []:
        try:
            names = feature["dtype"]["class_label"]["names"]
            ordered = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
            yield str(feature["name"]), tuple(map(str, ordered))
        except (KeyError, TypeError, ValueError):  # another type of column
            continue


def _front_matter(card: Path) -> dict[str, Any]:
    """Return the YAML between the lines `---` at the top of a README; empty if there is none."""
    import yaml

    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    start, _, rest = text.partition("---\n")
    if start.strip() or "\n---" not in f"\n{rest}":
        return {}
    try:
        read = yaml.safe_load(f"\n{rest}".partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return read if isinstance(read, dict) else {}
