"""layoutdsl: declarative layout transformations, from quantized checkpoints to what Ascend NPU kernels want."""
