"""Batches that leave processes without a positive, a pair or a text train what one process trains."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.commands.launch import start_ranks
from tests.commands.uneven_batches import CASES, UNREAD_WEIGHTS

KINDS = ["sofa", "lamp", "chair", "table", "bed"]


def pairs_file(path, count, *, labelled):
    """Few pairs are positives, so in most steps some process has no positive."""
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
def files(tmp_path_factory):
    """The files of pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    # 13 training pairs in batches of 6: the last batch has one pair, so two of three processes have none.
    return [
        pairs_file(folder / "judged.jsonl", 13, labelled=True),
        pairs_file(folder / "clicked.jsonl", 13, labelled=False),
        pairs_file(folder / "judged_validation.jsonl", 7, labelled=True),
        pairs_file(folder / "clicked_validation.jsonl", 7, labelled=False),
    ]


def launch(cases, counts, folder, model, files):
    """Return the folder of the runs for each number of processes."""
    for processes in counts:
        given = (cases, folder / str(processes), model, *files)
        start_ranks(processes, "tests/commands/uneven_batches.py", *given, timeout=300)
    return {processes: folder / str(processes) for processes in counts}


@pytest.fixture(scope="module")
def runs(tiny_bert, files, tmp_path_factory):
    return launch("settings", (1, 2, 3), tmp_path_factory.mktemp("uneven"), tiny_bert, files)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_uneven_batches_train_what_one_process_trains(runs, case, processes):
    assert_same(runs[1] / case, runs[processes] / case, CASES[case])


def test_two_processes_train_all_weights_of_models_with_some_that_no_embedding_reads(
    tiny_model, files, tmp_path
):
    """DDP would wait for gradients of Longformer's global attention and RoFormer's table of positions."""
    models = tmp_path / "models"
    models.mkdir()
    for name in UNREAD_WEIGHTS:
        (models / name).symlink_to(tiny_model(name))
    runs = launch("models", (1, 2), tmp_path, models, files)
    for name, flags in UNREAD_WEIGHTS.items():
        assert_same(runs[1] / name, runs[2] / name, flags)


def assert_same(one, several, flags):
    """Compare logs, evaluations and weights of the same run with one process and with several."""
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, several)
    ]
    assert len(logs[0]) == len(logs[1]) >= 3
    for first, second in zip(*logs, strict=True):
        for figure in ("loss", "gradient_norm", "temperature", "pairs"):
            expected = pytest.approx(first[figure], rel=1e-3, abs=1e-6)
            assert second[figure] == expected, (first["step"], figure)
    if "--learn_temperature" in flags:
        assert logs[0][-1]["temperature"] != pytest.approx(0.05, rel=1e-4)
    histories = [json.loads((run / "metrics.json").read_text())["history"] for run in (one, several)]
    for first, second in zip(*histories, strict=True):
        assert second == pytest.approx(first, abs=1e-3)
    file = "adapter_model.safetensors" if "--use_peft" in flags else "model.safetensors"
    weights = [load_file(run / file) for run in (one, several)]
    for name, value in weights[0].items():
        # A key's bias moves all of a query's scores alike: its gradient is zero but for rounding, which Adam
        # blows up to full steps.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(weights[1][name], value, atol=5e-4, err_msg=name)
