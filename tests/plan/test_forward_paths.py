"""Paths through a forward: on each, names are bound before they are read, and something is returned."""

from __future__ import annotations

from typing import Any

import pytest

from layoutdsl.plan.forward import fault
from layoutdsl.plan.model import Call

X, BIAS, SCALE, Y = ("input", "x"), ("input", "bias"), ("input", "x_scale"), ("local", "y")
ALWAYS, BIASED, SCALED = ("const", True), ("given", BIAS), ("given", SCALE)


def dtype(name: str) -> Any:
    return ("==", ("dtype_of", X), ("dtype", name))


def both(left: Any, right: Any) -> Any:
    return ("and", left, right)


def bind(when: Any = ALWAYS, expr: Any = X) -> Call:
    return Call(("y",), expr, when)


def back(when: Any = ALWAYS, expr: Any = Y) -> Call:
    return Call((), expr, when)


RIGHT: dict[str, tuple[Call, ...]] = {
    "straight": (bind(), back()),
    "one of two": (bind(BIASED), bind(("not", BIASED)), back()),
    "bound and read where the same holds": (bind(BIASED), back(BIASED), back(("not", BIASED), X)),
    "read where less holds": (bind(BIASED), back(both(SCALED, BIASED)), back(ALWAYS, X)),
    "read in a branch": (bind(BIASED), back(ALWAYS, ("if", BIASED, Y, X))),
    "read in the other branch": (bind(("not", BIASED)), back(ALWAYS, ("if", BIASED, X, ("neg", Y)))),
    "returned before": (back(BIASED, X), bind(("not", BIASED)), back()),
    "or": (bind(("or", BIASED, SCALED)), back(BIASED), back(SCALED), back(ALWAYS, X)),
    "both given": (bind(("given", BIAS, SCALE)), back(both(BIASED, SCALED)), back(ALWAYS, X)),
    "not equal": (bind(("!=", ("dtype_of", X), ("dtype", "int8"))), back(("not", dtype("int8"))), back(dtype("int8"), X)),
    "one dtype at a time": (bind(("not", dtype("int8"))), back(dtype("float16")), back(ALWAYS, X)),
    "x is given": (bind(("given", X)), back()),
    "tensors of the layer are given": (bind(("given", ("layer", "w"))), back()),
    "never": (bind(("const", False), Y), back(ALWAYS, X)),
}
WRONG: dict[str, tuple[tuple[Call, ...], str]] = {
    "nothing": ((), "no line returns"),
    "nothing returned": ((bind(),), "no line returns"),
    "returned on one path": ((back(BIASED, X),), "no line returns"),
    "never bound": ((back(),), "`y`"),
    "bound behind": ((back(), bind()), "`y`"),
    "bound on one path": ((bind(BIASED), back()), "`y`"),
    "bound where more holds": ((bind(both(SCALED, BIASED)), back(BIASED), back(ALWAYS, X)), "`y`"),
    "read in the wrong branch": ((bind(BIASED), back(ALWAYS, ("if", BIASED, X, Y))), "`y`"),
    "read by itself": ((bind(ALWAYS, Y), back()), "`y`"),
    "read by a condition": ((bind(BIASED), back(("==", ("dtype_of", Y), ("dtype", "int8")), X), back(ALWAYS, X)), "`y`"),
    "read in an argument": ((back(ALWAYS, ("call", "npu::npu_a", (X,), (("b", ("list", Y)),))),), "`y`"),
    "dropped": ((Call(("_",), X, ALWAYS), back(ALWAYS, ("local", "_"))), "`_`"),
    "no condition": ((back(X, X),), "condition"),
    "no condition of a branch": ((back(ALWAYS, ("if", ("const", 1), X, X)),), "condition"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    assert fault(RIGHT[name]) is None


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    lines, said = WRONG[name]
    assert said in (fault(lines) or "")
