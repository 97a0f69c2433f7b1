"""The facts of every output of every bundled spec, held against what happens: runs with other inputs, on ranks' slices, with one expert."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import layoutdsl
from layoutdsl.api import Plan
from layoutdsl.bundled import bundled
from layoutdsl.cli import main
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.lifecycle import Gather, OutputFacts, facts_of
from layoutdsl.plan.model import Compute, Output, TensorType
from layoutdsl.plan.sizes import evaluate, layer_kind
from layoutdsl.verify import sizes, tensors
from layoutdsl.verify.configurations import Configuration, configurations
from layoutdsl.verify.tensor_parallel import Ranks, Split, splits
from tests.golden.compare import bits

Results = dict[str, list[torch.Tensor]]


@cache
def found(name: str) -> list[Configuration]:
    """One configuration of every combination of cases and outputs."""
    every = configurations(layoutdsl.load_spec(name), {})
    return list({(one.cases, tuple(output.name for output in one.plan.data.outputs)): one for one in every}.values())


def bound(configuration: Configuration) -> Plan:
    """At the smallest sizes of which none hides what a mistake would exchange."""
    chosen = sizes.chosen(configuration.plan.data)
    return configuration.plan.bind(chosen.get("distinct") or next(iter(chosen.values())))


def checkpoint(configuration: Configuration, plan: Plan, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tensor for every parameter, also for those that may be absent."""
    made = tensors.checkpoint(configuration, plan.bound, plan.sizes, seed=seed).tensors
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in plan.parameters.items():
        if name not in made:
            made[name] = torch.randint(1, 8, parameter.shape, generator=generator).to(getattr(torch, parameter.dtype))
    return {name: made[name] for name in plan.parameters}


def lists(results: dict[str, Any]) -> Results:
    """Every result as a list of tensors."""
    found = {}
    for name, value in results.items():
        values = value if isinstance(value, list) else [value]
        found[name] = [one if isinstance(one, torch.Tensor) else torch.tensor(one) for one in values]
    return found


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(a.shape == b.shape and torch.equal(bits(a), bits(b)) for a, b in zip(left, right))


def cases(name: str) -> Iterator[tuple[Configuration, Plan, dict[str, OutputFacts], dict[str, Output]]]:
    for configuration in found(name):
        plan = bound(configuration)
        yield configuration, plan, facts_of(configuration.plan.data), {output.name: output for output in plan.bound.outputs}


# ---- reloading -------------------------------------------------------------------------------------------------------------------------------------------


def codes(tensor: torch.Tensor, kind: TensorType) -> torch.Tensor:
    """The codes that the slots of a type hold, sorted: nibbles as values, else bytes."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    if kind.slot_bits == 4:
        data = torch.cat([data & 15, data >> 4])
        data = (data - kind.excess) % 16
    return data.sort().values


def types_of(plan: Plan) -> dict[str, TensorType]:
    return {node.id: node.type for node in (*plan.bound.inputs, *plan.bound.code)}


@pytest.mark.parametrize("name", bundled())
def test_reload_classes(name: str) -> None:
    for configuration, plan, facts, outputs in cases(name):
        given, types = checkpoint(configuration, plan), types_of(plan)
        stored = {node.name: node.type for node in plan.bound.inputs}
        raw, made = plan.run(dict(given)), lists(plan.run(dict(given)))
        assert facts.keys() == made.keys()
        for output, fact in facts.items():
            where = (configuration.title, output, fact.reload)
            memory = {tensor.untyped_storage().data_ptr() for tensor in made[output] if tensor.numel()}
            ours = {source for source, tensor in given.items() if tensor.numel() and tensor.untyped_storage().data_ptr() in memory}
            nz = types[outputs[output].value].format  # a cast to FRACTAL_NZ moves on the device alone
            assert (fact.reload == "alias") == (raw[output] is given.get(output) and not nz), where
            if fact.reload == "alias":
                assert fact.sources == (output,), where
            elif fact.reload == "view":
                assert ours == set(fact.sources) and len(fact.sources) == 1, where
            else:
                vector = output in given and max(given[output].shape) == given[output].numel()
                assert not ours or nz or vector, where
            if fact.reload == "permute":
                (source,) = fact.sources
                assert output == source or source not in made, where
                left = codes(torch.cat([tensor.contiguous().reshape(-1) for tensor in made[output]]), types[outputs[output].value])
                assert torch.equal(left, codes(given[source], stored[source])), where
            assert (output in given) or fact.reload not in ("alias", "rebuild"), where
            assert fact.reload != "derived" or output not in given, where
            if fact.reload in ("rebuild", "derived"):
                assert computed(plan, outputs[output].value) or resized(plan, outputs[output].value, fact) or set(fact.sources) & made.keys(), where


def resized(plan: Plan, value: str, fact: OutputFacts) -> bool:
    """Does it take other room, or may it at other sizes?"""
    (source,) = [node.type for node in plan.bound.inputs if node.name in fact.sources]
    kind = types_of(plan)[value]
    return kind.slot_bits != source.slot_bits or kind.pads != source.pads


def computed(plan: Plan, value: str) -> bool:
    made_by = {instruction.id: instruction for instruction in plan.bound.code}
    instruction = made_by.get(value)
    return isinstance(instruction, Compute) or (instruction is not None and computed(plan, instruction.of))


@pytest.mark.parametrize("name", bundled())
def test_sources(name: str) -> None:
    """Another tensor in the place of one input changes the outputs that name it, and no other."""
    for configuration, plan, facts, _ in cases(name):
        first, second = checkpoint(configuration, plan), checkpoint(configuration, plan, seed=1)
        before = lists(plan.run(dict(first)))
        for source in first:
            after = lists(plan.run({**first, source: second[source]}))
            changed = {output for output in facts if not same(before[output], after[output])}
            if not same([first[source]], [second[source]]):
                assert changed == {output for output, fact in facts.items() if source in fact.sources}, (configuration.title, source)
        aliases = {output for output, fact in facts.items() if fact.reload == "alias"}
        for output, fact in facts.items():
            assert fact.from_alias == (aliases >= set(fact.sources)), (configuration.title, output)


# ---- ranks -----------------------------------------------------------------------------------------------------------------------------------------------


class Uneven(Exception):
    """A size that these ranks cannot share."""


def slices(full: Plan, rank: Plan, given: dict[str, torch.Tensor], size: str, ranks: int, which: int) -> dict[str, torch.Tensor]:
    """What vLLM's loaders put on a rank: by the attributes of linear layers, by the shapes of experts; w13 gate and up each for itself."""
    found, experts = {}, layer_kind(full.layer).experts
    for name, parameter in rank.parameters.items():
        whole = given[name]
        differing = [dim for dim, (a, b) in enumerate(zip(whole.shape, parameter.shape)) if a != b]
        dims = differing if experts else [dim for dim in [parameter.output_dim if size == "output_size" else parameter.input_dim] if dim is not None]
        if differing and not dims:
            found[name] = torch.ones(parameter.shape).to(whole.dtype)
            continue
        parts = 2 if experts and name.startswith("w13") else 1
        for dim in dims if differing else ():
            own = parameter.shape[dim] // parts
            if whole.shape[dim] != own * parts * ranks or differing != dims:
                raise Uneven
            whole = torch.cat([piece.narrow(dim, which * own, own) for piece in whole.chunk(parts, dim)], dim)
        found[name] = whole.contiguous()
    return found


def gathered(parts: list[torch.Tensor], gather: Gather, layer_sizes: dict[str, int]) -> torch.Tensor:
    """[major, parts, own] of every rank, put together along the last."""
    major = evaluate(gather.major, layer_sizes)
    cut = [part.unflatten(gather.dim, (major, gather.parts, -1)) for part in parts]
    return torch.cat(cut, gather.dim + 2).flatten(gather.dim, gather.dim + 2)


def split_cases(name: str) -> Iterator[tuple[Configuration, Split, int, dict[str, int], Configuration]]:
    for configuration in found(name):
        for own, split in splits(configuration):
            plans = Ranks(own)
            for ranks in (2, 4):
                try:
                    layer_sizes, one = plans.sizes(split, (ranks,)), plans.of(ranks, 0)
                except DiagnosticError:
                    continue
                if layer_sizes is not None:
                    yield own, split, ranks, layer_sizes, one


OWN = {
    "fp8.ds_linear": {"weight", "weight_scale"},  # wo_a, whose outputs the config says
    "w4a4_flatquant_dynamic.linear": {"left_trans", "right_trans"},  # their sides follow from a rank's inputs
    "w4a4_mxfp4_flatquant.linear": {"left_trans", "right_trans"},
    "w4a8_dynamic.linear": {"weight_scale_bias"},  # partial sums over a rank's inputs
    "w4a8_dynamic.moe": {"w2_scale_bias", "w2_scale_bias_list", "cann_mega_moe_w2_scale_bias_list"},
}
"""Outputs of which nothing is known for one of the splits. W8A8SC, whose bytes are opaque, says nothing of any."""


@pytest.mark.parametrize("name", [name for name in bundled() if layer_kind(name.rpartition(".")[2]).split])
def test_ranks(name: str) -> None:
    ran, own = 0, set()
    for configuration, split, ranks, layer_sizes, one in split_cases(name):
        full, rank = configuration.plan.bind(layer_sizes), one.plan.bind({**layer_sizes, split.size: layer_sizes[split.size] // ranks})
        given, facts = checkpoint(configuration, full), facts_of(one.plan.data)
        try:
            pieces = [slices(full, rank, given, split.size, ranks, which) for which in range(ranks)]
        except Uneven:
            continue
        whole, parts = lists(full.run(dict(given))), [lists(rank.run(piece)) for piece in pieces]
        ran += 1
        for output in rank.bound.outputs:
            gather = next(gather for gather in facts[output.name].gathers if gather.size == split.size)
            if gather.how == "own":
                own.add(output.name)
                continue
            if layer_sizes[split.size] // ranks % evaluate(gather.unit, layer_sizes):
                continue
            for i, wanted in enumerate(whole[output.name]):
                results = [part[output.name][i] for part in parts]
                where = (configuration.title, split, ranks, output.name, gather)
                for result in results if gather.how == "repeat" else [gathered(results, gather, layer_sizes)]:
                    assert result.shape == wanted.shape, where
                    close = output.bits == "sum" and torch.allclose(result.double(), wanted.double(), rtol=1e-5)
                    assert close or torch.equal(bits(result), bits(wanted)), where
    assert ran
    assert own == ({output for one in found(name) for output in facts_of(one.plan.data)} if name == "w8a8sc.linear" else OWN.get(name, set()))


# ---- experts ---------------------------------------------------------------------------------------------------------------------------------------------


FLAT = {
    "w4a8_dynamic.moe": {"w13_scale_bias", "w2_scale_bias"},  # per channel and unpacked: without elements
    "w8a8_dynamic.moe": {"fused_w1_scale", "fused_w2_scale", "fused_w1_scale_bias", "fused_w2_scale_bias"},
    "w8a8_mix.moe": {"fused_w1_scale", "fused_w2_scale"},
    "w8a8fp8_dynamic.moe": {"fused_w1_scale", "fused_w2_scale", "fused_w1_scale_bias", "fused_w2_scale_bias"},
}
"""Outputs that have no expert axis of their own: all experts in one dim."""


@pytest.mark.parametrize("name", [name for name in bundled() if layer_kind(name.rpartition(".")[2]).experts])
def test_experts(name: str) -> None:
    """Alone, an expert gives what the layer has at its place: a dense piece of the memory."""
    none = set()
    for configuration, plan, facts, _ in cases(name):
        alone = configuration.plan.bind({**plan.sizes, "num_experts": 1})
        given = checkpoint(configuration, plan)
        made = plan.run(dict(given))
        for expert in range(plan.sizes["num_experts"]):
            own = alone.run({source: tensor[expert : expert + 1].contiguous() for source, tensor in given.items()})
            for output, fact in facts.items():
                where = (configuration.title, output, expert)
                if not fact.experts:
                    none.add(output)
                    continue
                view = made[output][expert]
                assert torch.equal(bits(view), bits(own[output][0])), where
                assert view.numel() == 0 or dense(view), where
                if fact.experts == "first":
                    assert view.data_ptr() == made[output].data_ptr() + expert * view.numel() * view.element_size(), where
    assert none == FLAT.get(name, set())


def dense(tensor: torch.Tensor) -> bool:
    order = sorted(range(tensor.dim()), key=lambda dim: -tensor.stride(dim))
    return tensor.permute(order).is_contiguous()


# ---- what no bundled spec does ---------------------------------------------------------------------------------------------------------------------------


def facts(tmp_path: Path, layer: str, params: str, steps: str, require: str = "[]") -> dict[str, OutputFacts]:
    axes = {"linear": "{n: output_size, k: input_size, q: input_size, c: 8}", "moe": "{e: num_experts, n: intermediate_size_per_partition}"}[layer]
    path = tmp_path / f"facts.{layer}.yaml"
    path.write_text(f"""
layoutdsl: 1
scheme: FACTS
layer: {layer}
title: what no bundled spec does
holds: {{consumer: [vllm-ascend-0.23], device: [a2]}}
axes: {axes}
require: {require}
params: {params}
value: none
steps: {steps}
forward: external
""")
    assert [finding for finding in layoutdsl.validate(path) if finding.severity == "error"] == []
    return facts_of(layoutdsl.compile_spec(path).data)


ODD = {
    "padded beyond a unit": ("{a: 'uint8[n, k//32]'}", "[a: 'pad(k, 128, 0) | view [n, k//64, k//32%2]']", ("rebuild", "own", "concat")),
    "padded to a unit": ("{a: 'uint8[n, k//32]'}", "[a: 'pad(k, 64, 0) | view [n, k//64, k//32%2]']", ("rebuild", "concat", "concat")),
    "loaded whole": ("{a: {type: 'int8[n, k]', shard: none}}", "[a: clone]", ("permute", "own", "own")),
    "two axes of one size": ("{a: 'int8[k, q]'}", "[a: clone]", ("permute", "own", "repeat")),
    "one summed, one made": ("{a: 'float32[n, k]', b: 'float32[q]'}", "['a[n, q]': 'sum[k](a[n, k]) * b[q]']", ("rebuild", "own", "concat")),
    "part of a digit summed": ("{a: 'float32[n, k]'}", "['a[n, k//8]': 'sum[k%8](a[n, k])']", ("rebuild", "concat", "concat")),
    "read elsewhere": ("{a: 'float32[n, k]'}", "['a[n, c]': 'a[n, k = c]']", ("rebuild", "own", "concat")),
    "read backwards": ("{a: 'float32[n, k]'}", "['a[n, k]': 'a[n, k = K - 1 - k]']", ("rebuild", "own", "concat")),
    "spread": ("{a: 'float32[n, 0]'}", "['a[n, k]': 'a[n]']", ("rebuild", "concat", "concat")),
    "renamed by math": ("{a: 'float32[n, k]'}", "['b[k, n]': 'a[n, k]', delete: a]", ("permute", "concat", "concat")),
    "in lanes": ("{a: 'int4[k, n] in int8[k, n]'}", "[a: 'pack(n, int8)']", ("rebuild", "concat", "concat")),
    "made by a kernel": ("{a: 'float32[n]'}", "[a: 'call(npu_trans_quant_param, int64)']", ("opaque", "repeat", "concat")),
    "moved after a kernel": ("{a: 'float32[n]'}", "[a: 'call(npu_trans_quant_param, int64) | view [0, n]']", ("opaque", "repeat", "concat")),
}
"""Parameters, steps, and of the only output the class and how it is put together where inputs and outputs are shared."""


@pytest.mark.parametrize("case", ODD)
def test_other_plans(case: str, tmp_path: Path) -> None:
    params, steps, (reload, *hows) = ODD[case]
    require = "['input_size >= 8']" if case == "read elsewhere" else "['K % 8 == 0', 'N % 8 == 0']"
    (fact, *_) = facts(tmp_path, "linear", params, steps, require).values()
    assert (fact.reload, [gather.size for gather in fact.gathers], [gather.how for gather in fact.gathers]) == (reload, ["input_size", "output_size"], hows)


@pytest.mark.parametrize(("params", "steps", "experts"), [
    ("{a: 'int8[e, n]'}", "[]", "first"),
    ("{a: 'int8[n, e]'}", "[a: 'transpose(e, n)']", ""),  # dim 0, and not slowest
    ("{a: 'int8[n, e]'}", "[a: 'transpose(e, n) | contiguous']", "first"),
    ("{a: 'int8[e, n]'}", "[a: 'view [(e, n)]']", ""),
    ("{a: 'int8[e, n]'}", "[a: 'view [e//4, e%4, n]']", ""),
    ("{a: 'int8[e, n]'}", "[a: 'unbind(e)']", "list"),
    ("{a: 'int8[n, e]'}", "[a: 'unbind(n)']", ""),
])  # fmt: skip
def test_where_experts_are(params: str, steps: str, experts: str, tmp_path: Path) -> None:
    assert facts(tmp_path, "moe", params, steps, "['num_experts % 4 == 0']")["a"].experts == experts


def test_a_bound_plan_says_nothing_of_ranks() -> None:
    plan = layoutdsl.compile_spec("W8A16", layer="linear", sizes={"input_size": 64, "output_size": 32})
    assert {fact.reload for fact in facts_of(plan.bound).values()} == {"permute", "view"}
    assert facts_of(plan.data)["weight"].gathers == (Gather("input_size", "concat", 0), Gather("output_size", "concat", 1))
    assert {gather.how for fact in facts_of(plan.bound).values() for gather in fact.gathers} == {"own"}


@pytest.mark.parametrize("name", ["w4a16.linear", "w4a8_dynamic.moe", "c8.attention"])
def test_explain_prints_a_line_per_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    section = capsys.readouterr().out.split("\nreloading, ranks that share a size, experts\n")[1].split("\n\n")[0].splitlines()
    wanted = facts_of(layoutdsl.compile_spec(name).data)
    rows = {line.split()[0]: line.split() for line in section[1:] if not line.startswith(" " * 10)}
    assert {output: row[1] for output, row in rows.items()} == {output: fact.reload for output, fact in wanted.items()}
    assert [size for size in section[0].split() if size.endswith(("_size", "_partition"))] == [g.size for g in next(iter(wanted.values())).gathers]
    assert all(f"dim {gather.dim}" in " ".join(rows[output]) for output, fact in wanted.items() for gather in fact.gathers if gather.how == "concat")
