"""Every forward that a bundled spec can lead to, on the reference kernels: plan, apply, forward, and the same bits from one graph."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch.nn import Module, Parameter

import layoutdsl
from layoutdsl.bundled import bundled
from layoutdsl.compiler.driver import worlds
from layoutdsl.plan.codec import decode
from layoutdsl.plan.sizes import layer_kind
from layoutdsl.runtime.dtypes import TORCH

SIZES = {"input_size": 512, "output_size": 128, "num_experts": 3, "hidden_size": 512, "intermediate_size_per_partition": 256}
INTEGERS = {"o_groups": 4, "o_lora_rank": 32}
"""Of the config, for names that have no default."""
TOKENS = 6


def configs(spec: layoutdsl.Spec) -> Iterator[dict[str, Any]]:
    """The reachable worlds of a spec, each as far as it decides config."""
    for world in worlds(spec.document):
        config = {name: INTEGERS.get(name, value) if value is not None else None for name, value in world.state.world.config.items()}
        yield {name: value for name, value in config.items() if type(value) in (str, int, bool, type(None)) and value != "(any other)"}


def plans(name: str) -> Iterator[layoutdsl.Plan]:
    """One plan, as a reader of its JSON gets it, for each different text of a spec's forward."""
    seen, spec = set(), layoutdsl.load_spec(name)
    for config in configs(spec):
        text = layoutdsl.compile_spec(spec, config=config).to_json()
        plan = layoutdsl.Plan(decode(text))
        if plan.data.forward == "external" or "npu_matmul_compress_dequant" in text:
            continue  # nobody calls it, or nobody but the device can
        plan = plan.bind({name: SIZES[name] for name in layer_kind(plan.layer).sizes})
        if plan.forward_source not in seen:
            seen.add(plan.forward_source)
            yield plan


def drawn(plan: layoutdsl.Plan) -> dict[str, torch.Tensor]:
    """Random parameters."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, parameter in plan.parameters.items():
        dtype = TORCH[parameter.dtype]
        low, high = {torch.uint8: (120, 130), torch.int32: (-(2**31), 2**31), torch.int8: (-8, 8)}.get(dtype, (1, 9))
        numbers = torch.randint(low, high, parameter.shape, generator=generator)
        found[name] = (numbers / 64 if dtype.is_floating_point else numbers).to(dtype)
    return found


def applied(plan: layoutdsl.Plan) -> Module:
    """A layer with these, after the plan ran."""
    module = Module()
    for name, tensor in drawn(plan).items():
        module.register_parameter(name, Parameter(tensor, requires_grad=False))
    plan.apply(module)
    return module


def inputs(plan: layoutdsl.Plan, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """The ways to call it, but for an x that is quantized already."""
    dtype = TORCH[plan.config.get("params_dtype", "bfloat16")]
    optional = {"bias": torch.randn(128, generator=generator).to(dtype)} if "bias=None" in plan.forward_source else {}
    if layer_kind(plan.layer).experts:
        ids = torch.randint(-1, 5, (TOKENS, 2), generator=generator)
        yield {"topk_ids": ids, "topk_weights": torch.rand(TOKENS, 2, generator=generator)}
        yield {"group_list": torch.tensor([1, 0, 4])}
        return
    yield {}
    if optional:
        yield optional


@pytest.mark.parametrize("name", bundled())
def test_one_graph(name: str) -> None:
    for plan in plans(name):
        torch._dynamo.reset()
        module, generator = applied(plan), torch.Generator().manual_seed(1)
        width, out = (SIZES[size] for size in layer_kind(plan.layer).columns or ())
        x = torch.randn(TOKENS, width, generator=generator).to(TORCH[plan.config.get("params_dtype", "bfloat16")])
        for given in inputs(plan, generator):
            eager = plan.forward(module, x, **given)
            assert eager.shape == (TOKENS, out)
            assert torch.isfinite(eager[: int(given["group_list"].sum()) if "group_list" in given else TOKENS]).all()
            compiled = torch.compile(plan.forward, fullgraph=True, backend="aot_eager")(module, x, **given)
            assert torch.equal(compiled.view(torch.int16), eager.view(torch.int16)), plan.config


def test_rows_beyond_those_of_a_kernel_go_in_parts() -> None:
    """npu_kronecker_quant takes 32768 rows; each row has its own scale, so the parts are what the rows are on their own."""
    plan = layoutdsl.compile_spec("W4A4_FLATQUANT_DYNAMIC.linear", sizes={"input_size": 64, "output_size": 8})
    module, generator = applied(plan), torch.Generator().manual_seed(1)
    x, bias = torch.randn(2, 20_000, 64, generator=generator).bfloat16(), torch.randn(8, generator=generator).bfloat16()
    whole = plan.forward(module, x, bias=bias)
    assert whole.shape == (2, 20_000, 8)
    assert torch.equal(whole, torch.stack([plan.forward(module, half, bias=bias) for half in x]))
    torch._dynamo.reset()
    assert torch.equal(torch.compile(plan.forward, fullgraph=True, backend="aot_eager")(module, x, bias=bias), whole)
    most = max(call.shape[0] for call in _seen(plan, module, x))
    assert most == 32768


def _seen(plan: layoutdsl.Plan, module: Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What the kernel was given, call by call."""
    seen: list[torch.Tensor] = []
    source = plan.forward_source
    assert "npu__npu_kronecker_quant(" in source
    names: dict[str, Any] = {"torch": torch}

    def kernel(x: torch.Tensor, *rotations: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x)
        return torch.zeros(len(x), 8, 1, dtype=torch.int32), torch.ones(len(x))

    names |= {"npu__npu_kronecker_quant": kernel, "npu__npu_quant_matmul": lambda x, *_, **options: torch.zeros(len(x), 8)}
    exec(source, names)
    names["forward"](module, x)
    return seen


@pytest.mark.parametrize("name", bundled())
def test_a_reloaded_layer_gives_the_same(name: str) -> None:
    for plan in islice(plans(name), 1):
        module, generator = applied(plan), torch.Generator().manual_seed(1)
        width, _ = (SIZES[size] for size in layer_kind(plan.layer).columns or ())
        x = torch.randn(TOKENS, width, generator=generator).to(TORCH[plan.config.get("params_dtype", "bfloat16")])
        given = next(inputs(plan, generator))
        before = plan.forward(module, x, **given)
        plan.restore(module)
        for parameter, tensor in drawn(plan).items():
            module.get_parameter(parameter).data.copy_(tensor)
        plan.apply(module)
        assert torch.equal(plan.forward(module, x, **given), before)
