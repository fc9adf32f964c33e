"""Batches that leave processes without a positive, a pair or a text train what one process trains."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pipelines.launch import torchrun
from tests.pipelines.uneven_batches import CASES

KINDS = ["sofa", "lamp", "chair", "table", "bed"]


def pairs_file(path, count, *, labelled):
    """Few of the pairs are positives, so that in most steps some process has none."""
    rows = []
    for number in range(count):
        kind = KINDS[number % 5]
        row = {
            "query": f"{kind} {number % 2}",
            "product": f"{['red', 'blue', 'old'][number % 3]} {kind} {number}",
            "product_id": f"{kind} {number // 2}",
            "hard_negatives": [f"{KINDS[(number + 1) % 5]} cover", "a set of nails"][: number % 3],
        }
        if labelled:
            row["relevance"] = {0: 1.0, 1: 0.0, 2: 0.2, 3: 0.0}[number % 4]
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tiny_bert, tmp_path_factory):
    """The folders of the runs of 1, 2 and 3 processes, by the number of processes."""
    folder = tmp_path_factory.mktemp("uneven")
    # 13 training pairs in batches of 6: the last has one, and two of three processes have none.
    files = [
        pairs_file(folder / "judged.jsonl", 13, labelled=True),
        pairs_file(folder / "clicked.jsonl", 13, labelled=False),
        pairs_file(folder / "judged_validation.jsonl", 7, labelled=True),
        pairs_file(folder / "clicked_validation.jsonl", 7, labelled=False),
    ]
    for processes in (1, 2, 3):
        output = folder / str(processes)
        torchrun(processes, "tests/pipelines/uneven_batches.py", output, tiny_bert, *files, timeout=150)
    return {processes: folder / str(processes) for processes in (1, 2, 3)}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_uneven_batches_train_what_one_process_trains(runs, case, processes):
    one, several = runs[1] / case, runs[processes] / case
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, several)
    ]
    assert len(logs[0]) == len(logs[1]) >= 3
    for first, second in zip(*logs, strict=True):
        for figure in ("loss", "gradient_norm", "temperature", "pairs"):
            expected = pytest.approx(first[figure], rel=1e-3, abs=1e-6)
            assert second[figure] == expected, (first["step"], figure)
    if "--learn_temperature" in CASES[case]:
        assert logs[0][-1]["temperature"] != pytest.approx(0.05, rel=1e-4)
    histories = [json.loads((run / "metrics.json").read_text())["history"] for run in (one, several)]
    for first, second in zip(*histories, strict=True):
        assert second == pytest.approx(first, abs=1e-3)
    file = "adapter_model.safetensors" if "--use_peft" in CASES[case] else "model.safetensors"
    weights = [load_file(run / file) for run in (one, several)]
    for name, value in weights[0].items():
        # A key's bias moves all of a query's scores alike: its gradient is zero but for rounding, which Adam
        # blows up to full steps.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(weights[1][name], value, atol=5e-4, err_msg=name)
