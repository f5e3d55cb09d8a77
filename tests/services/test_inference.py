import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.support.models import save_endless_model, save_model
from trio_tools.answers.errors import Forbidden, InvalidArgument, NotFound, UpstreamFailed
from trio_tools.inference import worker
from trio_tools.inference.models import ModelInfo, Models
from trio_tools.inference.worker import Tensor

pytest.importorskip("onnxruntime", reason="the extra `inference` is not installed")
onnx = pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kind = onnx.TensorProto
    node = onnx.helper.make_node
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    save_model(
        folder / "add.onnx",
        [node("Add", ["x", "y"], ["sum"])],
        [("x", kind.FLOAT, ["rows", 2]), ("y", kind.FLOAT, [2])],
        [("sum", kind.FLOAT, ["rows", 2])],
    )
    save_model(
        folder / "deep" / "log.onnx",
        [node("Log", ["x"], ["log"])],
        [("x", kind.DOUBLE, ["n"])],
        [("log", kind.DOUBLE, ["n"])],
    )
    save_model(
        folder / "same.onnx",
        [node("Identity", ["x"], ["y"])],
        [("x", kind.INT8, ["n"])],
        [("y", kind.INT8, ["n"])],
    )
    save_endless_model(folder / "spin.onnx")
    return folder


@pytest.fixture
def models(folder: Path) -> Models:
    return Models(folder)


async def test_a_model_gives_its_outputs_by_name_as_plain_numbers(models):
    outputs = await models.run("add", {"x": [[1, 2], [3, 4.5]], "y": [10, 20]})
    assert outputs == {"sum": [[11.0, 22.0], [13.0, 24.5]]}


async def test_what_json_lacks_leaves_as_text(models):
    outputs = await models.run("deep/log", {"x": [1, 0, -1]})
    assert outputs == {"log": [0.0, "-inf", "nan"]}


async def test_a_signature_tells_names_types_and_shapes(models):
    signature = await models.describe("add.onnx")
    assert signature.inputs == (
        Tensor("x", "tensor(float)", ("rows", 2)),
        Tensor("y", "tensor(float)", (2,)),
    )
    assert [str(output) for output in signature.outputs] == ["sum: tensor(float) [rows, 2]"]


async def test_the_catalogue_names_models_and_files_that_are_none(models, folder):
    (folder / "add.onnx").write_text("a poem")
    (folder / "spin.onnx").unlink()
    bad, log, same = await models.catalogue()
    assert (bad.name, bad.signature) == ("add", None)
    assert bad.error is not None
    assert bad.error.startswith("add.onnx is not a usable ONNX model: ")
    assert str(folder) not in bad.error
    assert log == ModelInfo("deep/log", await models.describe("deep/log"), None)
    assert same.name == "same"


async def test_a_file_that_is_no_model_is_a_mistake_of_the_caller(models, folder):
    for content in (b"", b"not a model", b"\x08\x07" * 1000):
        (folder / "bad.onnx").write_bytes(content)
        with pytest.raises(InvalidArgument) as caught:
            await models.run("bad", {})
        assert caught.value.error_code == "NOT_A_MODEL"
    assert (await models.run("same", {"x": [1]})) == {"y": [1]}


@pytest.mark.parametrize("name", ["../outside", "deep/../../outside", "link", "/etc/passwd"])
async def test_no_name_leads_out_of_the_folder(models, folder, name):
    outside = folder.parent / "outside.onnx"
    outside.write_bytes((folder / "same.onnx").read_bytes())
    (folder / "link.onnx").symlink_to(outside)
    with pytest.raises(Forbidden):
        await models.run(name, {"x": [1]})


async def test_an_unknown_name_is_answered_with_the_known_ones(models):
    with pytest.raises(NotFound) as caught:
        await models.run("nope", {})
    assert caught.value.data == {"models": ["add", "deep/log", "same", "spin"]}


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
async def test_a_name_that_cannot_be_a_file_is_refused(models, name):
    with pytest.raises((InvalidArgument, NotFound)):
        await models.run(name, {})


async def test_inputs_that_do_not_fit_are_named(models):
    misfits = (
        {},
        {"y": [1]},
        {"x": [1], "z": [1]},
        {"x": [1.5]},
        {"x": ["one"]},
        {"x": [300]},
        {"x": [[1], [2, 3]]},
        {"x": [[1, 2]]},
        {"x": None},
        {"x": {"a": 1}},
        {"x": [2**80]},
    )
    for inputs in misfits:
        with pytest.raises(InvalidArgument) as caught:
            await models.run("same", inputs)
        assert caught.value.error_code == "BAD_INPUTS"
        assert "x" in caught.value.message


async def test_a_number_too_large_for_its_type_does_not_become_infinite(models):
    for large in (1e40, -1e40, 10**39):
        with pytest.raises(InvalidArgument, match="does not take") as caught:
            await models.run("add", {"x": [[large, 1]], "y": [1, 2]})
        assert caught.value.error_code == "BAD_INPUTS"
    assert await models.run("deep/log", {"x": [1e300]}) == {"log": [pytest.approx(690.775528)]}


async def test_what_is_no_file_is_not_listed(models, folder):
    (folder / "a.onnx").mkdir()
    (folder / "b.onnx").symlink_to(folder / "nowhere")
    with pytest.raises(NotFound) as caught:
        await models.run("a", {})
    assert caught.value.data == {"models": ["add", "deep/log", "same", "spin"]}


async def test_outputs_are_bounded(folder):
    models = Models(folder, max_values=3)
    assert await models.run("same", {"x": [1, 2, 3]}) == {"y": [1, 2, 3]}
    with pytest.raises(InvalidArgument) as caught:
        await models.run("same", {"x": [1, 2, 3, 4]})
    assert caught.value.error_code == "TOO_LARGE"


async def test_a_model_that_changed_is_loaded_again(models, folder):
    assert list(await models.run("same", {"x": [1]})) == ["y"]
    (folder / "same.onnx").write_bytes((folder / "deep" / "log.onnx").read_bytes())
    assert await models.run("same", {"x": [1]}) == {"log": [0.0]}


async def test_a_cancel_stops_a_model_that_never_ends_and_frees_its_place(models):
    await models.run("same", {"x": [1]})  # a warm worker, so that the model itself is cancelled
    with trio.move_on_after(1.0) as scope:
        await models.run("spin", {"x": [1]})
    assert scope.cancelled_caught
    assert models.limiter.borrowed_tokens == 0
    assert await models.run("same", {"x": [1]}) == {"y": [1]}


async def test_the_folder_must_exist(tmp_path):
    with pytest.raises(ValueError, match=r"models_folder: .* is not a folder: create it first"):
        Models(tmp_path / "nowhere")


async def test_without_the_extra_the_error_says_what_to_install(models, monkeypatch):
    monkeypatch.setattr("trio_tools.inference.models.find_spec", lambda name: None)
    with pytest.raises(UpstreamFailed, match=r"pip install trio-tools\[inference\]"):
        await models.run("add", {})


def test_a_worker_does_not_import_trio():
    code = (
        "import sys, trio_tools.inference.worker\n"
        "assert not {'trio', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_texts_for_numbers_are_refused_before_numpy_sees_them():
    """It would make each of them as long as the longest: 400 GB."""
    tensor = worker.Tensor("x", "tensor(float)", ("n",))
    with pytest.raises(InvalidArgument, match="does not take texts") as caught:
        worker._array(tensor, ["a" * 1_000_000] + ["b"] * 100_000)
    assert (
        caught.value.advice == "Give x as nested lists of the type tensor(float) and the shape [n]."
    )
