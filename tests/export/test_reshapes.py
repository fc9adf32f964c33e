"""Reshapes that change nothing are removed, and no other."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from aisle.export.reshapes import remove_reshapes


class Chain(nn.Module):
    """Reshapes to each shape in turn, with a sum after them."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, rows):
        for shape in self.shapes:
            rows = rows.reshape(*(rows.shape[0] if size == "rows" else size for size in shape))
        return rows + 1


def exported(module):
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(3, 12),),
        dynamo=True,
        dynamic_shapes={"rows": {0: torch.export.Dim("rows")}},
        opset_version=20,
        verbose=False,
        optimize=False,
    )
    return program.model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("shapes", "left"),
    [
        ([("rows", 3, 4), ("rows", 12)], 0),
        ([("rows", 12)], 0),
        ([("rows", 3, 4), ("rows", 4, 3)], 1),
        ([("rows", 3, 4), ("rows", 2, 6), ("rows", 12), ("rows", 6, 2)], 1),
        ([(-1,)], 1),
        ([("rows", 3, 4)], 1),
    ],
)
def test_only_reshapes_that_change_the_shape_are_left(shapes, left):
    model = exported(Chain(*shapes))
    rows = np.arange(60, dtype=np.float32).reshape(5, 12)

    remove_reshapes(model)

    reshapes = [node for node in model.graph if node.op_type == "Reshape"]
    # Others make the tensors of the shapes.
    assert sum(node.outputs[0].dtype == ir.DataType.FLOAT for node in reshapes) == left
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    with torch.no_grad():
        expected = Chain(*shapes)(torch.from_numpy(rows)).numpy()
    assert np.array_equal(session.run(None, {session.get_inputs()[0].name: rows})[0], expected)


COPYING = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[4, 6] rows) => (float[6, 2, 2] found)
<int64[2] flat = {6, 4}, int64[3] copied = {0, 2, 2}, float one = {1.0}>
{
    flatter = Reshape(rows, flat)
    cut = Reshape(flatter, copied)
    found = Add(cut, one)
}
"""


def test_a_reshape_that_copies_a_size_of_its_input_keeps_its_input():
    model = ir.from_onnx_text(COPYING)
    shapes = {"rows": [4, 6], "flatter": [6, 4], "cut": [6, 2, 2]}
    for node in model.graph:
        for value in node.outputs:
            value.shape = ir.Shape(shapes.get(value.name, [6, 2, 2]))

    remove_reshapes(model)

    assert [node.op_type for node in model.graph] == ["Reshape", "Reshape", "Add"]
