"""`aisle push`: upload a finished run to the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from aisle.commands.command import Command
from aisle.commands.output import Output


@dataclass(frozen=True)
class PushSettings:
    """Upload a finished run to the Hub."""

    run_dir: Positional[str]
    """Folder of the run."""
    hub_model_id: str | None = None
    """Repository on the Hub; the folder's name when not given."""
    hub_token: str | None = field(default=None, repr=False)
    """Token for the Hub; the one of `hf auth login` when not given. Never saved or logged."""
    hub_private: bool = False
    """Create the repository as a private one; one that is there already must be private."""
    hub_overwrite_card: bool = False
    """Replace the model card also where it was edited on the Hub; it is kept otherwise."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def push(settings: PushSettings) -> str:
    """Upload a run and return its URL.

    Raises:
        HubError: it is not a finished run, or the upload failed; the run is whole on disk.
    """
    from aisle.hub import push_run

    output = Output(json_only=settings.json)
    url = push_run(
        Path(settings.run_dir),
        repo_id=settings.hub_model_id,
        token=settings.hub_token,
        private=settings.hub_private,
        overwrite_card=settings.hub_overwrite_card,
    )
    output.say(f"uploaded to {url}")
    output.document({"run_dir": settings.run_dir, "url": url})
    return url


COMMAND = Command("push", PushSettings, push, extra="encode")
