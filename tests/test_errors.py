import inspect
import re

import pytest

from aisle import errors
from aisle.errors import AisleError, OptionalDependencyError


def error_classes():
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def drawn_parents():
    """Return {child: parent} from the tree in the docstring."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^((?:[│ ]   )*(?:[├└]── )?)(\w+(?:Error|Stopped))\s", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else None
    return parents


def test_the_drawn_tree_is_the_tree_there_is():
    real = {name: value.__base__.__name__ for name, value in error_classes().items()}

    assert drawn_parents() == {**real, "AisleError": None}


def test_all_errors_are_exported():
    assert sorted(errors.__all__) == sorted(error_classes())


@pytest.mark.parametrize("name", sorted(set(error_classes()) - {"OptionalDependencyError"}))
def test_one_except_clause_catches_every_error_with_its_message(name):
    with pytest.raises(AisleError, match=r"^row 3 of a\.csv$"):
        raise getattr(errors, name)("row 3 of a.csv")


def test_a_missing_package_names_the_command_that_installs_it():
    error = OptionalDependencyError("tensorboard", extra="track")

    assert str(error) == "tensorboard is not installed; install it with: pip install 'aisle-search[track]'"
