"""Mistakes in every family of bundled specs, and the check that finds each. The scheme has another name then, so that no vectors are shipped with it: what is
found is found by a rule of ``validate``, or by numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.verify.verify import verify

SEED, RELEASE, MAIN = "vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"
A2 = {"device": "a2"}
STATIC = {**A2, "quant_method": "ascend", "params_dtype": "bfloat16", "layer_type": "row", "weight_nz_mode": 0}
COMPRESSED = {**A2, "quant_method": "compressed-tensors", "weight_nz_mode": 0}
P310 = {"device": "310p"}


@dataclass(frozen=True)
class Mutation:
    """``old`` of a bundled spec becomes ``new``. given: the config under which it is run. found: the first finding, as the rule and what it is about."""

    spec: str
    name: str
    old: str
    new: str
    found: tuple[str, str]
    given: Mapping[str, Any] = field(default_factory=dict)


def exchanged(name: str, dims: str, after: str = "") -> str:
    """A step in which gate and up change places."""
    return f"steps:\n  - {name}[e, n, {dims}]: {name}[e, n = n%(N//2) + N//2 * (1 - n//(N//2)), {dims}]\n{after}"


QUANT_BIAS = 'bias=none if layer_type == "row" and tp_rank != 0 else quant_bias'
CALL = f"npu_quant_matmul(xq, weight, deq_scale, {QUANT_BIAS}, output_dtype=params_dtype)"
RECIPROCAL = "aclnn_input_scale_reciprocal[k]: 1 / input_scale[0]"
OFFSET = "aclnn_input_offset[k]: params_dtype(input_offset[0])"
LEFT = "left_trans: transpose(q, k) | contiguous"
KRONECKER = "cast(x.dtype, left_trans), cast(x.dtype, right_trans)"
MX_VALUE = "weight[n, k] * weight_scale[n, k//32]"
EXPONENT = "bits(int32, weight_scale[n//128, k//128]) >> 23 & 255"
LAST = "n = N - 1 - n"

MUTATIONS = (
    # ---- static activations
    Mutation("w8a8.linear", "offset of the other sign", OFFSET, OFFSET.replace(": params", ": -params"), ("verify-forward", "x"), STATIC),
    Mutation("w8a8.linear", "no offset", OFFSET, OFFSET.replace(")", " * int8(0))"), ("verify-forward", "x"), STATIC),
    Mutation("w8a8.linear", "scale in the place of its reciprocal", RECIPROCAL, RECIPROCAL.replace("1 / ", ""), ("contract-layout", "scales"), STATIC),
    Mutation("w8a8.linear", "twice the reciprocal", RECIPROCAL, RECIPROCAL.replace("1", "2"), ("verify-forward", "x"), STATIC),
    Mutation("w8a8.linear", "value without 1 / input_scale", " * deq_scale[n] / input_scale[0]", " * deq_scale[n]", ("verify-weights", "deq_scale"), STATIC),
    Mutation(
        "w8a8.linear", "value with the scale twice", "deq_scale[n] / input_scale[0]", "deq_scale[n] * input_scale[0]", ("verify-weights", "deq_scale"), STATIC
    ),
    Mutation("w8a8.linear", "bias without its scale", "deq_scale[n] * (quant_bias[n]", "(quant_bias[n]", ("verify-weights", "quant_bias"), STATIC),
    Mutation("w8a8.linear", "zero point taken away", "] + input_offset[0]", "] - input_offset[0]", ("verify-weights", "quant_bias"), STATIC),
    Mutation("w8a8.linear", "bias never added", f"{QUANT_BIAS}, ", "", ("verify-weights", "weight"), STATIC),
    Mutation("w8a8.linear", "M67 bias on every rank", QUANT_BIAS, "bias=quant_bias", ("replicated-addend", "quant_bias"), STATIC),
    Mutation("w8a8.linear", "M41 no input_scale", "deq_scale[n]: input_scale[0] * weight", "deq_scale[n]: weight", ("verify-weights", "deq_scale"), COMPRESSED),
    Mutation("w8a8.linear", "input_scale twice", "deq_scale[n]: input", "deq_scale[n]: input_scale[0] * input", ("verify-weights", "deq_scale"), COMPRESSED),
    Mutation(
        "w8a8.linear",
        "int8 rows twice",
        f"  - return: {CALL}",
        f"  - y: {CALL}\n    when: modelslim\n  - return: y + y if x.dtype == int8 else y",
        ("verify-forward", "weight"),
        STATIC,
    ),
    Mutation("w8a8s.linear", "bias of offsets alone", "quant_bias[n] + input_offset", "input_offset", ("verify-weights", "quant_bias")),
    # ---- 16-bit activations
    Mutation(
        "w8a16.linear",
        "offset behind the scale",
        "(weight[n, k] + weight_offset[n]) * weight_scale[n]",
        "weight[n, k] * weight_scale[n] + weight_offset[n]",
        ("verify-weights", "weight"),
    ),
    Mutation("w8a16.linear", "offset of the other sign", "(weight[n, k] + ", "(weight[n, k] - ", ("verify-weights", "weight")),
    Mutation(
        "w4a16.moe",
        "scale of the first group",
        "<p>_weight_scale[e, n, k//group_size]\n",
        "<p>_weight_scale[e, n, k//group_size = 0]\n",
        ("verify-weights", "w13_weight_scale"),
    ),
    Mutation("w4a16.moe", "M29 gate and up", "steps:\n", exchanged("w13_weight_scale", "k//group_size"), ("verify-weights", "w13_weight_scale")),
    Mutation("w4a16_mxfp4.moe", "value doubled", "<p>_weight[e, n, k] * ", "2 * <p>_weight[e, n, k] * ", ("verify-weights", "w13_weight_scale")),
    # ---- dynamic int8 and e4m3
    Mutation(
        "w8a8_dynamic.linear",
        "scale of another channel",
        "W[n, k]: weight[n, k] * weight_scale[n]",
        f"W[n, k]: weight[n, k] * weight_scale[{LAST}]",
        ("verify-weights", "weight_scale"),
        A2,
    ),
    Mutation(
        "w8a8_dynamic.moe",
        "M29 gate and up",
        "  - <p>_weight_scale: view [e, n]\n",
        "  - <p>_weight_scale: view [e, n]\n  - w13_weight_scale[e, n]: w13_weight_scale[e, n = n%(N//2) + N//2 * (1 - n//(N//2))]\n",
        ("verify-weights", "w13_weight_scale_fp32"),
        A2,
    ),
    Mutation("w8a8_dynamic.moe", "tokens' scale with the second product", "per_token_scale=[hs]", "per_token_scale=[xs]", ("scale-of-another", ""), A2),
    Mutation("w8a8_dynamic.moe", "value doubled", "<p>_weight[e, n, k] * ", "2 * <p>_weight[e, n, k] * ", ("verify-weights", "w13_weight_scale"), P310),
    Mutation("w8a8_dynamic.moe", "no swiglu's second half", "npu_swiglu(h), w2", "npu_swiglu(h) + npu_swiglu(h), w2", ("verify-forward", "w13_weight"), P310),
    Mutation(
        "w8a8fp8_dynamic.linear",
        "scale squared",
        "  - weight_scale: view [n]\n",
        "  - weight_scale[n]: weight_scale[n] * weight_scale[n]\n",
        ("verify-weights", "weight_scale"),
    ),
    Mutation("w8a8fp8_dynamic.linear", "bias twice", "y + cast(x.dtype, bias)", "y + cast(x.dtype, bias) + cast(x.dtype, bias)", ("verify-forward", "weight")),
    Mutation(
        "w8a8fp8_dynamic.moe",
        "scale of the first expert",
        "<p>_weight_scale[e, n]\n",
        "<p>_weight_scale[e = 0, n]\n",
        ("verify-weights", "w13_weight_scale_fp32"),
    ),
    # ---- block exponents
    Mutation("w8a8_mxfp8.linear", "exponents of another channel", MX_VALUE, f"weight[n, k] * weight_scale[{LAST}, k//32]", ("verify-weights", "weight_scale")),
    Mutation("w8a8_mxfp8.linear", "exponents of the first block", MX_VALUE, "weight[n, k] * weight_scale[n, k//32 = 0]", ("verify-weights", "weight_scale")),
    Mutation(
        "w8a8_mxfp8.linear",
        "M43 exponents as numbers",
        "  - weight_scale: pad",
        "  - weight_scale: bitcast(int8) | bitcast(uint8) | cast(uint8) | pad",
        ("cast-of-bits", ""),
    ),
    Mutation("w8a8_mxfp8.moe", "value negated", "<p>_weight[e, n, k] * ", "-<p>_weight[e, n, k] * ", ("verify-weights", "w13_weight_scale")),
    Mutation("w4a4_mxfp4.linear", "a row earlier", MX_VALUE, f"weight[{LAST}, k] * weight_scale[n, k//32]", ("verify-weights", "weight")),
    Mutation("w4a4_mxfp4.moe", "half of the value", "<p>_weight[e, n, k] * ", "<p>_weight[e, n, k] / 2 * ", ("verify-weights", "w13_weight_scale")),
    Mutation("w4a8_mxfp.linear", "x_scale twice", "y if given(x_scale) else", "y + y if given(x_scale) else", ("verify-forward", "weight")),
    Mutation("w4a8_mxfp.linear", "no bias", "      bias=(b | view [0, n]), output", "      output", ("verify-weights", "weight")),
    Mutation("w4a8_mxfp.moe", "h twice", "npu_swiglu_group_quant(h,", "npu_swiglu_group_quant(h + h,", ("verify-forward", "w13_weight")),
    Mutation("fp8.ds_linear", "exponent shifted by 22", EXPONENT, EXPONENT.replace("23", "22"), ("verify-weights", "weight_scale"), {"prefix": ""}),
    Mutation("fp8.ds_linear", "exponent without its top bit", EXPONENT, EXPONENT.replace("255", "127"), ("verify-weights", "weight_scale"), {"prefix": ""}),
    # ---- int4 activations, rotated
    Mutation("w4a4_dynamic.linear", "value shifted", "weight[n, k] * weight_scale[n]", "(weight[n, k] + 1) * weight_scale[n]", ("verify-weights", "weight")),
    Mutation(
        "w4a4_dynamic.linear",
        "scale of another channel",
        "weight[n, k] * weight_scale[n]",
        f"weight[n, k] * weight_scale[{LAST}]",
        ("verify-weights", "weight_scale"),
    ),
    Mutation("w4a4_flatquant_dynamic.linear", "left not transposed", LEFT, "left_trans: contiguous", ("contract-layout", "kronecker_p2")),
    Mutation(
        "w4a4_flatquant_dynamic.linear",
        "left as it was, under its new type",
        LEFT,
        "left_trans[q//R, k//R]: left_trans[k//R = q//R, q//R = k//R]",
        ("verify-forward", "x"),
    ),
    Mutation(
        "w4a4_flatquant_dynamic.linear",
        "left and right",
        KRONECKER,
        "cast(x.dtype, right_trans), cast(x.dtype, left_trans)",
        ("contract-layout", "kronecker_p1"),
    ),
    Mutation(
        "w4a4_flatquant_dynamic.linear",
        "value with the right one turned",
        "right_trans[k%R, q%R]",
        "right_trans[k%R = q%R, q%R = k%R]",
        ("verify-forward", "x"),
    ),
    Mutation(
        "w4a4_flatquant_dynamic.linear",
        "value with a scale twice",
        "weight_scale[n] * left",
        "weight_scale[n] * weight_scale[n] * left",
        ("verify-weights", "weight_scale"),
    ),
    Mutation(
        "w4a4_mxfp4_flatquant.linear",
        "left as it was, under its new type",
        "left_trans[u = first + k//R, v = first + q//R]\n",
        "left_trans[u = first + q//R, v = first + k//R]\n",
        ("verify-forward", "x"),
    ),
    Mutation(
        "w4a4_mxfp4_flatquant.linear",
        "the block of another rank",
        "  - left_trans[q//R, k//R]: left_trans[u = first + k//R, v = first + q//R]",
        "  - left_trans[q//R, k//R]: left_trans[u = k//R, v = q//R]",
        ("verify-forward", "x"),
        {"layer_type": "row", "max_supported_tp": 4, "tp_size": 2, "tp_rank": 1},
    ),
)


def mutated(mutation: Mutation, folder: Path) -> Path:
    text = bundled()[mutation.spec].read_text()
    assert mutation.old in text, mutation.old
    text = text.replace(mutation.old, mutation.new)
    scheme = text.partition("scheme: ")[2].partition("\n")[0]
    path = folder / f"mutated.{mutation.spec.rpartition('.')[2]}.yaml"
    path.write_text(text.replace(f"scheme: {scheme}\n", "scheme: MUTATED\n", 1))
    return path


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.spec}: {m.name}")
def test_a_mistake_is_found(mutation: Mutation, tmp_path: Path) -> None:
    try:
        found = verify(load_spec(mutated(mutation, tmp_path)), mutation.given, quick=True).findings
    except DiagnosticError as error:
        found = list(error.diagnostics)
    assert [(finding.code, finding.where) for finding in found[:1]] == [mutation.found]
