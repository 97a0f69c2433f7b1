"""Eight values to a carrier along the last dim: int4 to an int32, on Ascend 950 also e2m1 to a float32. FRACTAL_NZ is blocked anew for the packed width.

Rows say what goes in and what comes out; a spec writes ``pack``. Values must fit into four bits: the device drops the rest.
Sources: torch_npu 2.13.0 document; op-plugin 517f2e7d ConvertWeightToINT4PackKernelNpuOpApi.cpp.
"""

from collections.abc import Iterator

from layoutdsl.kernels.base import ANY, Contract, Row

_SOURCE = "op-plugin 517f2e7d, ConvertWeightToINT4PackKernelNpuOpApi.cpp"
# Blocks of plain 4-byte values are 16 wide, 64 bytes; what int4 is packed into is 32 bytes wide, on Ascend 950 as many elements as before.
_FORMATS = {"ND": ("", "", ("a2", "a3", "a5")), "FRACTAL_NZ": (" over nz(64)[{0}]", " over nz[{0}]", ("a2", "a3"))}
_A5_FORMATS = {
    "ND": ("", ""),
    "FRACTAL_NZ for 16 bit": (" over nz(64)[{0}]", " over nz(8)[{0}]"),
    "FRACTAL_NZ for 8 bit": (" over nz(128)[{0}]", " over nz(16)[{0}]"),
}


def _row(name: str, devices: tuple[str, ...], element: str, storage: str, lead: str, blocks: tuple[str, str]) -> Row:
    dims, packed = f"{lead}r, c", f"{lead}r, c//8"
    return Row(
        name=name,
        source=_SOURCE,
        devices=devices,
        arguments={"weight": f"{element}[{dims}] in {storage}[{dims}]{blocks[0].format(dims)}"},
        constants={"inner_k_tiles": ANY},
        results=(f"{element}[{dims}] in {storage}[{packed} | c%8]{blocks[1].format(packed)}",),
    )


def _rows() -> Iterator[Row]:
    for format, (before, after, devices) in _FORMATS.items():
        yield _row(f"int4, {format}", devices, "int4", "int32", "", (before, after))
    for rank, lead in (("2 dims", ""), ("3 dims", "e, ")):
        for format, blocks in _A5_FORMATS.items():
            yield _row(f"e2m1, {format}, {rank}", ("a5",), "e2m1", "float32", lead, blocks)
            if format != "ND" or lead:
                yield _row(f"int4, {format}, {rank}", ("a5",), "int4", "int32", lead, blocks)


CONTRACT = Contract(op="npu::npu_convert_weight_to_int4pack", rows=tuple(_rows()))
