"""A finished run, uploaded."""

from __future__ import annotations

from pathlib import Path

from aisle.commands.output import Output
from aisle.commands.tool_settings import PushSettings
from aisle.hub import push_run


def push(settings: PushSettings) -> str:
    """Upload a run and return its URL.

    Raises:
        HubError: it is not a finished run, or the upload failed; the run is whole on disk.
    """
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
