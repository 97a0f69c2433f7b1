"""y = x @ ((weight + antiquant_offset) * antiquant_scale) + bias, x in float16 or bfloat16.

Sources: torch_npu 2.13.0 schema; op-plugin 517f2e7d WeightQuantBatchMatmulV2KernelNpuOpApi.cpp (checks), ops-nn e5c3fa93 aclnnWeightQuantBatchMatmulV2
and Nz documents (combinations by device, limits).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from layoutdsl.kernels.base import Contract, LimitRow, Row

_DOCUMENT = "ops-nn e5c3fa93, aclnnWeightQuantBatchMatmulV2 document"
_SIZES = LimitRow(slug="kernel-size", test="K <= 65535 and N <= 65535")
_GROUPS = LimitRow(slug="group-size", test="g % 32 == 0 and g >= 32 and g < K")
_NZ_GROUPS = (LimitRow(slug="nz-group-size", test="g in [64, 128]"), LimitRow(slug="nz-alignment", test="K % g == 0 and N % 64 == 0"))
_G: Mapping[str, Any] = {"integers": {"g": "antiquant_group_size"}}
_A2_A3, _310P = ("a2", "a3"), ("310p",)
_BIASES: Mapping[tuple[str, ...], Mapping[str, tuple[str, ...]]] = {
    _A2_A3: {"float16": ("float16",), "bfloat16": ("float32",)},
    ("a5",): {"float16": ("float16",), "bfloat16": ("float32", "bfloat16")},
}
"""The dtypes that a bias may have, by devices and the dtype of x."""

_SCALES = ("antiquant_scale", "antiquant_offset")
_INT4, _INT4_VIEW = "int4[k, n] in int32[k, n//8 | n%8]", "int4[k, n] in int32[k//8, n | k%8] over [n, k//8]"


def _rows(name: str, weight: str, scale: str, *, devices: tuple[str, ...] = _A2_A3, source: str = _DOCUMENT, **more: Any) -> Iterator[Row]:
    """``scale``: the dims of antiquant_scale and antiquant_offset."""
    for dtype, biases in _BIASES[devices].items():
        yield _row(f"{name}, {dtype}", weight, dict.fromkeys(_SCALES, f"T{scale}"), devices, source, {"T": (dtype,), "B": biases}, **more)


def _row(name: str, weight: str, scales: Mapping[str, str], devices: tuple[str, ...], source: str, dtypes: Mapping[str, Any], **more: Any) -> Row:
    arguments = {"weight": weight, "x": "T[m, k]", **scales, "bias": "B[n]"}
    return Row(name=name, source=source, devices=devices, arguments=arguments, results=("T[m, n]",), dtypes=dtypes, sums="k", addends=("bias",), **more)


def _per_channel(name: str, weight: str, *, turned: bool = False, **more: Any) -> Iterator[Row]:
    """``turned``: with a transposed weight a scale of two dims is the transpose of the other one."""
    for shape in ("[n]", "[n, 0]" if turned else "[0, n]"):
        yield from _rows(f"{name}, scale {shape}", weight, shape, **more)


def _a2_a3() -> Iterator[Row]:
    limits: dict[str, Any] = {"limits": (_SIZES,)}
    yield from _per_channel("int4 per channel, ND", _INT4, **limits)
    yield from _per_channel("int4 per channel, ND, transposed view", _INT4_VIEW, turned=True, **limits)
    yield from _per_channel("int4 per channel, FRACTAL_NZ, transposed view", "int4[k, n] in int32[k//8, n | k%8] over nz[n, k//8]", turned=True, **limits)
    yield from _rows("int4 per group, ND", _INT4, "[k//g, n]", limits=(_GROUPS, _SIZES), **_G)
    yield from _rows(
        "int4 per group, FRACTAL_NZ",
        f"{_INT4} over nz[k, n//8]",
        "[k//g, n]",
        limits=(*_NZ_GROUPS, _SIZES),
        constants={"inner_precise": (0, 1)},
        source=_DOCUMENT + "; users' reports of `antiquantGroupSize should be 128 or 64`",
        **_G,
    )
    yield from _rows("int4 per group, ND, transposed view", _INT4_VIEW, "[k//g, n] over [n, k//g]", limits=(_GROUPS, _SIZES), **_G)
    yield from _per_channel("int8 per channel, ND", "int8[k, n]", **limits)
    yield from _per_channel("int8 per channel, ND, transposed view", "int8[k, n] over [n, k]", turned=True, **limits)
    yield from _per_channel("int8 per channel, FRACTAL_NZ", "int8[k, n] over nz[k, n]", **limits)


def _310p() -> Iterator[Row]:
    view = "int8[k, n] over nz[n, k]"
    for form, weight, shapes in (("ND", "int8[k, n]", ("[n]",)), ("FRACTAL_NZ, transposed view", view, ("[n]", "[n, 0]"))):
        for shape in shapes:
            scales = dict.fromkeys(_SCALES, f"T{shape}")
            yield _row(f"int8 per channel, {form}, scale {shape}", weight, scales, _310P, _DOCUMENT, {"T": ("float16",), "B": ("float16",)})


def _a5() -> Iterator[Row]:
    a5: dict[str, Any] = {"devices": ("a5",)}
    nz: dict[str, Any] = {"source": "ops-nn e5c3fa93, aclnnWeightQuantBatchMatmulNz document", "devices": ("a5",)}
    groups: dict[str, Any] = {"limits": (_GROUPS,), **_G, **a5}
    for element, contiguous, view in (("int4", _INT4, _INT4_VIEW), ("int8", "int8[k, n]", "int8[k, n] over [n, k]")):
        yield from _per_channel(f"{element} per channel, ND, a5", contiguous, **a5)
        yield from _per_channel(f"{element} per channel, ND, transposed view, a5", view, turned=True, **a5)
        yield from _rows(f"{element} per group, ND, a5", contiguous, "[k//g, n]", **groups)
        yield from _rows(f"{element} per group, ND, transposed view, a5", view, "[k//g, n] over [n, k//g]", **groups)
    for shape in ("[n]", "[0, n]"):
        scales = dict.fromkeys(_SCALES, f"T{shape}")
        for dtype, bias in (("float16", "float16"), ("bfloat16", "float32")):
            name = f"int8 per channel, FRACTAL_NZ, a5, scale {shape}, {dtype}"
            yield _row(name, "int8[k, n] over nz[k, n]", scales, dtypes={"T": (dtype,), "B": (bias,)}, **nz)
    for dtype in ("float16", "bfloat16"):
        exponents = {"antiquant_scale": "e8m0[k//32, n] in uint8[k//32, n]"}
        constants = {"antiquant_group_size": (32,)}
        name, weight = f"mx e2m1 in float32, {dtype}", "e2m1[k, n] in float32[k, n//8 | n%8]"
        yield _row(name, weight, exponents, source=_DOCUMENT, dtypes={"T": (dtype,), "B": (dtype,)}, constants=constants, **a5)


CONTRACT = Contract(op="npu::npu_weight_quant_batchmatmul", rows=(*_a2_a3(), *_310p(), *_a5()))
