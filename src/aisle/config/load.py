"""Settings from a YAML file and the command line: flags win over YAML, YAML over defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from aisle.config.field_help import description_of
from aisle.config.flag_names import meant_by, unknown_flags
from aisle.config.parser_rules import parser_rules
from aisle.config.recipes import find_config
from aisle.config.secrets import SECRET_FIELDS
from aisle.errors import ConfigError

Settings = TypeVar("Settings")
UNSAVED_FIELDS = SECRET_FIELDS | {"config", "json"}


def parse_settings(
    settings_type: type[Settings], arguments: Sequence[str], *, prog: str, description: str | None = None
) -> Settings:
    """Return the settings of a command line.

    Args:
        settings_type: Frozen dataclass; its fields are settings, or groups of settings.
        arguments: Command line without the program's name; it may contain `--config FILE`.
        prog: Name of the program in the help.
        description: Text above the help; None means the dataclass's docstring.

    Raises:
        ConfigError: Flags are unknown, or the YAML file or values are not valid; all are named at once.
        SystemExit: If a flag lacks its value (2), or the user asks for help (0).
    """
    settings_type = complete(settings_type)
    unknown = unknown_flags(arguments, _known_names(settings_type))
    if unknown:
        raise ConfigError("\n".join(unknown))
    config_file = _config_flag(arguments)
    given = {} if config_file is None else read_yaml(config_file)
    # The help prints defaults, so they must not contain secrets from the YAML file.
    secrets = {name: given[name] for name in _known_names(settings_type) & SECRET_FIELDS & given.keys()}
    public = {name: value for name, value in given.items() if name not in secrets}
    parsed = tyro.cli(
        settings_type,
        args=list(arguments),
        default=_defaults(settings_type, public, config_file),
        prog=prog,
        description=description_of(settings_type) if description is None else description,
        use_underscores=True,
        registry=parser_rules(),
    )
    flat = flatten(parsed)
    flat |= {name: value for name, value in secrets.items() if flat[name] is None}
    return _validated(settings_type, flat, origin=None)


def complete(settings_type: type[Settings]) -> type[Settings]:
    """Return a settings class with all its fields, including those of registered losses.

    If the class has a method `complete`, that method returns the class: the settings of `train` have a flag
    for each parameter of a registered loss.
    """
    made: type[Settings] = getattr(settings_type, "complete", lambda: settings_type)()
    return made


def settings_of_call(settings_type: type[Settings], given: Mapping[str, Any], *, caller: str) -> Settings:
    """Return the settings of a Python call; its keyword arguments have the names of the flags.

    Args:
        settings_type: Frozen dataclass, as in `parse_settings`.
        given: Keyword arguments; `config` names a YAML file or a recipe with defaults for the others.
        caller: Name of the called function, for messages.

    Raises:
        ConfigError: Names are unknown, or values or the YAML file are not valid; all are named at once.
    """
    settings_type = complete(settings_type)
    plain = {name: _plain(value) for name, value in given.items()}
    if plain.get("config") is None:
        return _validated(settings_type, plain, origin=caller)
    path = find_config(str(plain["config"]), flag="config")
    from_file = read_yaml(path)
    _validated(settings_type, from_file, origin=str(path), is_yaml=True)  # messages then name the file
    return _validated(settings_type, {**from_file, **plain}, origin=caller)


def _plain(value: object) -> object:
    """Return a path as text, and a list as a tuple of plain values."""
    if isinstance(value, PurePath):
        return str(value)
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _defaults(settings_type: type[Any], given: Mapping[str, Any], config_file: Path | None) -> Any:
    """Return the settings before flags override them; settings without a default stay required."""
    required = [
        field.name
        for field in dataclasses.fields(settings_type)
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in given]
    filled = {**given, **dict.fromkeys(missing, "")}
    origin = None if config_file is None else str(config_file)
    validated = _validated(settings_type, filled, origin=origin, is_yaml=True)
    return dataclasses.replace(validated, **dict.fromkeys(missing, tyro.MISSING))


def flatten(settings: Any) -> dict[str, Any]:
    """Return every setting, also those in groups, by the name of its flag.

    Fields that cannot be given (`init=False`) are no settings: a command fixes some of another's.
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if not field.init:
            continue
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value)
        else:
            flat[field.name] = value
    return flat


def saved_form(settings: Any) -> dict[str, Any]:
    """Return the settings to write to disk, trackers and logs: all except secrets."""
    plain = {name: value for name, value in flatten(settings).items() if name not in UNSAVED_FIELDS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def write_yaml(settings: Any, path: Path) -> None:
    """Write the settings without secrets, in the form that `--config` reads."""
    path.write_text(yaml_text(saved_form(settings)), encoding="utf-8")


def yaml_text(saved: Mapping[str, Any]) -> str:
    """Return settings in the form that `--config` reads."""
    return yaml.safe_dump(dict(saved), sort_keys=False, allow_unicode=True)


def _config_flag(arguments: Sequence[str]) -> Path | None:
    given = None
    for position, argument in enumerate(arguments):
        if argument == "--config":
            if position + 1 == len(arguments):
                raise ConfigError("--config: give the YAML file")
            given = arguments[position + 1]
        elif argument.startswith("--config="):
            given = argument.removeprefix("--config=")
    return None if given is None else find_config(given)


def read_yaml(path: Path, *, flag: str = "--config") -> Mapping[str, Any]:
    """Return the settings in a YAML file, not yet checked.

    Args:
        path: The file.
        flag: Flag that names it, for messages.

    Raises:
        ConfigError: The file cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        # The error's own text quotes the line, which may contain a token.
        line = 0 if error.problem_mark is None else error.problem_mark.line + 1
        raise ConfigError(f"{flag} {path}: line {line} is not valid YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{flag} {path}: cannot be read as YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        found = type(values).__name__
        raise ConfigError(f"{flag} {path}: must be a mapping of flags to values; found a {found}")
    return values


def _validated(
    settings_type: type[Settings], flat: Mapping[str, Any], *, origin: str | None, is_yaml: bool = False
) -> Settings:
    groups = _groups_of(settings_type)
    known = {name: group for group, names in groups.items() for name in names}
    problems = [_unknown_key(key, known, origin) for key in flat if key not in known]
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if key in known:
            group = known[key]
            target = nested if group is None else nested.setdefault(group, {})
            target[key] = tuple(value) if isinstance(value, list) else value
    try:
        settings = TypeAdapter(settings_type).validate_python(nested)
    except ValidationError as error:
        for name, details in _by_field(error, groups).items():
            problems.append(_describe(name, details, origin, is_yaml=is_yaml))
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _groups_of(settings_type: type[Any]) -> dict[str | None, list[str]]:
    hints = get_type_hints(settings_type)
    groups: dict[str | None, list[str]] = {}
    for field in dataclasses.fields(settings_type):
        if not field.init:
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            inner = dataclasses.fields(hints[field.name])
            groups[field.name] = [one.name for one in inner if one.init]
        else:
            groups.setdefault(None, []).append(field.name)
    return groups


def _known_names(settings_type: type[Any]) -> set[str]:
    return {name for names in _groups_of(settings_type).values() for name in names}


def _by_field(error: ValidationError, groups: Collection[str | None]) -> dict[str, list[Any]]:
    """Return the errors of each setting: a setting of several types has an error for each of them."""
    fields: dict[str, list[Any]] = {}
    for detail in error.errors():
        names = [str(part) for part in detail["loc"]]
        name = names[1] if names[0] in groups and len(names) > 1 else names[0]
        fields.setdefault(name, []).append(detail)
    return fields


def _describe(name: str, details: Sequence[Any], origin: str | None, *, is_yaml: bool) -> str:
    value = details[0]["input"]
    where = f"--{name}" if origin is None else f"{origin}: {name}"
    messages = dict.fromkeys(detail["msg"].removeprefix("Value error, ") for detail in details)
    rule = ", or ".join(message[0].lower() + message[1:] for message in messages)
    found = "" if name in SECRET_FIELDS else f"; found {value!r}"
    if origin is not None and is_yaml and isinstance(value, bool):
        found += "; YAML reads a bare yes, no, on or off as a truth value: put it in quotes"
    return f"{where}: {rule}{found}"


def _unknown_key(key: object, known: Mapping[str, object], origin: str | None) -> str:
    near = meant_by(str(key), known)
    hint = f"did you mean {near!r}?" if near else "--help lists the flags, which are the keys"
    return f"{origin or 'settings'}: unknown key {str(key)!r}; {hint}"
