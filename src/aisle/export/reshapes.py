"""Remove the reshapes of a graph that change nothing: each takes as long as a small operation on a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Shape

RESHAPE = "Reshape"


def remove_reshapes(model: Model) -> None:
    """Remove reshapes to the shape that a tensor has already; of two in succession, keep the second.

    Args:
        model: Graph with the shapes that torch's exporter found; it is changed.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in model.graph:
        if node.op_type != RESHAPE:
            continue
        _read_before_reshapes(node)
        source, output = node.inputs[0], node.outputs[0]
        if source is not None and _same(source.shape, output.shape) and not output.is_graph_output():
            output.replace_all_uses_with(source)
    RemoveUnusedNodesPass()(model)


def _read_before_reshapes(node: Node) -> None:
    """Let a reshape read what the reshapes before it read."""
    if not node.attributes.get_int("allowzero", 0):
        return  # a 0 in its shape would copy a size of its input
    while node.inputs[0] is not None:
        earlier = node.inputs[0].producer()
        if earlier is None or earlier.op_type != RESHAPE:
            return
        node.replace_input_with(0, earlier.inputs[0])


def _same(one: Shape | None, other: Shape | None) -> bool:
    """Return whether two shapes are equal and every size is known, as a number or by name."""
    if one is None or one != other:
        return False
    return all(isinstance(size, int) or size.value is not None for size in one)
