"""Settings that are never saved, logged or shown, such as tokens."""

from __future__ import annotations

SECRET_FIELDS = frozenset({"hub_token"})


def forget_secrets(argv: list[str]) -> None:
    """Blank secrets in the process's own copy of the command line, which wandb saves with a run."""
    for at, argument in enumerate(argv):
        name, given, _ = argument.partition("=")
        if name.lstrip("-").replace("-", "_") in SECRET_FIELDS:
            if given:
                argv[at] = f"{name}=***"
            elif at + 1 < len(argv):
                argv[at + 1] = "***"
