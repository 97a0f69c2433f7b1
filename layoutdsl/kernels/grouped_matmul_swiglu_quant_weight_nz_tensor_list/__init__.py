"""The kernel ``_C_ascend::grouped_matmul_swiglu_quant_weight_nz_tensor_list``."""
