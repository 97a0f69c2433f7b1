"""What was not loaded is counted: floats by element, integers by lines, and named with where it is and why."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import MethodType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Module, Parameter

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.runtime import poison
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.guard import unloaded
from layoutdsl.runtime.marks import kernel_form, mark_kernel, watch
from layoutdsl.runtime.poison import fill, judge, poison_of

FLOATS = [dtype for name, dtype in TORCH.items() if STORAGES[name].kind in ("float", "scale")]
INTEGERS = [dtype for name, dtype in TORCH.items() if STORAGES[name].kind in ("int", "uint")]


def filled(*shape: int, dtype: torch.dtype = torch.float32, element: str | None = None) -> Parameter:
    parameter = Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
    fill(parameter, element)
    return parameter


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.data.view(-1).view(torch.uint8)


# ---- filling -------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_nan(dtype: torch.dtype) -> None:
    assert filled(3, 5, dtype=dtype).to(torch.float64).isnan().all()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_filled_by_byte(dtype: torch.dtype) -> None:
    assert raw(filled(3, 5, dtype=dtype)).eq(0x80).all()


def test_the_element_decides() -> None:
    assert raw(filled(4, dtype=torch.uint8, element="e8m0")).eq(0xFF).all()
    assert raw(filled(4, dtype=torch.uint8, element="e2m1")).eq(0x80).all()
    assert raw(filled(4, dtype=torch.int64, element="float32")).eq(0x80).all()


def test_what_has_no_poison_is_left_alone() -> None:
    for tensor in (torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.complex64), torch.empty(3, device="meta")):
        assert poison_of(fill(tensor)) is None
        assert not judge(tensor).left


# ---- judging -------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (2, 3, 4), (2, 2, 3, 2)], ids=str)
def test_floats_count_by_element(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    parameter = filled(*shape, dtype=dtype)
    assert judge(parameter).whole and judge(parameter).left == parameter.numel()
    raw(parameter)[: parameter.element_size()] = 1
    assert judge(parameter).left == parameter.numel() - 1
    raw(parameter).fill_(1)
    assert not judge(parameter).left


def test_a_nan_of_the_checkpoint_is_a_value() -> None:
    parameter = filled(4, dtype=torch.bfloat16)
    parameter.data.copy_(torch.tensor([float("nan"), 1, -float("nan"), 2], dtype=torch.bfloat16))
    assert not judge(parameter).left


@settings(max_examples=200, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), data=st.data())
def test_integers_count_by_lines(rows: int, columns: int, data: Any) -> None:
    """Against the definition: whole rows and columns of 16 or more; 16 in a row, in reading order, where either is shorter."""
    loaded_rows = data.draw(st.lists(st.integers(0, rows - 1)))
    loaded_columns = data.draw(st.lists(st.integers(0, columns - 1)))
    parameter = filled(rows, columns, dtype=torch.int8)
    parameter.data[loaded_rows] = 1
    parameter.data[:, loaded_columns] = 1
    is_poison = [[not (r in loaded_rows or c in loaded_columns) for c in range(columns)] for r in range(rows)]
    want = {(r, c) for r in range(rows) for c in range(columns) if columns >= 16 and all(is_poison[r])}
    want |= {(r, c) for r in range(rows) for c in range(columns) if rows >= 16 and all(line[c] for line in is_poison)}
    if min(rows, columns) < 16:
        flat = [one for line in is_poison for one in line]
        starts = [i for i in range(len(flat) - 15) if all(flat[i : i + 16])]
        want |= {divmod(i + j, columns) for i in starts for j in range(16)}
    if rows * columns < 16 and all(map(all, is_poison)):
        want = {(r, c) for r in range(rows) for c in range(columns)}
    assert judge(parameter).left == len(want)


@pytest.mark.parametrize("block", [1, 16, 100, 1 << 20])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "BLOCK", block)
    for dtype in (torch.int8, torch.float16):
        parameter = filled(3, 40, 24, dtype=dtype)
        parameter.data[1:, :20] = 1
        found = judge(parameter)
        assert (found.left, found.where) == (40 * 24 + 2 * 20 * 24, (((0, 3),), ((0, 40),), ((0, 24),)))


def test_single_values_are_values() -> None:
    for shape in ((64, 64), (3, 1000), (1000,)):
        parameter = filled(*shape, dtype=torch.int8)
        parameter.data.copy_(torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(0)))
        assert parameter.eq(-128).any()
        assert not judge(parameter).left


def test_few_integers_need_a_load_that_was_noticed() -> None:
    """-128 is an offset as good as any."""
    quiet, watched, changed = (filled(1, dtype=torch.int8) for _ in range(3))
    watched.weight_loader = load  # type: ignore[attr-defined]
    watch(watched)
    watched.weight_loader(watched, torch.tensor([-128], dtype=torch.int8))
    with torch.no_grad():
        changed.copy_(torch.tensor([-128], dtype=torch.int8))
    assert [judge(one).left for one in (quiet, watched, changed)] == [1, 0, 0]


def test_the_mark_is_of_one_object() -> None:
    parameter = filled(20)
    other = Parameter(parameter.data.clone(), requires_grad=False)
    other.__dict__.update(parameter.__dict__)
    assert [judge(one).left for one in (parameter, other, copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter)))] == [20, 0, 0, 0]
    poison.mark(other)
    assert judge(other).whole
    poison.unmark(other)
    assert not judge(other).left


def test_moved_data_is_judged() -> None:
    parameter = filled(4, 20, dtype=torch.int8)
    parameter.data = parameter.data.clone().t().contiguous().t()
    assert judge(parameter).whole


# ---- findings ------------------------------------------------------------------------------------------------------------------------------------------------


def load(param: Parameter, loaded_weight: torch.Tensor, shard: int = 0) -> str:
    """Narrows the parameter to the checkpoint, as FusedMoE's loader of vLLM 0.23 does."""
    part = param.data
    for dim, size in enumerate(loaded_weight.shape):
        part = part.narrow(dim, 0, min(size, part.shape[dim]))
    part.copy_(loaded_weight[tuple(slice(0, size) for size in part.shape)])
    return "done"


def sliced(param: Parameter, loaded_weight: torch.Tensor) -> None:
    """A row-parallel loader at tp 4: this rank's quarter of dim 1."""
    quarter = loaded_weight.shape[1] // 4
    load(param, loaded_weight[:, :quarter])


CASES: dict[str, tuple[tuple[int, ...], torch.dtype, tuple[int, ...], Any, str, str]] = {
    "packed into unpacked": ((16, 128), torch.int8, (8, 128), load, "1024 of 2048 values were loaded; missing are 8-15 of dim 0", "8 of 16 along dim 0"),
    "one partial sum": ((8, 16), torch.float32, (8, 1), load, "8 of 128 values were loaded; missing are 1-15 of dim 1", "1 of 16 along dim 1"),
    "partial sums, tp 4": ((8, 4), torch.float32, (8, 1), sliced, "0 of 32 values were loaded", "slices dim 1 by tp 4 takes 0 of the 4 it should"),
    "scale, tp 4": ((64, 1), torch.bfloat16, (64, 1), sliced, "0 of 64 values were loaded", "slices dim 1 by tp 4 takes 0 of the 1 it should"),
}


@pytest.mark.parametrize(("shape", "dtype", "stored", "loader", "message", "note"), CASES.values(), ids=CASES.keys())
def test_what_a_loader_narrows(shape: Any, dtype: torch.dtype, stored: Any, loader: Any, message: str, note: str) -> None:
    parameter = filled(*shape, dtype=dtype)
    parameter.weight_loader, parameter.input_dim = loader, 1  # type: ignore[attr-defined]
    watch(parameter)
    parameter.weight_loader(parameter, torch.ones(stored, dtype=dtype))
    fill_in, findings = unloaded({"x": parameter}, tp_size=4 if loader is sliced else 1)
    assert not fill_in
    assert [(one.code, one.where, one.message) for one in findings] == [("partial-load", "x", f"`x`: {message}")]
    assert any(note in one for one in findings[0].notes)


@pytest.mark.parametrize(
    ("name", "note"), [("w2_weight_scale", "slices dim 1 by tp 4 takes 0 of the 1 it should"), ("w13_weight_scale", "slices dim 0 by tp 4 takes 2 of the 8")]
)
def test_experts_are_cut_by_their_names(name: str, note: str) -> None:
    """Per-group W4A8 with tp 4: the loader of vLLM 0.23 copies nothing into the scales of down, and says nothing."""
    parameter = Parameter(torch.empty(2, 8, 1), requires_grad=False)
    parameter.weight_loader = lambda param, loaded_weight: None  # type: ignore[attr-defined]
    poison.fill(parameter)
    watch(parameter)
    parameter.weight_loader(parameter, torch.ones(8, 1))  # type: ignore[attr-defined]
    _, (finding,) = unloaded({name: parameter}, experts=True, tp_size=4)
    assert any(note in line for line in finding.notes), finding.notes


def test_defaults_fill_what_is_wholly_missing() -> None:
    whole, part, done = filled(3, 4), filled(3, 4), filled(3, 4)
    part.data[1] = 1
    done.data.fill_(1)
    names, findings = unloaded({"whole": whole, "part": part, "done": done}, defaulted=["whole", "part", "done"], experts=True)
    assert names == ["whole"]
    assert [one.message for one in findings] == ["`part`: 4 of 12 values were loaded; missing are experts 0, 2"]
    assert [one.where for one in unloaded({"whole": whole, "part": part})[1]] == ["whole", "part"]


def test_a_loader_that_was_never_called() -> None:
    parameter = filled(4)
    parameter.weight_loader = load  # type: ignore[attr-defined]
    watch(parameter)
    assert any("never called" in note for note in unloaded({"x": parameter})[1][0].notes)


# ---- loaders -------------------------------------------------------------------------------------------------------------------------------------------------


class Layer(Module):
    def load(self, param: Parameter, loaded_weight: torch.Tensor, shard: int = 0) -> tuple[Layer, int]:
        param.data.copy_(loaded_weight)
        return self, shard

    load.supports_moe_loading = True  # type: ignore[attr-defined]


def test_a_watched_loader_is_as_it_was() -> None:
    layer, parameter = Layer(), filled(4)
    for loader in (load, layer.load):
        parameter.weight_loader = loader  # type: ignore[attr-defined]
        watch(parameter)
        once = parameter.weight_loader
        watch(parameter)
        found = parameter.weight_loader
        assert found is once or (isinstance(found, MethodType) and found.__func__ is once.__func__)
        assert found.__name__ == "load"
        assert inspect.signature(found) == inspect.signature(loader)
        assert found.__doc__ == loader.__doc__
    bound = parameter.weight_loader
    assert isinstance(bound, MethodType) and bound.__self__ is layer
    assert bound.supports_moe_loading
    assert bound(parameter, torch.ones(4), shard=3) == (layer, 3)
    other = Layer()
    assert bound.__func__.__get__(other)(param=parameter, loaded_weight=torch.ones(4)) == (other, 0)
    assert pickle.loads(pickle.dumps(bound)).__name__ == "load"


@pytest.mark.parametrize("make", [lambda layer: load, lambda layer: layer.load], ids=["function", "method"])
def test_loading_into_the_kernels_form_is_refused(make: Any) -> None:
    parameter, other = filled(4), filled(4)
    parameter.weight_loader = make(Layer())  # type: ignore[attr-defined]
    watch(parameter)
    mark_kernel(parameter, "sha256:0", "weight")
    other.__dict__.update(parameter.__dict__)
    for arguments in ({"param": parameter, "loaded_weight": torch.ones(4)}, {}):
        with pytest.raises(DiagnosticError, match="loaded-into-kernel-form") as caught:
            parameter.weight_loader(*(() if arguments else (parameter, torch.ones(4))), **arguments)
        assert "restore" in caught.value.diagnostics[0].helps[0]
    assert kernel_form(other) is None
    parameter.weight_loader(other, torch.ones(4))
    assert other.eq(1).all()
    assert parameter.isnan().all()
