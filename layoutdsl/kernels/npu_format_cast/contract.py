"""The same values in FRACTAL_NZ: the last two dims in blocks of 16 rows and C0 columns. Torch sees no difference.

Rows speak of what is stored, whatever it means, in tensors of 2 or 3 dims; a spec writes ``nz``, and ``nz(T)`` for ``customize_dtype``, the dtype of the
activation that the weight will meet. C0 is 32 bytes over the size of that dtype; without it, 32 bytes over the size of the elements, but 16 for 4-byte ones.
Sources: torch_npu 2.13.0 schema; Ascend pytorch 9e73e708 FormatHelper.cpp and FormatCastHelper.cpp; ops-math c4193324 aclnnNpuFormatCast document (combinations
for Ascend 950).
"""

from collections.abc import Iterator

from layoutdsl.kernels.base import Contract, Row

_PTA = "Ascend pytorch 9e73e708, FormatHelper.cpp"
_CUSTOM = "Ascend pytorch 9e73e708, FormatCastHelper.cpp: CANN 9.1 or later"
_DOCUMENT = "ops-math c4193324, aclnnNpuFormatCast document"
_HALVES = ("bfloat16", "float16")


def _rows() -> Iterator[Row]:
    for rank, dims in (("2 dims", "r, c"), ("3 dims", "e, r, c")):
        for name, storages, width, activations, devices, source in (
            ("one or two bytes", ("int8", "uint8", "float16", "bfloat16"), 32, (None,), ("a2", "a3"), _PTA),
            ("int32", ("int32",), 64, (None,), ("a2", "a3"), _PTA),
            ("4 bytes for 16 bit", ("int32", "float32"), 64, _HALVES, ("a2", "a3"), _CUSTOM),
            ("4 bytes for int8", ("int32", "float32"), 128, ("int8",), ("a2", "a3"), _CUSTOM),
            ("one or two bytes", ("int8", "float16"), 32, (None,), ("310p",), "vllm-ascend 182b75ea84, utils.py maybe_trans_nz; no customize_dtype there"),
            ("one or two bytes", ("int8", "float8_e4m3fn", "float16", "bfloat16"), 32, (None,), ("a5",), _DOCUMENT),
            ("4 bytes for 16 bit", ("int32", "float32"), 64, _HALVES, ("a5",), _DOCUMENT),
            ("float32 for e4m3", ("float32",), 128, ("e4m3",), ("a5",), _DOCUMENT),
        ):
            yield _row(f"{name}, {rank}", "S", storages, dims, width, activations, None, devices, source)
        # Two e2m1 to a byte: 32 of them are 16 bytes.
        yield _row(f"e2m1 in uint8 for e4m3, {rank}", "S", ("uint8",), dims, 16, ("e4m3",), "e2m1", ("a5",), _DOCUMENT)
        yield _row(f"e2m1 in uint8, {rank}", "S", ("uint8",), dims, 32, (None,), "e2m1", ("a5",), _DOCUMENT)


def _row(
    name: str,
    letter: str,
    storages: tuple[str, ...],
    dims: str,
    width: int,
    activations: tuple[str | None, ...],
    element: str | None,
    devices: tuple[str, ...],
    source: str,
) -> Row:
    return Row(
        name=name,
        source=source,
        devices=devices,
        arguments={"input": f"{letter}[{dims}]"},
        dtypes={letter: storages},
        constants={"acl_format": (29,), "customize_dtype": activations, "input_dtype": (element,)},
        results=(f"{letter}[{dims}] in {letter}[{dims}] over nz({width})[{dims}]",),
    )


CONTRACT = Contract(op="npu::npu_format_cast", rows=tuple(_rows()))
