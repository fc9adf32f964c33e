"""The recipes that come with aisle: settings of a training, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from aisle.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
OLD_FOLDER = "configs"
"""Where a checkout had the recipes: `configs/faq.yaml` is the recipe faq where there is no such file."""


def recipe_names() -> list[str]:
    """Return the names of the recipes, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_config(given: str, *, flag: str = "--config") -> Path:
    """Return the YAML file that a flag names: a file, or a recipe that comes with aisle.

    Args:
        given: path of a file, name of a recipe, or `configs/NAME.yaml`; a file that is there comes first.
        flag: the flag as it was typed, for the message.

    Raises:
        ConfigError: there is neither a file nor a recipe of that name.
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
