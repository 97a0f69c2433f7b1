"""y = x1 @ x2 of quantized operands, times their scales.

Sources: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93 aclnnQuantMatmulV4, V5 and WeightNz documents (combinations by device); op-plugin 517f2e7d
QuantMatmulKernelNpuOpApi.cpp (FRACTAL_NZ goes to WeightNz, int4 to V5; transposition is read from the strides). The meta function takes one-dim scales only,
and wants the dtypes of mx scales by argument.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from layoutdsl.kernels.base import Contract, LimitRow, Row

_V5 = "ops-nn e5c3fa93, aclnnQuantMatmulV5 document"
_WEIGHT_NZ = "ops-nn e5c3fa93, aclnnQuantMatmulWeightNz document"
_A2_A3, _A5, _ALL, _WITH_310P = ("a2", "a3"), ("a5",), ("a2", "a3", "a5"), ("a2", "a3", "a5", "310p")
_LAST_DIMS = {False: LimitRow(slug="kernel-size", test="K <= 65535 and N <= 65535"), True: LimitRow(slug="kernel-size", test="K <= 65535")}
"""Neither the last dim of x1 nor that of x2 may be longer; by whether x2 is a transposed view."""
_NOT_ONE = LimitRow(slug="kernel-size", test="K > 1 and N > 1")

# What a column is scaled with: a float, or the bits of one in an int64 (npu_trans_quant_param makes an opaque one). One scale per column, or one for all.
_COLUMNS = {"": "n", ", one scale": "0"}
_PACKED = {"scale bits": "float32[{0}] in zext int64[{0}]", "packed scale": "opaque[{0}] in int64[{0}]"}
_STATIC = {**_PACKED, "float32 scale": "float32[{0}]"}
"""Without ``pertoken_scale`` op-plugin packs a float32 scale itself."""
_FLOATS = {"S": ("float32", "bfloat16")}
_INT32_BIAS = {"bias": "int32[n]"}

_INT8 = {
    "ND": ("int8[k, n]", False, _ALL, _V5),
    "ND, transposed view": ("int8[k, n] over [n, k]", True, _ALL, _V5),
    "FRACTAL_NZ": ("int8[k, n] over nz[k, n]", False, _ALL, _WEIGHT_NZ),
    "FRACTAL_NZ, transposed view": ("int8[k, n] over nz[n, k]", True, _WITH_310P, _WEIGHT_NZ),
}


def _row(
    name: str, x1: str, x2: str, scale: str, outputs: tuple[str | None, ...], *, pertoken: str = "", more: Mapping[str, str] | None = None, **fields: Any
) -> Row:
    """outputs: what ``output_dtype`` may be. pertoken: the type of ``pertoken_scale``. more: the other arguments."""
    others = {} if more is None else more
    scales = {"scale": scale, **({"pertoken_scale": pertoken} if pertoken else {})}
    result = "output_dtype" if len(outputs) > 1 and None not in outputs else outputs[-1]
    return Row(
        name=name,
        arguments={"x2": x2, "x1": x1, **scales, **others},
        constants={"output_dtype": outputs, **fields.pop("constants", {})},
        results=(f"{result}[m, n]",),
        scales={"pertoken_scale": "x1"} if pertoken else {},
        sums="k",
        addends=tuple(argument for argument in ("bias", "offset") if argument in others),
        **fields,
    )


def _int8() -> Iterator[Row]:
    """Static: one scale of x1 for all rows, multiplied into ``scale``; dynamic: one per row."""
    for form, (x2, transposed, devices, source) in _INT8.items():
        limits = (_LAST_DIMS[transposed], *((_NOT_ONE,) if "nz" in x2 else ()))
        common: dict[str, Any] = {"source": source, "limits": limits}
        for per, dims in _COLUMNS.items():
            yield from _static(f"int8, {form}{per}", x2, dims, devices, common)
            yield from _scaled(f"int8, {form}{per}", x2, dims, tuple(device for device in devices if device != "310p"), common)
        if "310p" in devices:
            name = f"int8, {form}, dynamic to float16, 310p"
            dynamic: dict[str, Any] = {"pertoken": "float32[m]", "required": ("pertoken_scale",), "more": _INT32_BIAS}
            yield _row(name, "int8[m, k]", x2, "float32[n]", ("float16",), devices=("310p",), **dynamic, **common)


def _static(name: str, x2: str, dims: str, devices: tuple[str, ...], common: Mapping[str, Any]) -> Iterator[Row]:
    """To int8: the packed scale has a bit that makes the result signed, and the offset; bits of a float32 do not."""
    for kind, text in _STATIC.items():
        scale = text.format(dims)
        yield _row(f"{name}, {kind}, static to float16", "int8[m, k]", x2, scale, ("float16",), more=_INT32_BIAS, devices=devices, **common)
        if kind != "scale bits":
            more = {**_INT32_BIAS, **({"offset": f"float32[{dims}]"} if kind == "float32 scale" else {})}
            yield _row(f"{name}, {kind}, to int8", "int8[m, k]", x2, scale, (None, "int8"), more=more, devices=devices, **common)


def _scaled(name: str, x2: str, dims: str, devices: tuple[str, ...], common: Mapping[str, Any]) -> Iterator[Row]:
    """With a float scale that is multiplied as it is."""
    bfloat16: dict[str, Any] = {"dtypes": {**_FLOATS, "B": ("int32", "bfloat16", "float32")}, "more": {"bias": "B[n]"}}
    yield _row(f"{name}, to bfloat16", "int8[m, k]", x2, f"S[{dims}]", ("bfloat16",), pertoken="float32[m]", devices=devices, **bfloat16, **common)
    float16: dict[str, Any] = {"dtypes": {"B": ("int32", "float16", "float32")}, "more": {"bias": "B[n]"}, "required": ("pertoken_scale",)}
    yield _row(f"{name}, dynamic to float16", "int8[m, k]", x2, f"float32[{dims}]", ("float16",), pertoken="float32[m]", devices=devices, **float16, **common)
    yield _row(f"{name}, to int32", "int8[m, k]", x2, f"S[{dims}]", ("int32",), more=_INT32_BIAS, devices=devices, dtypes=_FLOATS, **common)


def _int8_blocks() -> Row:
    return _row(
        "int8 in tiles of 128 by 128",
        "int8[m, k]",
        "int8[k, n] over [n, k]",
        "float32[k//128, n//128] over [n//128, k//128]",
        ("bfloat16",),
        pertoken="float32[m, k//128]",
        more={"bias": "float32[n]"},
        required=("pertoken_scale",),
        devices=_ALL,
        source=_V5 + ", G-B",
        constants={"group_sizes": ((1, 128, 128),)},
        limits=(LimitRow(slug="kernel-alignment", test="K % 512 == 0 and N % 256 == 0"),),
    )


# ---- int4 ------------------------------------------------------------------------------------------------------------------------------------------------

_X_INT4 = "int4[m, k] in int32[m, k//8 | k%8]"
_INT4 = {"ND": "int4[k, n] in int32[k, n//8 | n%8]", "ND, transposed view": "int4[k, n] in int32[k//8, n | k%8] over [n, k//8]"}
_INT4_NZ = "int4[k, n] in int32[k, n//8 | n%8] over nz[k, n//8]"
_INT4_DYNAMIC = {"bfloat16": _FLOATS["S"], "float16": ("float32",)}
"""By output, what the scale may be. The bias may be a float too by the document; nobody passes one, so it is not checked here."""


def _int4() -> Iterator[Row]:
    """Both operands int4; FRACTAL_NZ is not passed on by op-plugin."""
    for form, x2 in _INT4.items():
        common: dict[str, Any] = {"devices": _A2_A3, "source": _V5, "limits": (_LAST_DIMS["over" in x2],)}
        for per, dims in _COLUMNS.items():
            for kind, scale in _STATIC.items():
                yield _row(f"int4, {form}{per}, {kind}, static to float16", _X_INT4, x2, scale.format(dims), ("float16",), more=_INT32_BIAS, **common)
            for output, scales in _INT4_DYNAMIC.items():
                tokens: dict[str, Any] = {"pertoken": "float32[m]", "required": ("pertoken_scale",), "more": _INT32_BIAS}
                name, dtypes = f"int4, {form}{per}, dynamic to {output}", {"S": scales}
                yield _row(name, _X_INT4, x2, f"S[{dims}]", (output,), dtypes=dtypes, **tokens, **common)


def _int8_int4() -> Iterator[Row]:
    """x1 = 16 * hi + lo + 8, so ``offset`` = 8 * sum_k x2 * scale is required."""
    for form, x2 in {"ND": _INT4["ND"], "FRACTAL_NZ": _INT4_NZ}.items():
        yield _row(
            f"int8 with int4 per group of 256, {form}",
            "int8[m, k]",
            x2,
            "float32[k//256, n] in zext int64[k//256, n]",
            ("float16", "bfloat16"),
            pertoken="float32[m, 0]",
            more={"offset": "float32[n]"},
            required=("pertoken_scale", "offset"),
            devices=_A2_A3,
            source=(_V5 if form == "ND" else _WEIGHT_NZ) + ", K-G",
            constants={"group_sizes": (None, (0, 0, 256))},
            limits=(LimitRow(slug="kernel-alignment", test="K % 256 == 0"), LimitRow(slug="kernel-size", test="K < 29576")),
        )


# ---- Ascend 950 ----------------------------------------------------------------------------------------------------------------------------------------

_E4M3 = {"contiguous": "e4m3[k, n]", "transposed view": "e4m3[k, n] over [n, k]"}
_E4M3_NZ = {"FRACTAL_NZ": "e4m3[k, n] over nz[k, n]", "FRACTAL_NZ, transposed view": "e4m3[k, n] over nz[n, k]"}
_E2M1_VIEW = "e2m1[k, n] in uint8[k//2, n | k%2] over [n, k//2]"
_E2M1_NZ = "e2m1[k, n] in uint8[k//2, n | k%2] over nz(16)[n, k//2]"
_OUTPUTS = ("bfloat16", "float16", "float32")
# Exponents per 32 of k come in pairs; where the number of pairs is odd, the last byte means nothing.
_ROW_EXPONENTS = "e8m0[m, k//32] in uint8[m, k//64, k//32%2] pad k to 64"
_EXPONENTS = "e8m0[k//32, n] in uint8[k//64, n, k//32%2]{} pad k to 64"
_EXPONENTS_VIEW = _EXPONENTS.format(" over [n, k//64, k//32%2]")
_MX_DTYPES = {"scale_dtype": ("e8m0",), "pertoken_scale_dtype": ("e8m0",)}


def _e4m3() -> Iterator[Row]:
    for form, x2 in _E4M3.items():
        common: dict[str, Any] = {"devices": _A5, "source": _V5, "limits": (_LAST_DIMS["over" in x2],), "more": {"bias": "float32[n]"}}
        for per, dims in _COLUMNS.items():
            dynamic: dict[str, Any] = {"pertoken": "float32[m]", "required": ("pertoken_scale",)}
            yield _row(f"e4m3, {form}{per}, dynamic", "e4m3[m, k]", x2, f"float32[{dims}]", _OUTPUTS, **dynamic, **common)
            for kind, scale in _PACKED.items():
                yield _row(f"e4m3, {form}{per}, {kind}, static", "e4m3[m, k]", x2, scale.format(dims), _OUTPUTS, **common)


def _mx() -> Iterator[Row]:
    """The exponents of x2 lie as x2 does: the kernel reads the transposition of both from the strides of x2."""
    common: dict[str, Any] = {"pertoken": _ROW_EXPONENTS, "required": ("pertoken_scale",), "devices": _A5}
    for form, x2 in {**_E4M3, **_E4M3_NZ}.items():
        yield _row(
            f"mx e4m3, {form}",
            "e4m3[m, k]",
            x2,
            _EXPONENTS_VIEW if "transposed" in form else _EXPONENTS.format(""),
            _OUTPUTS,
            more={"bias": "float32[n]"},
            source=_WEIGHT_NZ if "nz" in x2 else _V5,
            constants={"group_sizes": ((1, 1, 32),), **_MX_DTYPES},
            limits=(_LAST_DIMS["transposed" in form], *((_NOT_ONE,) if "nz" in x2 else ())),
            **common,
        )
    yield _row(
        "mx e2m1, transposed view",
        "e2m1[m, k] in uint8[m, k//2 | k%2]",
        _E2M1_VIEW,
        _EXPONENTS_VIEW,
        _OUTPUTS,
        more={"bias": "float32[n]"},
        source=_V5 + ", which asks for an even number of groups of 32; vllm-ascend pads an odd one (#12201)",
        constants={"group_sizes": ((1, 1, 32),), "x1_dtype": ("e2m1",), "x2_dtype": ("e2m1",), **_MX_DTYPES},
        limits=(_LAST_DIMS[True],),
        **common,
    )
    for form, x2, alignment in (("transposed view", _E2M1_VIEW, "K % 64 == 0"), ("FRACTAL_NZ, transposed view", _E2M1_NZ, "K % 64 == 0 and N % 64 == 0")):
        yield _row(
            f"mx e4m3 with e2m1, {form}",
            "e4m3[m, k]",
            x2,
            _EXPONENTS_VIEW,
            ("bfloat16",),
            more={"bias": "bfloat16[0, n]"},
            source=_WEIGHT_NZ if "nz" in x2 else _V5,
            constants={"group_sizes": ((0, 0, 32), (1, 1, 32)), "x2_dtype": ("e2m1",), **_MX_DTYPES},
            limits=(LimitRow(slug="kernel-alignment", test=alignment), LimitRow(slug="kernel-size", test="K <= 65535 and N <= 65535")),
            **common,
        )


CONTRACT = Contract(op="npu::npu_quant_matmul", rows=(*_int8(), _int8_blocks(), *_int4(), *_int8_int4(), *_e4m3(), *_mx()))
