"""What the tests of the command line share: a run in this process, and small inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

from layoutdsl.cli import main
from tests.golden.recorded import recorded

SPEC = """\
layoutdsl: 1
scheme: TINY
layer: linear
title: a spec of the tests
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {n: output_size, k: input_size}
params:
  weight: int8[n, k]
  scale:
    type: float32[n]
    init: 1
    given: tp_size == 1
value:
  W[n, k]: weight[n, k] * scale[n]
steps:
  - rows: weight | unbind(n)
  - turned: weight | transpose(k, n)
  - ranks: tp_size
    as: value
  - total[n]: sum[k](float32(weight[n, k]))
forward: external
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def refused(self, *texts: str) -> None:
        """Exit 1, a finding on stdout that says all this, and no trace of a bug."""
        assert self.code == 1, self
        assert "error[" in self.out, self
        assert "internal error" not in self.err and "Traceback" not in self.out + self.err, self
        for text in texts:
            assert text in self.out, (text, self)

    def misused(self, *texts: str) -> None:
        """Exit 2, the reason on stderr, nothing on stdout."""
        assert (self.code, self.out) == (2, ""), self
        for text in texts:
            assert text in self.err, (text, self)


Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTDSL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("LAYOUTDSL_DEBUG", raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*argv: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A spec with a list, a number and an input that may be absent."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """The recorded inputs of a linear layer, unpacked, groups of 32, 64 x 128."""
    path = tmp_path / "in.safetensors"
    save_file(recorded("release/w4a8_dynamic.linear.unpacked").inputs, path)
    return path
