"""The demo's quantizer and decoder on small random matrices: they must agree with the written layouts, without layoutdsl."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
decode = importlib.import_module("decode")
quantizer = importlib.import_module("quantize_minilm")

N, K, GROUP_SIZE = 32, 256, 64


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(7)) * 0.05


def random_codes(*shape: int) -> Tensor:
    return torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(11), dtype=torch.int8)


def words_by_bit_string(codes: list[list[int]]) -> Tensor:
    """[K, N] codes to int32 [K, N//8], naively: each word is spelled in bits, its last nibble first."""
    words = [["".join(f"{code & 0xF:04b}" for code in reversed(row[i : i + 8])) for i in range(0, len(row), 8)] for row in codes]
    unsigned = torch.tensor([[int(word, 2) for word in row] for row in words])
    return torch.where(unsigned >= 2**31, unsigned - 2**32, unsigned).int()


def test_both_layouts_carry_the_same_codes(weight: Tensor) -> None:
    quantized = quantizer.quantize(weight)
    unpacked = quantizer.checkpoint_tensors(quantized, "unpacked", "column")
    packed = quantizer.checkpoint_tensors(quantized, "packed", "column")
    assert torch.equal(decode.checkpoint_codes(unpacked["weight"], packed=False), quantized.codes.int())
    assert torch.equal(decode.checkpoint_codes(packed["weight"], packed=True), quantized.codes.int())
    assert torch.equal(decode.dequantize_checkpoint(unpacked, packed=False), decode.dequantize_checkpoint(packed, packed=True))


def test_even_channel_lies_in_the_low_nibble() -> None:
    codes = torch.tensor([[1, -8], [-2, 7]], dtype=torch.int8)
    assert (quantizer.pack_nibbles(codes).int() & 0xFF).tolist() == [[0xE1, 0x78]]


@pytest.mark.parametrize(("layer_type", "columns"), [("column", 1), ("row", 16)])
def test_names_shapes_and_dtypes(weight: Tensor, layer_type: str, columns: int) -> None:
    tensors = quantizer.checkpoint_tensors(quantizer.quantize(weight), "packed", layer_type)
    assert {name: (list(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} == {
        "weight": ([N // 2, K], torch.int8),
        "weight_scale": ([N, 1], torch.bfloat16),
        "weight_offset": ([N, 1], torch.bfloat16),
        "weight_scale_second": ([N, K // GROUP_SIZE], torch.bfloat16),
        "weight_offset_second": ([N, K // GROUP_SIZE], torch.bfloat16),
        "scale_bias": ([N, columns], torch.float32),
    }


@pytest.mark.parametrize(("layer_type", "columns"), [("column", 1), ("row", 16)])
def test_scale_bias_is_eight_times_the_sum(weight: Tensor, layer_type: str, columns: int) -> None:
    tensors = quantizer.checkpoint_tensors(quantizer.quantize(weight), "packed", layer_type)
    values = decode.dequantize_checkpoint(tensors, packed=True)
    chunk = K // columns
    for n in range(N):
        for column in range(columns):
            expected = 8 * sum(values[n, column * chunk : (column + 1) * chunk].tolist())
            assert tensors["scale_bias"][n, column].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_stored_form_is_close_to_gaussian_weights(weight: Tensor) -> None:
    tensors = quantizer.checkpoint_tensors(quantizer.quantize(weight), "unpacked", "column")
    assert decode.sqnr_db(weight, decode.dequantize_checkpoint(tensors, packed=False)) > 15


def test_no_other_code_is_nearer_under_the_stored_scales(weight: Tensor) -> None:
    quantized = quantizer.quantize(weight)
    scale = quantizer.scale_product(quantized.channel_scale, quantized.group_scale).double().repeat_interleave(GROUP_SIZE, dim=1)
    errors = torch.stack([(weight.double() - code * scale).abs() for code in range(-8, 8)])
    chosen = (weight.double() - quantized.codes.double() * scale).abs()
    assert torch.all(chosen <= errors.amin(dim=0) * (1 + 1e-5))


def test_zero_rows_and_groups_stay_zero(weight: Tensor) -> None:
    weight[3] = 0
    weight[5, :GROUP_SIZE] = 0
    tensors = quantizer.checkpoint_tensors(quantizer.quantize(weight), "unpacked", "column")
    values = decode.dequantize_checkpoint(tensors, packed=False)
    assert torch.all(values[3] == 0)
    assert torch.all(values[5, :GROUP_SIZE] == 0)
    assert torch.all(values.isfinite())


def test_decoder_reads_what_a_bit_string_spells() -> None:
    codes = random_codes(K, N)
    assert torch.equal(decode.kernel_codes(words_by_bit_string(codes.tolist())), codes.int())


def test_decoded_weight_is_code_times_scale_of_its_group() -> None:
    codes = random_codes(K, N)
    scale = torch.rand(K // GROUP_SIZE, N, generator=torch.Generator().manual_seed(5))
    decoded = decode.decode_kernel(words_by_bit_string(codes.tolist()), scale)
    for k, n in [(0, 0), (63, 7), (64, 8), (200, 31), (255, 16)]:
        assert decoded[k, n].item() == codes[k, n].item() * scale[k // GROUP_SIZE, n].item()


@pytest.mark.parametrize(("n", "k"), [(31, 256), (32, 200)])
def test_sizes_that_do_not_fit_are_refused(n: int, k: int) -> None:
    with pytest.raises(ValueError, match="odd" if n % 2 else "multiple"):
        quantizer.quantize(torch.zeros(n, k))
