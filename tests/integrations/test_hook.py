"""The entry point: what it imports, what it costs, and what a module notices of the hook."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from layoutdsl.integrations.vllm_ascend.hook import after_import
from tests.integrations.conftest import METHODS, World

HEAVY = ("torch", "numpy", "vllm", "vllm_ascend", "yaml", "lark", "jsonschema", "layoutdsl.compiler", "layoutdsl.syntax", "layoutdsl.runtime", "layoutdsl.api")


def test_the_entry_point_is_registered() -> None:
    (point,) = [point for point in entry_points(group="vllm.general_plugins") if point.name == "layoutdsl"]
    assert point.value == "layoutdsl.integrations.vllm_ascend:register"


def test_register_imports_nothing_heavy() -> None:
    program = """
import json, logging, sys, time, typing, dataclasses
before = set(sys.modules)
start = time.perf_counter()
from layoutdsl.integrations.vllm_ascend import register
register()
print(json.dumps([(time.perf_counter() - start) * 1e3, sorted(set(sys.modules) - before)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    milliseconds, imported = json.loads(done.stdout)
    assert not [name for name in imported if name.startswith(HEAVY)]
    assert len([name for name in imported if name.startswith("layoutdsl")]) == 5
    assert milliseconds < 100, "promised are 10; a busy machine may take longer"


def test_register_twice_waits_once(world: World) -> None:
    before = len(sys.meta_path)
    world.register()
    world.register()
    assert len(sys.meta_path) == before + 1


def test_register_never_raises(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hook = world.module("layoutdsl.integrations.vllm_ascend.hook")
    monkeypatch.setattr(hook, "after_import", None)
    with caplog.at_level("WARNING"):
        world.register()
    assert "layoutdsl is off" in caplog.text


def test_modules_that_are_there_count(world: World) -> None:
    world.module(METHODS)
    found: list[str] = []
    after_import([METHODS], found.append)
    assert found == [METHODS]


def test_callback_comes_after_the_module_ran(world: World) -> None:
    found: list[bool] = []
    after_import([METHODS], lambda name: found.append(hasattr(sys.modules[name], "get_scheme_class")))
    assert found == []
    world.module(METHODS)
    assert found == [True]
    assert not [finder for finder in sys.meta_path if type(finder).__name__ == "_Finder"]


def test_module_looks_as_without_the_hook(world: World) -> None:
    plain = world.module("vllm_ascend.ascend_config")
    del sys.modules["vllm_ascend.ascend_config"]
    after_import(["vllm_ascend.ascend_config"], lambda name: None)
    hooked = world.module("vllm_ascend.ascend_config")
    assert hooked is not plain
    assert type(hooked.__loader__) is type(plain.__loader__)
    assert type(hooked.__spec__.loader) is type(plain.__spec__.loader)
    assert hooked.__file__ == plain.__file__


def test_missing_module_stays_missing(world: World) -> None:
    after_import(["vllm_ascend.no_such_module"], lambda name: None)
    assert importlib.util.find_spec("vllm_ascend.no_such_module") is None
    with pytest.raises(ModuleNotFoundError):
        world.module("vllm_ascend.no_such_module")


def test_finding_without_importing_calls_nothing(world: World) -> None:
    found: list[str] = []
    after_import([METHODS], found.append)
    spec = importlib.util.find_spec(METHODS)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).name == "__init__.py"
    assert spec.loader is not None
    assert spec.loader.get_source(METHODS)  # type: ignore[attr-defined]
    assert found == []


def test_import_that_fails_can_be_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    after_import([METHODS], found.append)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(ImportError):
            world.module(METHODS)
    assert found == []
    world.module(METHODS)
    assert found == [METHODS]
