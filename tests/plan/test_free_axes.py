"""Free axes: sizes that nobody needs to state, because the tensors tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Module, Parameter

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.codec import decode

SPEC = """\
layoutdsl: 1
scheme: FREE
layer: attention
title: a free axis, and one that is taken for a size until the tensors tell
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {a: num_heads, h: HEADS, d: free}
require:
  - H % 2 == 0
params:
  cache.scale: params_dtype[h, d]
  head_scale:  float32[a]
value: none
steps:
  - cache.scale: view [(h, d)]
  - wide: cache.scale | view [h, d] | cast(float32)
forward: external
"""
GIVEN = {"num_heads": 4, "num_kv_heads": 2, "kv_lora_rank": 32, "index_head_dim": 16}


@pytest.fixture
def plans(tmp_path: Path) -> tuple[layoutdsl.Plan, layoutdsl.Plan]:
    """Two plans, read back from their JSON: nothing is known of H, and H is taken for num_kv_heads."""
    made = []
    for i, heads in enumerate(("free", "free or num_kv_heads")):
        path = tmp_path / f"{i}.yaml"
        path.write_text(SPEC.replace("HEADS", heads), encoding="utf-8")
        assert {finding.code for finding in layoutdsl.validate(path)} == {"loaded-unused"}
        made.append(layoutdsl.Plan(decode(layoutdsl.compile_spec(path).to_json())))
    return made[0], made[1]


def tensors(h: int = 6, d: int = 5, a: int = 4) -> dict[str, Any]:
    return {"cache.scale": torch.randn(h, d).bfloat16(), "head_scale": torch.randn(a)}


def code(call: Any) -> list[str]:
    with pytest.raises(DiagnosticError) as caught:
        call()
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


def test_the_tensors_tell(plans: tuple[layoutdsl.Plan, layoutdsl.Plan]) -> None:
    for plan in plans:
        for known in (plan, plan.bind(GIVEN), plan.bind({**GIVEN, "D": 5}), plan.bind({**GIVEN, "D": 5, "H": 6})):
            given = tensors()
            results = known.run(given)
            assert torch.equal(results["cache.scale"], given["cache.scale"].flatten())
            assert torch.equal(results["wide"], given["cache.scale"].float())
        bound = plan.bind(GIVEN)
        assert bound.sizes == {"num_heads": 4} and bound.run(tensors(8, 1))["wide"].shape == (8, 1)


def test_what_contradicts_is_refused(plans: tuple[layoutdsl.Plan, layoutdsl.Plan]) -> None:
    for plan in plans:
        assert code(lambda plan=plan: plan.bind(GIVEN).run(tensors(a=3))) == ["tensor-shape"]
        assert code(lambda plan=plan: plan.bind({**GIVEN, "D": 4}).run(tensors())) == ["tensor-shape"]
        assert code(lambda plan=plan: plan.bind(GIVEN).run(tensors(h=7))) == ["requirement-failed"]
        assert code(lambda plan=plan: plan.bind(GIVEN).run({"head_scale": torch.randn(4)})) == ["size-unsolved", "size-unsolved"]
        assert code(lambda plan=plan: plan.bind({"D": 5})) == ["size-missing"]
        assert code(lambda plan=plan: plan.bind({**GIVEN, "D": 0})) == ["size-invalid"]
        assert code(lambda plan=plan: plan.bind({**GIVEN, "E": 5})) == ["size-unknown"]


def test_before_any_tensor_only_what_is_known(plans: tuple[layoutdsl.Plan, layoutdsl.Plan]) -> None:
    for plan in plans:
        with pytest.raises(DiagnosticError, match=r"not known: .*D"):
            _ = plan.bind(GIVEN).parameters
    unknown, nominal = (plan.bind({**GIVEN, "D": 5}) for plan in plans)
    with pytest.raises(DiagnosticError, match="not known: H"):
        _ = unknown.parameters
    assert nominal.parameters["cache.scale"].shape == (2, 5)
    assert nominal.run(tensors())["wide"].shape == (6, 5)
    assert plans[1].bind({"num_heads": 4, "D": 5, "H": 8}).parameters["cache.scale"].shape == (8, 5)
    assert code(lambda: plans[1].bind({"num_heads": 4, "D": 5}).parameters) == ["size-missing"]


def test_apply(plans: tuple[layoutdsl.Plan, layoutdsl.Plan]) -> None:
    for plan in plans:
        for known in (plan, plan.bind(GIVEN)):
            module, given = Module(), tensors()
            module.add_module("cache", Module())
            module.cache.register_parameter("scale", Parameter(given["cache.scale"], requires_grad=False))
            module.register_parameter("head_scale", Parameter(given["head_scale"], requires_grad=False))
            known.apply(module)
            assert module.cache.scale.shape == (30,) and torch.equal(module.wide, given["cache.scale"].float())
            known.apply(module)
            assert module.cache.scale.shape == (30,)


FORWARD = """\
layoutdsl: 1
scheme: FREE
layer: linear
title: the call needs a size that the tensors tell
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {n: output_size, k: input_size, d: free}
params:
  weight: int8[n, k]
  scale:  float32[n]
  spare:  int8[d]
value: none
steps: []
forward:
  - xq, xs: npu_dynamic_quant(x)
  - return: npu_quant_matmul(xq, (weight | transpose(k, n)), scale, pertoken_scale=xs, output_dtype=x.dtype)
"""


def test_a_call_needs_all_sizes(tmp_path: Path) -> None:
    path = tmp_path / "free.linear.yaml"
    path.write_text(FORWARD, encoding="utf-8")
    plan = layoutdsl.compile_spec(path, sizes={"input_size": 64, "output_size": 32})
    assert code(lambda: plan.forward_source) == ["size-missing"]
    assert "npu_quant_matmul" in plan.bind({**plan.sizes, "D": 3}).forward_source
