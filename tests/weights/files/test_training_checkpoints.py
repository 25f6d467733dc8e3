"""Checkpoints of training scripts: the weights are found among other objects, and under wrappers' names."""

import pickle as p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import Checkpoint, read_state_dict
from mrcnn_jax.weights.files.tables import choose_table
from mrcnn_jax.weights.files.tensors import FileError
from tests.weights.files.craft import (
    call,
    get,
    integer,
    integers,
    name,
    numpy_array,
    put,
    raw,
    start,
    tensor,
    text,
    torch_zip,
    tuple_of,
)
from tests.weights.files.inert_cases import fields, new

DATA = np.arange(4, dtype=np.float32)
Arrays = dict[str, Any]


def read(content: bytes, folder: Path, take: str = "auto") -> Checkpoint:
    path = folder / "checkpoint.pth"
    path.write_bytes(torch_zip(start() + content + p.STOP, DATA.tobytes()))
    return read_state_dict(path, take)


def test_a_checkpoint_of_torchvisions_training_script(tmp_path: Path) -> None:
    """As torch writes it: MultiStepLR's milestones are a Counter, the options a Namespace."""
    milestones = call(name("collections.Counter"), p.EMPTY_DICT + integer(16) + integer(1) + p.SETITEM)
    moments = fields(momentum_buffer=tensor())
    content = fields(
        model=call(name("collections.OrderedDict")) + text("w") + tensor() + p.SETITEM,
        optimizer=fields(state=p.EMPTY_DICT + integer(0) + moments + p.SETITEM, param_groups=p.EMPTY_LIST),
        lr_scheduler=fields(milestones=milestones, gamma=p.BINFLOAT + bytes(8)),
        args=new("argparse.Namespace", fields(model=text("maskrcnn_resnet50_fpn"), weights=p.NONE)),
        epoch=integer(3),
        scaler=p.EMPTY_DICT,
    )
    found = read(content, tmp_path)
    np.testing.assert_array_equal(found.arrays["w"], DATA.reshape(2, 2), strict=True)
    assert set(found.arrays) == {"w"} and found.notes == ()
    assert found.beside == {"args": {"model": "maskrcnn_resnet50_fpn", "weights": None}}


@pytest.mark.parametrize(
    "value",
    [
        call(name("pathlib.PosixPath"), text("/"), text("data")),
        call(name("pathlib._local.PosixPath"), text("data")),
        call(name("datetime.timedelta"), integer(1), integer(2), integer(3)),
        call(name("collections.defaultdict"), name("__builtin__.list")) + text("a") + integer(1) + p.SETITEM,
        call(name("collections.deque"), p.EMPTY_TUPLE, integer(20)) + p.MARK + integer(1) + p.APPENDS,
        call(name("builtins.frozenset"), p.EMPTY_LIST),
        new("lightning.fabric.utilities.data.AttributeDict") + text("a") + integer(1) + p.SETITEM,
        new("mmengine.logging.history_buffer.HistoryBuffer", fields(_log_history=numpy_array())),
        call(name("torchvision.transforms.functional.InterpolationMode"), text("bilinear")),
        call(name("torch.Size"), integers(2, 3)),
        call(name("torch.device"), text("cuda")),
        name("torch.float16"),
        new("argparse.Namespace", fields(__class__=text("os"), __reduce__=text("os.system"))),
        new("types.SimpleNamespace", integers(1, 2)),
    ],
)
def test_harmless_objects_beside_the_weights(value: bytes, tmp_path: Path) -> None:
    found = read(fields(model=fields(w=tensor()), other=value), tmp_path)
    assert set(found.arrays) == {"w"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_tensors_with_attributes_and_with_a_state(tmp_path: Path) -> None:
    hooks = call(name("collections.OrderedDict"))
    parameter = call(name("torch._utils._rebuild_parameter_with_state"), tensor(), p.NEWTRUE, hooks, p.EMPTY_DICT)
    storage = tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), integer(4)) + p.BINPERSID
    arguments = tuple_of(storage, integer(0), integers(2, 2), integers(2, 1), p.NEWFALSE, hooks)
    kind = name("torch.nn.parameter.Parameter")
    typed = call(
        name("torch._tensor._rebuild_from_type_v2"), name("torch._utils._rebuild_tensor_v2"), kind, arguments, p.NONE
    )
    found = read(fields(a=parameter, b=typed), tmp_path)
    for array in found.arrays.values():
        np.testing.assert_array_equal(array, DATA.reshape(2, 2), strict=True)


def test_the_averaged_copy_is_named_and_can_be_taken(tmp_path: Path) -> None:
    averaged = {"module.w": tensor(offset=0, size=(1, 2)), "n_averaged": tensor(size=(), stride=())}
    content = fields(model=fields(w=tensor()), model_ema=fields(**averaged), epoch=integer(1))
    found = read(content, tmp_path)
    assert found.arrays["w"].shape == (2, 2)
    assert found.notes[0].startswith("Took the weights in `model`. The averaged weights (EMA) in `model_ema")
    assert found.notes[0].endswith("are left out: --take ema imports them.")
    assert read(content, tmp_path, "model").notes == found.notes
    only_model = fields(model=fields(w=tensor()))
    with pytest.raises(DataError, match=r"--take ema: it has only weights in `model`\. Leave the option out"):
        read(only_model, tmp_path, "ema")


def names(prefix: str, count: int = 4) -> Arrays:
    return {f"{prefix}layer.{index}": np.full(2, index) for index in range(count)}


PLAIN = set(names(""))


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "model.", "_orig_mod.", "module.model.", "model.module._orig_mod.", "_orig_mod.module.model."),
        *("ema.module.", "ema_model.", "module._forward_module.model."),
    ],
)
def test_wrappers_are_dropped_in_any_order(prefix: str) -> None:
    for value in (names(prefix), {"state_dict": names(prefix)}, {"model": {"state_dict": names(prefix)}}):
        arrays, _ = choose_table(value)
        assert set(arrays) == PLAIN


def test_compiled_parts_inside_a_model() -> None:
    arrays, _ = choose_table({"backbone._orig_mod.a": np.zeros(1), "rpn._checkpoint_wrapped_module.b": np.zeros(1)})
    assert set(arrays) == {"backbone.a", "rpn.b"}
    with pytest.raises(FileError, match="the same name without their wrappers"):
        choose_table({"a._orig_mod.b": np.zeros(1), "a.b": np.zeros(1)})


def test_arrays_outside_the_model_are_left_out_and_named() -> None:
    arrays, notes = choose_table({"state_dict": {**names("model."), "criterion.weight": np.zeros(3)}})
    assert set(arrays) == PLAIN
    assert notes == ("Left out: 1 array outside `state_dict: model.` (criterion.weight).",)


def test_names_stay_if_no_wrapper_prevails() -> None:
    value = {"module.a": np.zeros(1), "b": np.zeros(1)}
    assert set(choose_table(value)[0]) == set(value)
    two = {**names("model."), **names("teacher.")}
    assert set(choose_table(two)[0]) == set(two)


def test_an_averaged_copy_in_the_same_table() -> None:
    value = {"state_dict": {**names("model."), **{key: array + 1 for key, array in names("ema_model.module.").items()}}}
    for take, shift in (("auto", 0), ("model", 0), ("ema", 1)):
        arrays, notes = choose_table(value, take)
        assert set(arrays) == PLAIN and arrays["layer.0"][0] == shift
        assert len(notes) == 1 and f"--take {'model' if shift else 'ema'}" in notes[0]


def test_mmengine_saves_averaged_weights_as_the_state_dict() -> None:
    value = {"state_dict": names(""), "ema_state_dict": names("module."), "meta": {"mmengine_version": "0.10"}}
    arrays, notes = choose_table(value)
    assert arrays["layer.1"] is value["state_dict"]["layer.1"]
    assert notes[0].startswith(
        "Took the averaged weights (EMA) in `state_dict`. The weights in `ema_state_dict: module.`"
    )
    assert choose_table(value, "model")[0]["layer.1"] is value["ema_state_dict"]["module.layer.1"]
    older = {**value, "meta": {}}
    assert choose_table(older, "ema")[0]["layer.1"] is value["ema_state_dict"]["module.layer.1"]


def test_only_averaged_weights() -> None:
    arrays, notes = choose_table({"ema": {"module": names("")}, "updates": 5})
    assert set(arrays) == PLAIN and notes == ("Took the averaged weights (EMA) in `ema`; there are no others.",)


def test_memoised_objects_are_shared(tmp_path: Path) -> None:
    space = new("argparse.Namespace", fields(lr=raw(b"1"))) + put(7)
    assert read(fields(args=space, again=get(7), model=fields(w=tensor())), tmp_path).beside["args"] == {"lr": b"1"}
