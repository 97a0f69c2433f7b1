"""Grouped matmul of int8 rows, swiglu of its halves, and int8 rows with one scale per row again; the rows of a group are cumulated.

int4 weights: ``bias`` = 8 * sum_k weight * scale is required, as in npu_grouped_matmul; x is split in a workspace and stays as it is.
Sources: torch_npu 2.13.0 schema, document and meta function; ops-transformer 3a280bcc aclnnGroupedMatmulSwigluQuant document. The third result means nothing.
"""

from layoutdsl.kernels.base import Contract
from layoutdsl.kernels.swiglu_quant_rows import int4_rows, int8_row

_SOURCE = "ops-transformer 3a280bcc, aclnnGroupedMatmulSwigluQuant document; torch_npu 2.13.0, npu_grouped_matmul_swiglu_quant document"
_RESULTS = ("int8[m, h]", "float32[m]", "")

CONTRACT = Contract(op="npu::npu_grouped_matmul_swiglu_quant", group_list="cumsum", rows=(int8_row(_SOURCE, _RESULTS), *int4_rows(_SOURCE, _RESULTS, "bias")))
