"""ONNX models, made where they are needed."""

import pytest

onnx = pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")


def save_model(path, nodes, inputs, outputs):
    def declare(values):
        return [onnx.helper.make_tensor_value_info(*value) for value in values]

    graph = onnx.helper.make_graph(nodes, "graph", declare(inputs), declare(outputs))
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))


def save_endless_model(path):
    """Save a model that takes `x`, one number, and never comes to an end."""
    kind, node = onnx.TensorProto, onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    save_model(
        path,
        [
            node("Constant", [], ["true"], value=onnx.helper.make_tensor("t", kind.BOOL, [], [1])),
            node(
                "Loop",
                ["", "true", "x"],
                ["y"],
                body=onnx.helper.make_graph(
                    [node("Identity", ["go"], ["on"]), node("Identity", ["a"], ["b"])],
                    "body",
                    [
                        value("i", kind.INT64, []),
                        value("go", kind.BOOL, []),
                        value("a", kind.FLOAT, [1]),
                    ],
                    [value("on", kind.BOOL, []), value("b", kind.FLOAT, [1])],
                ),
            ),
        ],
        [("x", kind.FLOAT, [1])],
        [("y", kind.FLOAT, [1])],
    )
