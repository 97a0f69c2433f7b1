"""Adding a primitive is adding one file: a copy of the package with one more module compiles specs that use it, lists it and tests its examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import layoutdsl
from layoutdsl.ops import OPS

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "language.md"

OP = '''
"""``reverse_dims``: the dims seen in the other order."""

from __future__ import annotations

from layoutdsl.ir.layout import Space, TensorType, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Place, Position, Rejected, need_nd, register


@register
class ReverseDims(Op):
    """Last dim first; memory stays."""

    name = "reverse_dims"
    summary = "see the dims in the other order"
    alias = "must"
    examples = (Example("int8[e, n, k]", "reverse_dims", "int8[e, n, k] in int8[k, n, e] over [e, n, k]"),)
    rejected = (Rejected("int8[n, k] over nz[n, k]", "reverse_dims", "movement-on-nz"),)

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`reverse_dims`")
        last = len(kind.dims) - 1
        return with_dims(kind, kind.dims[::-1], [last - d for d in kind.order])

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        return position[0][::-1], position[1]
'''

SPEC = """
layoutdsl: 1
scheme: TEST
layer: linear
title: a spec that uses the new op
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {n: output_size, k: input_size}
params:
  weight: int8[n, k]
value: none
steps:
  - weight: reverse_dims | is int8[n, k] in int8[k, n] over [n, k]
forward: external
"""

SCRIPT = """
from layoutdsl.compiler.driver import compile_document, validate
from layoutdsl.diagnostics import Source
from layoutdsl.ops import OPS
from layoutdsl.syntax.reader import read_document

print(*OPS)
document = read_document(Source("spec.yaml", SPEC))
print([finding.code for finding in validate(document)])
(output,) = [node for node in compile_document(document, {}).code]
print(type(output).__name__, output.alias, output.type.order)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose ops folder has one file more."""
    root = tmp_path_factory.mktemp("copy")
    package = Path(layoutdsl.__file__).parent
    shutil.copytree(package, root / "layoutdsl", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "layoutdsl" / "ops" / "reverse_dims.py").write_text(dedent(OP).lstrip(), encoding="utf-8")
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_compiler_and_the_listings_find_it(copy: Path) -> None:
    done = python(copy, "-c", f"SPEC = {SPEC!r}\n{SCRIPT}")
    assert done.returncode == 0, done.stderr
    names, findings, move = done.stdout.splitlines()
    assert set(names.split()) == {*OPS, "reverse_dims"}
    assert findings == "[]"
    assert move == "Move must (1, 0)"


def test_the_tests_of_examples_find_it(copy: Path) -> None:
    target = str(ROOT / "tests" / "ops" / "test_examples.py")
    done = python(copy, "-m", "pytest", target, "-k", "reverse_dims", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", f"--rootdir={copy}", "-c", os.devnull)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.findall(r"(\d+) passed", done.stdout)[0])
    assert passed == 1 + 1 + 4 + 1, "says what it is, example for all sizes, at four sizes, rejected example"


def test_every_op_is_in_the_table_of_the_language() -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    firsts = " ".join(row.split("|")[1] for row in rows)
    assert [name for name in OPS if not re.search(rf"`{name}\b", firsts)] == []
