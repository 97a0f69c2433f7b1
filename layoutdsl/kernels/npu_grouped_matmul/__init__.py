"""npu_grouped_matmul: one matmul per expert."""
