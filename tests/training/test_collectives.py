"""Collective operations: their results, and the only module that calls them."""

import ast
from pathlib import Path

import pytest
import torch
from torch import distributed

import aisle
from aisle.kernels.adjacent_tensors import adjacent_zeros
from aisle.training import distributed as module
from aisle.training.distributed import gather_rows, sum_gradients, sum_over_ranks

SOURCE = Path(aisle.__file__).parent
HOME = SOURCE / "training" / "distributed.py"
COLLECTIVES = {
    *("wait_for_everyone", "gather", "gather_for_metrics", "gather_object", "reduce", "no_sync"),
    *("pad_across_processes", "broadcast", "broadcast_object_list", "main_process_first"),
    *("all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor", "reduce_scatter", "barrier"),
}
"""Methods and functions of Accelerate and torch.distributed that communicate."""


def collectives_called(source):
    """Return (line, name) of each collective that a module imports or calls."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (
            (node.attr in COLLECTIVES and ast.unparse(node) != "asyncio.gather")
            or ast.unparse(node) == "torch.distributed"
        ):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("torch", "accelerate")):
            names = {alias.name for alias in node.names} & (COLLECTIVES | {"distributed"})
            package = {"torch.distributed"} if node.module.startswith("torch.distributed") else set()
            found += [(node.lineno, name) for name in names | package]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if "distributed" in alias.name]
    return found


def test_collectives_are_called_in_a_single_module():
    modules = [path for path in sorted(SOURCE.rglob("*.py")) if path != HOME]
    found = {
        str(path.relative_to(SOURCE)): calls
        for path in modules
        if (calls := collectives_called(path.read_text(encoding="utf-8")))
    }

    assert len(modules) > 200
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "accelerator.wait_for_everyone()",
        "self.accelerator.gather(rows)",
        "accelerator.reduce(loss, reduction='sum')",
        "torch.distributed.all_reduce(flat)",
        "from torch import distributed",
        "from torch.distributed import barrier",
        "import torch.distributed as dist",
        "from accelerate.utils import broadcast_object_list",
        "with accelerator.no_sync(model): pass",
    ],
)
def test_a_collective_elsewhere_is_found(line):
    assert collectives_called(line)


class TwoRanks:
    """Accelerator of rank 1 of two, with given tensors in place of those from rank 0."""

    num_processes = 2

    def __init__(self, of_rank_0):
        self.of_rank_0 = of_rank_0

    def gather(self, tensor):
        return torch.cat([self.of_rank_0, tensor])

    def reduce(self, tensor, reduction):
        assert reduction == "sum"
        return self.of_rank_0 + tensor


def test_rows_are_gathered_rank_by_rank_without_the_padding():
    mine, theirs = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])

    found = gather_rows(TwoRanks(theirs), mine, (2, 1))

    assert found.tolist() == [[3.0, 4.0], [5.0, 6.0], [1.0, 2.0]]


def test_a_rank_without_rows_takes_part_in_the_gather():
    theirs = torch.tensor([[3.0, 4.0], [5.0, 6.0]])

    found = gather_rows(TwoRanks(theirs), torch.empty(0, 2), (2, 0))

    assert found.tolist() == theirs.tolist()


def test_tensors_are_summed_over_ranks():
    assert sum_over_ranks(TwoRanks(torch.tensor([1.0, 2.0])), torch.tensor([10.0, 20.0])).tolist() == [11, 22]


@pytest.mark.parametrize("numbers", [1, 7, 1000])
def test_gradients_of_any_shape_and_order_are_summed_in_buckets(monkeypatch, numbers):
    monkeypatch.setattr(module, "NUMBERS_AT_A_TIME", numbers)
    monkeypatch.setattr(distributed, "all_reduce", lambda flat: flat.mul_(2))
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 3), (5,), (), (3, 1)]]
    for number, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter) + number
    parameters[0].grad = parameters[0].grad.t().contiguous().t()
    before = [None if one.grad is None else one.grad.clone() for one in parameters]
    sum_gradients(parameters)
    for old, parameter in zip(before[:3], parameters[:3], strict=True):
        assert torch.equal(parameter.grad, 2 * old)
    assert torch.equal(parameters[3].grad, torch.zeros(3, 1))


def test_gradients_that_graphs_keep_are_summed_in_place(monkeypatch):
    summed = []
    monkeypatch.setattr(distributed, "all_reduce", lambda flat: summed.append(flat) or flat.mul_(2))
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 3), (5,), (), (3, 1)]]
    kept = adjacent_zeros(parameters)
    for number, (parameter, gradient) in enumerate(zip(parameters, kept, strict=True)):
        parameter.grad = gradient.fill_(number)
    sum_gradients(parameters)
    (whole,) = summed
    assert whole.tolist() == [0.0] * 6 + [2.0] * 5 + [4.0] + [6.0] * 3
    assert whole.data_ptr() == kept[0].data_ptr()
    assert all(parameter.grad is one for parameter, one in zip(parameters, kept, strict=True))
