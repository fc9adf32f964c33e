"""The recipes that come with aisle: settings of a training, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from aisle.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
OLD_FOLDER = "configs"
"""Former folder of the recipes: `configs/faq.yaml` names the recipe faq if there is no such file."""


def recipe_names() -> list[str]:
    """Return the names of the recipes, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_config(given: str, *, flag: str = "--config") -> Path:
    """Return the YAML file that a flag names: a path, or a recipe that comes with aisle.

    Args:
        given: Path of a file, name of a recipe, or `configs/NAME.yaml`. An existing file comes first.
        flag: Flag as typed, for the message.

    Raises:
        ConfigError: Neither a file nor a recipe has that name.
    """
    path = Path(given)
    if path.is_file():
        return path
    name = path.stem if path == Path(OLD_FOLDER) / f"{path.stem}.yaml" else given
    names = recipe_names()
    if name in names:
        return RECIPES / f"{name}.yaml"
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{flag} {given}: there is no such file, and no such recipe; {hint}the recipes are {', '.join(names)}"
    )
