"""examples/loader.py on folders of several schemes: what its layers compute is what the float weights compute, before and after a reload."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.filled import change, dense

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
loader = importlib.import_module("loader")


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W4A8_DYNAMIC", "W8A16", "W8A8"])
def test_what_it_prints(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dense(scheme).write(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["loader.py", str(folder)])
    loader.main()
    assert capsys.readouterr().out == f"7 layers loaded twice; model.layers.0.self_attn.k_proj: {scheme}, the same memory and the same result again: yes\n"


def test_other_weights_are_there_after_a_reload(tmp_path: Path) -> None:
    draft, name = dense("W8A16"), "model.layers.0.mlp.up_proj"
    layers = loader.build(draft.write(tmp_path / "model"))
    for factor in (1, 2):
        change(draft, f"{name}.weight_scale", lambda array, factor=factor: array * factor)  # type: ignore[misc]
        loader.load(draft.write(tmp_path / "model"), layers)
        weight = torch.from_numpy(draft.tensors[f"{name}.weight"].array() * draft.tensors[f"{name}.weight_scale"].array())
        x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
        wanted = x.bfloat16().double() @ weight.double().T
        assert torch.allclose(layers[name](x.bfloat16()).double(), wanted, rtol=0, atol=float(wanted.abs().max()) / 100)


def test_a_tensor_that_is_not_there_is_refused(tmp_path: Path) -> None:
    draft = dense("W8A16")
    layers = loader.build(draft.write(tmp_path / "model"))
    del draft.tensors["model.layers.0.mlp.up_proj.weight_scale"]
    with pytest.raises(loader.layoutdsl.diagnostics.DiagnosticError, match="partial-load"):
        loader.load(draft.write(tmp_path / "other"), layers)
