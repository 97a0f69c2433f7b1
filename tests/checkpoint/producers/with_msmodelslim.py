"""Two folders as msModelSlim's own save handlers write them, and what it decodes them to.

    python with_msmodelslim.py OUT

`OUT/modelslim-int` mixes five schemes of the devices with int8 units, `OUT/modelslim-mx` three of those with microscaling formats. The quantized modules are
msModelSlim's own, their scales and codes come from its own rules on minima and maxima. No calibration data is needed: the one static activation scale is given.
`OUT/NAME.decoded.safetensors`: the weights after its own dequantization, by module.
"""

import json
import re
import sys
from pathlib import Path

import msmodelslim.ir as qir
import torch
from matrices import CONFIG, LAYERS, model
from msmodelslim.core.base.protocol import BatchProcessRequest
from msmodelslim.core.quant_service.modelslim_v1.save.ascendv1 import AscendV1Config, AscendV1GlobalModelDtypeInterface, AscendV1Saver
from msmodelslim.ir.api import calculate_qparam, dequantize, quantize
from msmodelslim.ir.qal import QDType, QParam, QScheme, QStorage
from msmodelslim.ir.utils import reshape_to_blocks, undo_reshape_to_blocks
from msmodelslim.model import IModel
from safetensors.torch import save_file
from torch import Tensor, nn

Scheme = tuple[QScheme, QScheme]
INPUT = {"scale": torch.tensor([0.03125]), "offset": torch.tensor([3.0])}
"""Of static activations."""

W8A8_DYNAMIC = (qir.int8_per_token_sym, qir.int8_per_channel_sym)
W8A16 = (qir.float_per_tensor_sym, qir.int8_per_channel_sym)
W8A8 = (qir.int8_per_tensor_asym, qir.int8_per_channel_sym)
W4A4_DYNAMIC = (qir.int4_per_token_sym, qir.int4_per_channel_sym)
W4A8_DYNAMIC = (qir.int8_per_token_sym, qir.int4_per_channel_sym)
W8A8_MXFP8 = (qir.mxfp8_per_block_sym, qir.mxfp8_per_block_sym)
W4A4_MXFP4 = (qir.mxfp4_per_block_sym, qir.mxfp4_per_block_sym)
W4A8_MXFP = (qir.mxfp8_per_block_sym, qir.mxfp4_per_block_sym)

FOLDERS: dict[str, dict[str, Scheme]] = {
    "modelslim-int": {r"0\.self_attn": W8A8_DYNAMIC, r"1\.self_attn": W8A16, r"0\.mlp": W8A8, r"1\.mlp": W4A4_DYNAMIC, "experts": W4A8_DYNAMIC},
    "modelslim-mx": {r"[01]\.self_attn": W8A8_MXFP8, r"[01]\.mlp": W4A4_MXFP4, "experts": W4A8_MXFP},
}
"""By what a module's name contains; others stay float."""


class Adapter(IModel, AscendV1GlobalModelDtypeInterface):
    """What the saver asks of a model family."""

    model_type = "qwen3_moe"
    trust_remote_code = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model_path(self) -> Path:
        return self.path

    def get_global_model_torch_dtype(self) -> torch.dtype:
        return torch.bfloat16


def quantized(weight: Tensor, scheme: Scheme) -> tuple[nn.Module, Tensor]:
    """msModelSlim's module for a matrix [outputs, inputs], and the weight as it decodes it."""
    inputs, weights = scheme
    make = by_block if weights.dtype in (QDType.MXFP4, QDType.MXFP8) else by_channel
    param, codes, decoded = make(weight.float(), weights)
    module = qir.AutoFakeQuantLinear.create(QParam(inputs, {**INPUT, "axes": -1}), param, codes)
    return module, decoded


def by_channel(weight: Tensor, scheme: QScheme) -> tuple[QParam, QStorage, Tensor]:
    param = calculate_qparam(weight.amin(1), weight.amax(1), scheme.dtype, scheme.scope, scheme.symmetric)
    codes = quantize(QStorage(QDType.FLOAT, weight.T), param)
    return param, codes.T, dequantize(codes, param).value.T


def by_block(weight: Tensor, scheme: QScheme) -> tuple[QParam, QStorage, Tensor]:
    blocks, axes, shape, padded = reshape_to_blocks(weight, [1], scheme.dtype.mx_finfo.block_size)
    along = [axis + 1 for axis in axes]
    param = calculate_qparam(blocks.abs().amin(along, keepdim=True), blocks.abs().amax(along, keepdim=True), scheme.dtype, scheme.scope, scheme.symmetric)
    codes = quantize(QStorage(QDType.FLOAT, blocks), param)
    values, decoded = (undo_reshape_to_blocks(value, padded, shape, [1]) for value in (codes.value, dequantize(codes, param).value))
    param.ext = {"offset": torch.zeros_like(param.ext["scale"]), **param.ext, "axes": -1}
    return param, QStorage(scheme.dtype, values), decoded


def write(folder: Path, schemes: dict[str, Scheme]) -> None:
    source = folder.with_name(folder.name + ".source")
    for made in (folder, source):
        made.mkdir(parents=True, mode=0o750)  # it refuses what others may write to
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "config.json").chmod(0o640)
    found, decoded = model(), {}
    for name, module in list(found.named_modules()):
        scheme = next((scheme for part, scheme in schemes.items() if re.search(part, name)), None)
        if isinstance(module, nn.Linear) and scheme is not None:
            replaced, decoded[name] = quantized(module.weight, scheme)
            found.set_submodule(name, replaced)
    saver = AscendV1Saver(found, AscendV1Config(save_directory=str(folder)), Adapter(source))
    saver.pre_run()
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        saver.postprocess(BatchProcessRequest(name, found.get_submodule(name)))
    saver.post_run()
    save_file({name: tensor.contiguous() for name, tensor in decoded.items()}, folder.with_name(folder.name + ".decoded.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, schemes in FOLDERS.items():
        write(Path(sys.argv[1]).resolve() / name, schemes)
