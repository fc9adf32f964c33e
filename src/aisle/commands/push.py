"""`aisle push`: upload a finished run to the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import (
    ConfigFile,
    HubModelId,
    HubOverwriteCard,
    HubPrivate,
    HubToken,
    Json,
)
from aisle.config.annotations import Positional


@dataclass(frozen=True)
class PushSettings:
    """Upload a finished run to the Hub."""

    run_dir: Positional[str]
    """Folder of the run."""
    hub_model_id: HubModelId = None
    hub_token: HubToken = field(default=None, repr=False)
    hub_private: HubPrivate = False
    hub_overwrite_card: HubOverwriteCard = False
    json: Json = False
    config: ConfigFile = None


def push(settings: PushSettings) -> str:
    """Upload a run and return its URL.

    Raises:
        HubError: The folder is not a finished run, or the upload failed; the run on disk is not changed.
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
    output.log(f"uploaded to {url}")
    output.document({"run_dir": settings.run_dir, "url": url})
    return url


COMMAND = Command("push", PushSettings, push, extra="encode")
