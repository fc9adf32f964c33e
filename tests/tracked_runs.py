"""Read back the trackers' output: TensorBoard events, and the file of an offline wandb run."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 32_768
_HEADER = 7
"""Header bytes of a record piece, and of the file: LevelDB's log format."""


@dataclass
class WandbRun:
    """An offline run: logged values by name, settings, and the folder of its files."""

    logged: dict[str, object]
    config: dict[str, object]
    files: Path
    exit_code: int | None = None
    kinds: list[str] = field(default_factory=list)


def read_wandb(folder):
    """Return the offline run below a folder, after stopping wandb's service, which writes its file."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()
    (path,) = Path(folder).rglob("*.wandb")
    run = WandbRun({}, {}, path.parent / "files")
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        run.kinds.append(kind)
        if kind == "history":
            run.logged |= {_name(item): json.loads(item.value_json) for item in record.history.item}
        elif kind == "config":
            run.config |= {_name(item): json.loads(item.value_json) for item in record.config.update}
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def read_tensorboard(folder):
    """Return the events of the evaluation below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = {path.parent for path in Path(folder).rglob("events.out*") if path.parent.name == "aisle"}
    events = EventAccumulator(str(path))
    events.Reload()
    return events


def _name(item):
    return ".".join(item.nested_key) or item.key


def _records(content):
    """Yield the records of a log, joined from pieces within blocks."""
    at, record = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in {1, 4}:  # the whole record, or its last piece
            yield record
            record = b""
