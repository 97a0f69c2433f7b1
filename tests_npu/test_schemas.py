"""``layoutdsl/kernels/schemas.json`` is what the installed torch_npu registers, and the package reads a schema as torch does."""

from __future__ import annotations

import torch

from layoutdsl.kernels.schemas import parse_schema, schema_text
from tools import dump_schemas

TEXTS = dump_schemas.schemas()["schemas"]


def test_the_file_is_of_this_wheel() -> None:
    assert dump_schemas.FILE.read_text(encoding="utf-8") == dump_schemas.text(), "run `make schemas`"


def test_the_wheel_is_the_pinned_one() -> None:
    constraints = (dump_schemas.FILE.parents[2] / "constraints.txt").read_text(encoding="utf-8").split()
    assert f"{dump_schemas.PACKAGE}=={dump_schemas.schemas()['version']}" in constraints


def test_every_schema_is_read_as_torch_reads_it() -> None:
    """Names, order, what is keyword-only, optional, a tensor, what has a default, and how many results there are."""
    for name, text in TEXTS.items():
        ours, theirs = parse_schema(text), torch._C.parse_schema(text)
        assert ours.op == theirs.name == name.partition(".")[0]
        assert [p.name for p in ours.parameters] == [a.name for a in theirs.arguments], name
        assert [p.keyword_only for p in ours.parameters] == [a.kwarg_only for a in theirs.arguments], name
        assert [p.optional for p in ours.parameters] == [isinstance(a.type, torch.OptionalType) for a in theirs.arguments], name
        assert [p.tensors for p in ours.parameters] == ["Tensor" in str(a.type) for a in theirs.arguments], name
        assert [p.default is not None for p in ours.parameters] == [a.has_default_value() for a in theirs.arguments], name
        assert len(ours.returns) == len(theirs.returns), name


def test_defaults_are_read_as_torch_reads_them() -> None:
    compared = 0
    for text in TEXTS.values():
        for ours, theirs in zip(parse_schema(text).parameters, torch._C.parse_schema(text).arguments):
            if theirs.has_default_value() and isinstance(theirs.default_value, (int, float, bool, str, type(None))):
                assert ours.default_value == theirs.default_value and type(ours.default_value) is type(theirs.default_value), text
                compared += 1
    assert compared > 500


def test_an_op_with_overloads_is_found_by_its_name() -> None:
    names = {name.partition(".")[0] for name in TEXTS}
    assert all(schema_text(name) is not None for name in names)
    assert schema_text("npu::npu_nothing") is None
