"""One matmul per expert over rows sorted by expert; the weights in one tensor of all experts, or in a list of one per expert.

A8W4: y = (16 * C_hi + C_lo + bias) * per_token_scale with x = 16 * hi + lo + 8, so ``bias`` = 8 * sum_k weight * scale is required, and x is overwritten.
A16: y = x @ ((weight + antiquant_offset) * antiquant_scale) + bias.
Sources: torch_npu 2.13.0 schema and meta function; ops-transformer 3a280bcc aclnnGroupedMatmulV5 and WeightNz documents (combinations by device) and kernel
grouped_matmul_antiquant_a8w4_msd.h. op-plugin sends a FRACTAL_NZ weight to WeightNz.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from layoutdsl.kernels.base import LIST, Contract, LimitRow, Row

_V5 = "ops-transformer 3a280bcc, aclnnGroupedMatmulV5 document"
_WEIGHT_NZ = "ops-transformer 3a280bcc, aclnnGroupedMatmulWeightNz document"
_LISTS = "; one tensor per expert is what vllm-ascend 182b75ea84 passes with dynamic EPLB, the document speaks of one tensor: assumed"
_A2_A3, _A5, _ALL = ("a2", "a3"), ("a5",), ("a2", "a3", "a5")
# split_item 2, 3: one output for all experts. group_type 0: groups along the rows. group_list_type: rows cumulated, or counted.
_GROUPS: Mapping[str, tuple[Any, ...]] = {"split_item": (2, 3), "group_type": (0,), "group_list_type": (0, 1)}
_SCALE_BITS = "float32[{0}] in zext int64[{0}]"
_PACKED = {"scale bits": _SCALE_BITS, "packed scale": "opaque[{0}] in int64[{0}]"}


def _row(name: str, x: str, weight: str, *, more: Mapping[str, str], result: str, constants: Mapping[str, Any], **fields: Any) -> Row:
    """more: the other arguments."""
    return Row(
        name=name,
        arguments={"weight": weight, "x": x, **more, "group_list": "int64[e]"},
        required=(*fields.pop("required", ()), "group_list"),
        constants={**_GROUPS, **constants},
        results=(result,),
        scales={"per_token_scale": "x"} if "per_token_scale" in more else {},
        sums="k",
        addends=("bias",) if "bias" in more else (),
        **fields,
    )


# ---- int8 with int4 ------------------------------------------------------------------------------------------------------------------------------------

_A8W4_K = (LimitRow(slug="a8w4-k", test="K <= 18432"),)
_WEIGHTS = {"ND": "int4[e, k, n] in int32[e, k, n//8 | n%8]", "FRACTAL_NZ": "int4[e, k, n] in int32[e, k, n//8 | n%8] over nz[e, k, n//8]"}
_ELEMENTS = {"ND": "int4[k, n] in int32[k, n//8 | n%8]", "FRACTAL_NZ": "int4[k, n] in int32[k, n//8 | n%8] over nz[k, n//8]"}
_A8W4_SCALES = {"per channel": ("0", _A8W4_K), "per group": ("k//g", (*_A8W4_K, LimitRow(slug="a8w4-group-size", test="g == 256")))}


def _a8w4() -> Iterator[Row]:
    for grouping, (rows, limits) in _A8W4_SCALES.items():
        for format in ("ND", "FRACTAL_NZ"):
            common: dict[str, Any] = {
                "source": f"{_V5}, A8W4 rows",
                "devices": _A2_A3,
                "constants": {"group_list_type": (1,), "output_dtype": ("bfloat16", "float16")},
                "result": "output_dtype[m, n]",
                "required": ("scale", "bias", "per_token_scale"),
                "integers": {"g": ""},
                "mutates": ("x",),
                "limits": limits,
            }
            name, tokens = f"A8W4 {grouping}, {format}", {"per_token_scale": "float32[m]"}
            more = {"scale": _SCALE_BITS.format(f"e, {rows}, n"), "bias": "float32[e, n]", **tokens}
            yield _row(name, "int8[m, k]", _WEIGHTS[format], more=more, **common)
            more = {"scale": LIST + _SCALE_BITS.format(f"{rows}, n"), "bias": LIST + "float32[n]", **tokens}
            yield _row(f"{name}, one tensor per expert", "int8[m, k]", LIST + _ELEMENTS[format], more=more, **common)


# ---- int8 with int8 ------------------------------------------------------------------------------------------------------------------------------------

_INT8 = {
    "ND": "int8[e, k, n]",
    "ND, transposed view": "int8[e, k, n] over [e, n, k]",
    "FRACTAL_NZ": "int8[e, k, n] over nz[e, k, n]",
    "FRACTAL_NZ, transposed view": "int8[e, k, n] over nz[e, n, k]",
}
_A8W8_OUTPUTS: Mapping[str, Mapping[tuple[str, ...], tuple[str, ...]]] = {
    "bfloat16": {_A2_A3: ("bfloat16",), _A5: ("float32", "bfloat16")},
    "float16": {_ALL: ("float32",)},
}
"""The dtypes of ``scale`` for an output."""


def _a8w8() -> Iterator[Row]:
    for form, weight in _INT8.items():
        source = _WEIGHT_NZ if "nz" in weight else _V5
        for output, allowed in _A8W8_OUTPUTS.items():
            for devices, scales in allowed.items():
                yield _row(
                    f"A8W8 to {output}, {form}, {devices[-1]}",
                    "int8[m, k]",
                    weight,
                    source=source,
                    devices=devices,
                    more={"scale": "S[e, n]", "bias": "int32[e, n]", "per_token_scale": "float32[m]"},
                    required=("scale",),
                    dtypes={"S": scales},
                    constants={"output_dtype": (output,)},
                    result=f"{output}[m, n]",
                )
        yield _row(
            f"A8W8 to int32, {form}",
            "int8[m, k]",
            weight,
            source=source,
            devices=_ALL,
            more={"bias": "int32[e, n]"},
            constants={"output_dtype": ("int32",)},
            result="int32[m, n]",
        )
        if "nz" not in weight:
            # The packed scale has the bit that makes the result signed.
            yield _row(
                f"A8W8 to int8, {form}",
                "int8[m, k]",
                weight,
                source=_V5 + "; the meta function takes no int8 as output_dtype",
                devices=_A2_A3,
                more={"scale": _PACKED["packed scale"].format("e, n"), "bias": "int32[e, n]"},
                required=("scale",),
                constants={"output_dtype": (None,)},
                result="int8[m, n]",
            )
    for output, scales in (("bfloat16", ("bfloat16",)), ("float16", ("float32",))):
        yield _row(
            f"A8W8 to {output}, FRACTAL_NZ, one tensor per expert",
            "int8[m, k]",
            LIST + "int8[k, n] over nz[k, n]",
            source=_WEIGHT_NZ + _LISTS,
            devices=_A2_A3,
            more={"scale": LIST + "S[n]", "per_token_scale": "float32[m]"},
            required=("scale",),
            dtypes={"S": scales},
            constants={"output_dtype": (output,)},
            result=f"{output}[m, n]",
        )


# ---- int4 with int4 ------------------------------------------------------------------------------------------------------------------------------------


def _a4w4() -> Iterator[Row]:
    for format, weight in _WEIGHTS.items():
        for grouping, dims in (("per channel", "e, n"), ("per group", "e, k//g, n")):
            for kind, scale in _PACKED.items():
                yield _row(
                    f"A4W4 {grouping}, {format}, {kind}",
                    "int4[m, k] in int32[m, k//8 | k%8]",
                    weight,
                    source=_V5 + ", A4W4 rows",
                    devices=_A2_A3,
                    more={"scale": scale.format(dims), "per_token_scale": "float32[m]"},
                    required=("scale",),
                    integers={"g": ""},
                    constants={"output_dtype": ("bfloat16", "float16")},
                    result="output_dtype[m, n]",
                )


# ---- 16 bit with int8, int4, e2m1 ------------------------------------------------------------------------------------------------------------------------

_BIASES = {"float16": "float16", "bfloat16": "float32"}


def _a16() -> Iterator[Row]:
    """A group's offsets are documented per channel only, and vllm-ascend passes zeros per group."""
    groups = _V5 + ", A16W4 rows; offsets per group: vllm-ascend 182b75ea84, W4A16, where they are zero"
    for dtype, bias in _BIASES.items():
        common: dict[str, Any] = {
            "integers": {"g": ""},
            "dtypes": {"T": (dtype,)},
            "constants": {"output_dtype": (None, dtype)},
            "result": "T[m, n]",
            "required": ("antiquant_scale",),
        }
        for name, element, dims, source in (
            ("A16W8 per channel", "int8", "n", _V5 + ", A16W8 rows"),
            ("A16W4 per channel", "int4", "n", _V5 + ", A16W4 rows"),
            ("A16W4 per group", "int4", "k//g, n", groups),
        ):
            stacked, single = (_WEIGHTS["ND"], _ELEMENTS["ND"]) if element == "int4" else ("int8[e, k, n]", "int8[k, n]")
            more = {"antiquant_scale": f"T[e, {dims}]", "antiquant_offset": f"T[e, {dims}]", "bias": f"{bias}[e, n]"}
            yield _row(f"{name}, {dtype}", "T[m, k]", stacked, source=source, devices=_A2_A3, more=more, **common)
            more = {"antiquant_scale": f"{LIST}T[{dims}]", "antiquant_offset": f"{LIST}T[{dims}]", "bias": f"{LIST}{bias}[n]"}
            yield _row(f"{name}, {dtype}, one tensor per expert", "T[m, k]", LIST + single, source=source, devices=_A2_A3, more=more, **common)
        yield _row(
            f"A16 with mx e2m1, FRACTAL_NZ, {dtype}",
            "T[m, k]",
            "e2m1[e, k, n] in float32[e, k, n//8 | n%8] over nz(8)[e, k, n//8]",
            source=_WEIGHT_NZ,
            devices=_A5,
            more={"antiquant_scale": "e8m0[e, k//32, n] in uint8[e, k//32, n]"},
            limits=(LimitRow(slug="kernel-alignment", test="K % 32 == 0 and N % 32 == 0"),),
            **common,
        )


# ---- Ascend 950 ------------------------------------------------------------------------------------------------------------------------------------------

_E4M3 = {"contiguous": "e4m3[e, k, n]", "transposed view": "e4m3[e, k, n] over [e, n, k]"}
_E4M3_NZ = {"FRACTAL_NZ": "e4m3[e, k, n] over nz[e, k, n]", "FRACTAL_NZ, transposed view": "e4m3[e, k, n] over nz[e, n, k]"}
_E2M1_VIEW = "e2m1[e, k, n] in uint8[e, k//2, n | k%2] over [e, n, k//2]"
_E2M1_NZ = "e2m1[e, k, n] in uint8[e, k//2, n | k%2] over nz(16)[e, n, k//2]"
_ROW_EXPONENTS = "e8m0[m, k//32] in uint8[m, k//64, k//32%2] pad k to 64"
_EXPONENTS = "e8m0[e, k//32, n] in uint8[e, k//64, n, k//32%2]{} pad k to 64"
_EXPONENTS_VIEW = _EXPONENTS.format(" over [e, n, k//64, k//32%2]")
_OUTPUTS = {"output_dtype": ("bfloat16", "float16", "float32")}
_MX_DTYPES = {"scale_dtype": ("e8m0",), "per_token_scale_dtype": ("e8m0",)}


def _a5() -> Iterator[Row]:
    """Exponents of a weight lie as the weight does: the kernel reads the transposition of both from the strides of the weight."""
    a5: dict[str, Any] = {"devices": _A5, "result": "output_dtype[m, n]"}
    for form, weight in _E4M3.items():
        more = {"scale": "float32[e, n]", "per_token_scale": "float32[m]"}
        yield _row(f"e4m3, {form}", "e4m3[m, k]", weight, source=_V5, more=more, required=("scale", "per_token_scale"), constants=_OUTPUTS, **a5)
    for form, weight in {**_E4M3, **_E4M3_NZ}.items():
        more = {"scale": _EXPONENTS_VIEW if "transposed" in form else _EXPONENTS.format(""), "per_token_scale": _ROW_EXPONENTS}
        source, constants = _WEIGHT_NZ if "nz" in weight else _V5, {**_OUTPUTS, **_MX_DTYPES}
        yield _row(f"mx e4m3, {form}", "e4m3[m, k]", weight, source=source, more=more, required=("scale", "per_token_scale"), constants=constants, **a5)
    yield _row(
        "mx e2m1, transposed view",
        "e2m1[m, k] in uint8[m, k//2 | k%2]",
        _E2M1_VIEW,
        source=_V5,
        more={"scale": _EXPONENTS_VIEW, "per_token_scale": _ROW_EXPONENTS},
        required=("scale", "per_token_scale"),
        constants={**_OUTPUTS, **_MX_DTYPES, "x_dtype": ("e2m1",), "weight_dtype": ("e2m1",)},
        **a5,
    )
    for name, exponents in (("", _ROW_EXPONENTS), (", exponents of their own dtype", _ROW_EXPONENTS.replace("uint8", "float8_e8m0fnu"))):
        yield _row(
            f"mx e4m3 with e2m1, FRACTAL_NZ, transposed view{name}",
            "e4m3[m, k]",
            _E2M1_NZ,
            source=_WEIGHT_NZ + "; vllm-ascend 182b75ea84 for the dtype arguments",
            more={"antiquant_scale": _EXPONENTS_VIEW, "per_token_scale": exponents},
            required=("antiquant_scale", "per_token_scale"),
            constants={"output_dtype": ("bfloat16", "float16"), "per_token_scale_dtype": ("e8m0",), "weight_dtype": ("e2m1",)},
            limits=(LimitRow(slug="kernel-alignment", test="K % 32 == 0 and N % 32 == 0"),),
            **a5,
        )


CONTRACT = Contract(op="npu::npu_grouped_matmul", rows=(*_a8w4(), *_a8w8(), *_a4w4(), *_a16(), *_a5()))
