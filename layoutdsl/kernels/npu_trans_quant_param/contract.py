"""A float32 scale in the int64 that the matrix unit reads; with more in the upper bits than the float's, so what it makes is opaque.

Sources: torch_npu 2.13.0 schema, document and meta function; ops-nn e5c3fa93, trans_quant_param_v2.h.
"""

from layoutdsl.kernels.base import Contract, Row

CONTRACT = Contract(
    op="npu::npu_trans_quant_param",
    rows=tuple(
        Row(
            name=name,
            source="torch_npu 2.13.0, npu_trans_quant_param document; that a5 has it: ops-nn e5c3fa93, aclnnQuantMatmulV5 document",
            devices=("a2", "a3", "a5", "310p"),
            arguments={"scale": f"float32[{dims}]", "offset": f"float32[{dims}]"},
            constants={"round_mode": (0, 1)},
            results=(f"opaque[{dims}] in int64[{dims}]",),
        )
        for name, dims in (("per column", "n"), ("per column, one row", "0, n"), ("one scale", "0"))
    ),
)
