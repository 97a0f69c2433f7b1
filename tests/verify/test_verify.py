"""The whole verification of the bundled specs, and what it is based on: the layer by hand, the tolerance, what cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import layoutdsl
from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled
from layoutdsl.syntax.document import NoValue
from layoutdsl.verify import sizes
from layoutdsl.verify.configurations import configured
from layoutdsl.verify.run import applied, rows_of
from layoutdsl.verify.tensors import checkpoint
from layoutdsl.verify.trace import Tracer, matmuls
from layoutdsl.verify.verify import verify

EXPECTED = ("the forward is the consumer's", "`value` is", "computed and, in some configurations, read by no kernel")
"""What a bundled spec may leave out: there are kernels for everything else."""


@pytest.mark.parametrize("name", bundled())
def test_bundled_specs_pass(name: str) -> None:
    spec = load_spec(name)
    # Its configurations take as long as those of all others together; its splits and sizes have tests of their own.
    quick = name == "w4a8_dynamic.moe"
    report = verify(spec, quick=quick)
    assert report.findings == []
    assert report.ran["vectors"] and report.ran["layers"] >= report.ran["configurations"]
    assert [why for why in report.not_run if not why.startswith(EXPECTED)] == []
    if not quick and not isinstance(spec.document.value, NoValue):
        assert report.ran["weights"] and report.ran["forwards"] and report.ran["splits"] > 4


# ---- the layer by hand --------------------------------------------------------------------------------------------------------------------------


def int4(packed: torch.Tensor) -> torch.Tensor:
    """[e, n // 2, k] bytes as [e, n, k]: the even row in the low nibble."""
    low, high = (packed << 4) >> 4, packed >> 4
    return torch.stack([low, high], dim=2).flatten(1, 2).double()


@pytest.mark.parametrize("group_size", [64, 256])
def test_experts_differ_from_a_loop_over_experts_by_the_output_cast_alone(group_size: int) -> None:
    """W4A8 by hand: per expert, gate and up, silu, down, from the checkpoint's bytes; scales that no cast on their way rounds."""
    config = {"consumer": "vllm-ascend-0.16", "version": "1.0.0", "group_size": group_size}
    layer = configured(load_spec("W4A8_DYNAMIC.moe"), config)
    experts, hidden, inner = 3, 2 * group_size, 3 * group_size
    own = {"num_experts": experts, "hidden_size": hidden, "intermediate_size_per_partition": inner}
    plan = layer.plan.bind(own)
    stored = checkpoint(layer, plan.bound, own, "short").tensors
    weights = {
        name: int4(stored[f"{name}_weight"])
        * stored[f"{name}_weight_scale"].double()
        * stored[f"{name}_weight_scale_second"].double().repeat_interleave(group_size, 2)
        for name in ("w13", "w2")
    }
    counts = [4, 0, 3]
    x = rows_of(sum(counts), weights["w13"].numpy(), torch.bfloat16)
    y, calls = Tracer(plan.bound)(applied(plan, stored), x, group_list=torch.tensor(counts))
    first, second = matmuls(calls)
    start, worst = 0, 0.0
    for expert, count in enumerate(counts):
        rows = slice(start, start + count)
        tokens, hq = torch.from_numpy(first.rows.values)[rows], torch.from_numpy(second.rows.values)[rows]
        gate, up = (tokens @ weights["w13"][expert].T).chunk(2, dim=1)
        h = torch.nn.functional.silu(gate) * up
        # What is quantized again is within half a step of the layer in float64, and of the two casts to bfloat16 before.
        step = torch.from_numpy(second.rows.step.copy())[rows]
        assert ((hq - h).abs() <= 0.501 * step + 2**-7 * (gate.abs() * up.abs() + h.abs() + up.abs()) * 1.2).all()
        wanted = hq @ weights["w2"][expert].T
        worst = max([worst, *((y[rows].double() - wanted).abs() / (2**-8 * wanted.abs() + 1e-12)).flatten().tolist()])
        start += count
    assert 0.9 < worst <= 1.001, "the error is half a step of bfloat16, and not less or more"


def test_tokens_are_quantized_rows_of_x() -> None:
    layer = configured(load_spec("W4A8_DYNAMIC.moe"), {"consumer": "vllm-ascend-main"})
    own = {"num_experts": 2, "hidden_size": 24, "intermediate_size_per_partition": 16}
    plan = layer.plan.bind(own)
    stored = checkpoint(layer, plan.bound, own)
    x = rows_of(4, stored.values["w13"].values, torch.float16)
    _, calls = Tracer(plan.bound)(applied(plan, stored.tensors), x, group_list=torch.tensor([1, 3]))
    rows = matmuls(calls)[0].rows
    assert (abs(rows.values - x.double().numpy()) <= rows.error(x.double().numpy()) * 1.001).all()
    assert rows.element == "int8"


# ---- other specs --------------------------------------------------------------------------------------------------------------------------------

W8A16 = """\
layoutdsl: 1
scheme: W8A16_EXAMPLE
layer: linear
title: int8 weights with an offset, and the layer's bias
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {n: output_size, k: input_size}
params:
  weight: int8[n, k]
  weight_scale: params_dtype[n]
  weight_offset:
    type: params_dtype[n]
    init: 0
value:
  W[n, k]: (weight[n, k] + weight_offset[n]) * weight_scale[n]
steps:
  - weight: transpose(k, n) | contiguous
forward:
  - return: npu_weight_quant_batchmatmul(x, weight, antiquant_scale=weight_scale, antiquant_offset=weight_offset,
      bias=float32(bias) if x.dtype == bfloat16 else bias)
"""
MXFP8 = """\
layoutdsl: 1
scheme: MXFP8_EXAMPLE
layer: linear
title: e4m3 weights with exponents per 32 inputs
holds: {consumer: [vllm-ascend-0.23], device: [a5]}
axes: {n: output_size, k: input_size}
params:
  weight:       e4m3[n, k]
  weight_scale: e8m0[n, k//32] in uint8[n, k//32]
value:
  W[n, k]: weight[n, k] * weight_scale[n, k//32]
steps:
  - weight: transpose(k, n) | contiguous
  - weight_scale: pad(k, 64, 0) | view [n, k//64, k//32%2] | transpose(k//64, n) | contiguous
forward:
  - xq, xs: npu_dynamic_mx_quant(x, dst_type=e4m3)
  - return: npu_quant_matmul(xq, weight, weight_scale, scale_dtype=e8m0, pertoken_scale=xs, pertoken_scale_dtype=e8m0,
      output_dtype=x.dtype, group_sizes=[1, 1, 32])
"""


def written(text: str, folder: Path) -> Path:
    name = text.partition("scheme: ")[2].partition("\n")[0].lower()
    path = folder / f"{name}.linear.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [W8A16, MXFP8], ids=["offset and bias", "block exponents"])
def test_other_schemes_pass(text: str, tmp_path: Path) -> None:
    report = verify(load_spec(written(text, tmp_path)))
    assert report.findings == []
    assert report.ran["forwards"] > 1
    assert "no vectors are shipped with this spec" in report.not_run


WRONG = [
    (W8A16, "(weight[n, k] + weight_offset[n]) *", "(weight[n, k] - weight_offset[n]) *", ("verify-weights", "weight")),
    (W8A16, ", antiquant_offset=weight_offset", "", ("verify-weights", "weight")),
    (W8A16, ",\n      bias=float32(bias) if x.dtype == bfloat16 else bias", "", None),
    (MXFP8, "weight[n, k] * weight_scale", "2 * weight[n, k] * weight_scale", ("verify-weights", "weight_scale")),
]


@pytest.mark.parametrize(("text", "old", "new", "found"), WRONG)
def test_mistakes_in_other_schemes(text: str, old: str, new: str, found: tuple[str, str] | None, tmp_path: Path) -> None:
    findings = verify(load_spec(written(text.replace(old, new), tmp_path)), quick=True).findings
    assert [(finding.code, finding.where) for finding in findings[:1]] == ([found] if found else [])


def test_a_finding_says_where_how_much_and_why() -> None:
    text = bundled()["w4a8_dynamic.linear"].read_text().replace("W[n, k]: weight[n, k]", "W[n, k]: 3 * weight[n, k]")
    with_path = Path(bundled()["w4a8_dynamic.linear"]).with_name("none.linear.yaml")
    from layoutdsl.diagnostics import Source
    from layoutdsl.syntax.reader import read_document

    report = verify(layoutdsl.Spec(read_document(Source(str(with_path), text))), {"version": "1.0.0"}, quick=True)
    (finding,) = [finding for finding in report.findings if finding.code == "verify-weights"]
    text = "\n".join([finding.message, *finding.notes])
    for words in (
        "`weight_scale_second`",
        "`W`",
        "worst at [",
        "found ",
        "expected ",
        "error ",
        "elements are wrong",
        "bfloat16",
        "2**-8",
        "packed",
        "input_size = ",
    ):
        assert words in text, words


def test_the_first_wrong_vector_is_enough(tmp_path: Path) -> None:
    text = bundled()["w8a16.linear"].read_text().replace("weight_offset: view [n]", "weight_offset[n]: -weight_offset[n]")
    report = verify(load_spec(written(text, tmp_path)))
    assert [finding.code for finding in report.findings] == ["verify-vectors", "verify-weights"]
    assert report.ran["vectors"] == 1
    assert "splits" not in report.ran


# ---- what cannot be run -------------------------------------------------------------------------------------------------------------------------


def test_a_spec_that_does_not_validate_is_not_run(tmp_path: Path) -> None:
    report = verify(load_spec(written(W8A16.replace("| contiguous", "| nz"), tmp_path)))
    assert [finding.code for finding in report.findings] == ["nz-not-contiguous"]
    assert report.ran == {}


ATTENTION = """\
layoutdsl: 1
scheme: ATTENTION_EXAMPLE
layer: attention
title: scales of a cache, by submodule
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {h: num_heads, d: free}
params:
  cache.k_scale: params_dtype[h, d]
  cache.k_rot: float32[d, h]
value: {none: no weight is stored}
steps:
  - cache.k_scale: view [(h, d)]
  - reciprocal[h, d]: 1 / float32(cache.k_scale[h, d])
forward: external
"""
VALUE = "value:\n  W[n, k]: (weight[n, k] + weight_offset[n]) * weight_scale[n]\n"
STATIC = bundled()["w8a8s.linear"].read_text().replace("scheme: W8A8S", "scheme: STATIC_EXAMPLE")
NOT_RUN = [
    (W8A16[: W8A16.index("forward:")] + "forward: external\n", "the forward is the consumer's"),
    (W8A16[: W8A16.index("forward:")] + "forward:\n  - return: some.kernel(x, weight)\n", "no reference kernel"),
    (ATTENTION, "the forward is the consumer's"),
    (ATTENTION, "compared there with vectors alone: reciprocal"),
    (ATTENTION.replace("value: {none: no weight is stored}", "value:\n  W[h, d]: cache.k_scale[h, d]"), "the forward is the consumer's"),
    (W8A16.replace(VALUE, "value: {none: it is not known}\n"), "`value` is none (it is not known): no kernel was run"),
    (W8A16.replace(VALUE, "value: opaque\n"), "`value` is opaque: no kernel was run"),
    (STATIC.replace("input_scale", "step_of_x"), "no parameter `input_scale` says what the rows are quantized with"),
    (W8A16.replace("layer: linear", "layer: other"), "what a layer of kind `other` computes is not known"),
]


@pytest.mark.parametrize(("text", "words"), NOT_RUN)
def test_what_was_not_run_is_said(text: str, words: str, tmp_path: Path) -> None:
    report = verify(load_spec(written(text, tmp_path)))
    assert report.findings == []
    assert any(words in why for why in report.not_run), report.not_run
    assert report.ran["layers"] > 0
    assert not {"weights", "forwards", "splits"} & report.ran.keys()


def test_movement_is_decoded_where_no_kernel_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that moves wrongly is found without a kernel."""
    spec = load_spec(written(W8A16[: W8A16.index("forward:")] + "forward: external\n", tmp_path))
    right = layoutdsl.Plan.apply

    def wrong(self: layoutdsl.Plan, module: torch.nn.Module) -> None:
        right(self, module)
        for parameter in module.parameters():
            parameter.data = parameter.data.flip(0)

    monkeypatch.setattr(layoutdsl.Plan, "apply", wrong)
    assert verify(spec).findings[0].where == "weight"


def test_a_kernel_that_refuses_is_a_finding(tmp_path: Path) -> None:
    """A group size that validate takes as a number and the kernel does not."""
    text = W8A16.replace("antiquant_offset=weight_offset", "antiquant_offset=weight_offset, inner_precise=7")
    report = verify(load_spec(written(text, tmp_path)), quick=True)
    assert report.findings
    assert report.findings[0].code in ("verify-forward", "contract-layout")


def test_sizes_are_found_for_every_purpose() -> None:
    plan = configured(load_spec("W4A8_DYNAMIC.linear"), {"group_size": 64}).plan.data
    assert set(sizes.chosen(plan)) >= {"distinct", "smallest"}
