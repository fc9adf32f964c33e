"""Change keys of a JSON file, as by hand."""

import json
from pathlib import Path


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON object; a missing file counts as empty."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | changes), encoding="utf-8")
