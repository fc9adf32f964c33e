"""The report of the GPU benchmark: JSON with everything, Markdown with the tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

TRAINING = (
    ("pairs/s", "pairs_per_second", "{:,.0f}"),
    ("median of 10 steps", "median_pairs_per_second", "{:,.0f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("TFLOP/s", "tflops", "{:.2f}"),
    ("of matmul", "share_of_matmul", "{:.1%}"),
    ("padding", "padding_share", "{:.1%}"),
    ("peak GiB", "peak_memory_gib", "{:.2f}"),
    ("final loss", "final_loss", "{:.4f}"),
    ("timed steps", "timed_steps", "{:d}"),
    ("s in all", "wall_seconds", "{:.1f}"),
    ("attention", "attention", "{}"),
    ("reason", "attention_reason", "{}"),
    ("graphs", "graphs", "{}"),
    ("reason", "graphs_reason", "{}"),
    ("note", "note", "{}"),
)
EMBEDDING = (
    ("texts/s", "texts_per_second", "{:,.0f}"),
    ("times the first", "ratio", "{:.2f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("TFLOP/s", "tflops", "{:.2f}"),
    ("of matmul", "share_of_matmul", "{:.1%}"),
    ("peak GiB", "peak_memory_gib", "{:.2f}"),
    ("note", "note", "{}"),
)
PROFILE = (
    ("host ms", "host_ms", "{:.2f}"),
    ("device ms", "device_ms", "{:.2f}"),
    ("launches", "launches", "{:,.0f}"),
    ("waits", "waits", "{:.1f}"),
    ("values read from tensors", "values_read", "{:.1f}"),
    ("copies to the host", "copies_to_host", "{:.1f}"),
    ("note", "note", "{}"),
)


@dataclass
class Report:
    """What was measured so far; `write` after each measurement keeps it if the program is killed.

    Args:
        folder: Folder of gpu_training.json and gpu_training.md.
        about: Command, machine and sizes.
        matmul: Operations per second of a large matrix product; None if not measured.
        train: Figures of each batch and contender.
        embed: Figures of each way to embed.
        profile: Figures of the profiled steps.
    """

    folder: Path
    about: dict
    matmul: float | None = None
    train: list = field(default_factory=list)
    embed: list = field(default_factory=list)
    profile: list = field(default_factory=list)

    def shares(self, tokens_per_second, flops_per_token):
        """Return the rate of the operations, and their share of the matrix product's."""
        rate = tokens_per_second * flops_per_token
        share = {} if self.matmul is None else {"share_of_matmul": rate / self.matmul}
        return {"tflops": rate / 1e12, **share}

    def write(self):
        """Write both files."""
        (self.folder / "gpu_training.json").write_text(json.dumps(self.document(), indent=1, default=str))
        (self.folder / "gpu_training.md").write_text(self.markdown())

    def document(self):
        """Return everything that was measured."""
        parts = {"train": self.train, "embed": self.embed, "profile": self.profile}
        return {**self.about, "matmul_flops_per_second": self.matmul, **parts}

    def markdown(self):
        """Return the tables."""
        matmul = "not measured" if self.matmul is None else f"{self.matmul / 1e12:,.2f} TFLOP/s"
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        blocks = ["  \n".join([*lines, f"matrix product: {matmul}"])]
        if self.train:
            blocks += [
                "Training, pairs per second\n\n" + self.rates(),
                "aisle over the peer, and its memory over the peer's\n\n" + self.ratios(),
                table(self.train, ("batch", "contender"), TRAINING),
            ]
        if self.embed:
            blocks.append(table(self.embed, ("contender",), EMBEDDING))
        if self.profile:
            blocks.append("A step of aisle\n\n" + table(self.profile, ("batch", "contender"), PROFILE))
        return "\n\n".join(blocks) + "\n"

    def rates(self):
        """Return the table of pairs per second: a row for each batch, a column for each contender."""
        names = list(dict.fromkeys(run["contender"] for run in self.train))
        rows = {}
        for run in self.train:
            cell = f"{run['pairs_per_second']:,.0f}" if "pairs_per_second" in run else run.get("note", "")
            if "peak_memory_gib" in run:
                cell += f" ({run['peak_memory_gib']:.1f} GiB)"
            rows.setdefault(run["batch"], {})[run["contender"]] = cell
        return grid(
            ["batch", *names],
            [[str(batch), *(cells.get(name, "") for name in names)] for batch, cells in rows.items()],
        )

    def ratios(self):
        """Return aisle's speed and memory relative to each other contender's."""
        runs = {(run["batch"], run["contender"]): run for run in self.train}
        rows = []
        for (batch, name), ours in runs.items():
            for (at, peer), theirs in runs.items():
                measured = "pairs_per_second" in ours and "pairs_per_second" in theirs
                if at == batch and measured and is_aisle(name) and not is_aisle(peer):
                    rows.append([str(batch), name, peer, *compared(ours, theirs)])
        return grid(["batch", "aisle", "peer", "speed", "memory"], rows)


def is_aisle(contender):
    return contender.split()[0] == "aisle"


def compared(ours, theirs):
    keys = ("pairs_per_second", "peak_memory_gib")
    return [f"{ours[key] / theirs[key]:.2f}" if ours.get(key) and theirs.get(key) else "" for key in keys]


def table(runs, names, columns):
    """Return a Markdown table of runs, without the columns that no run has."""
    columns = [column for column in columns if any(run.get(column[1]) is not None for run in runs)]
    rows = [
        [
            *(str(run[name]) for name in names),
            *(form.format(run[key]) if run.get(key) is not None else "" for _, key, form in columns),
        ]
        for run in runs
    ]
    return grid([*names, *(title for title, _, _ in columns)], rows)


def grid(head, rows):
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
