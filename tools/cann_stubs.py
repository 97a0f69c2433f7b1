"""Build stand-ins for the CANN libraries that torch_npu links to, so that ``import torch_npu`` works on a machine without CANN.

Used by ``make test-npu``; run it with the Python that has torch and torch_npu installed. Reads the installed wheel, so that nothing here is of one version:

1. what the import loads: the extension module, and the libraries that it needs, and that they need, as the wheel, torch and the C compiler have them;
2. which libraries are missing: those that the wheel needs and nobody has;
3. which names are missing: those that the wheel needs, not weakly, and no library found defines; the interpreter defines ``Py...`` itself.

The wheel is linked with BIND_NOW, so each name must exist for the import to succeed. With torch_npu 2.13.0 no stub is called while it is imported; one that
is called returns 0, CANN's success, and changes nothing. Tensors on an NPU cannot be made; schemas, meta functions and fake tensors work.

Needs gcc, and nm and readelf of binutils. Standard library only; imports neither torch nor torch_npu.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

TOOLS = ("gcc", "nm", "readelf")
SPECIAL = {
    "aclrtGetDeviceCount": "int aclrtGetDeviceCount(unsigned int *count) { *count = 0; return 0; }",
    "aclrtGetSocName": 'const char *aclrtGetSocName(void) { return "Ascend910B3"; }',
}
"""The stubs that have to say something: no device (asked by torch.npu.device_count), and the name of an A2 chip, which must not be a null pointer."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build stand-ins for the CANN libraries that the installed torch_npu links to.")
    parser.add_argument("folder", type=Path, help="where the libraries go; put it into LD_LIBRARY_PATH")
    folder: Path = parser.parse_args(arguments).folder
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise SystemExit(f"cann_stubs: {', '.join(absent)} not found: the stand-ins are C libraries; install gcc and binutils")
    libraries, names = missing()
    if not libraries:
        raise SystemExit("cann_stubs: torch_npu misses no library here: CANN is installed, import torch_npu as it is")
    build(folder, libraries, names)
    print(f"{folder}: {len(libraries)} libraries ({', '.join(libraries)}), {len(names)} functions")


def missing() -> tuple[list[str], list[str]]:
    """The libraries that the wheel needs and nobody has, and the names that it needs and nobody defines, both sorted."""
    wheel, torch = package("torch_npu"), package("torch")
    loaded, absent = sorted(wheel.glob("_C.*.so")), set[str]()
    if not loaded:
        raise SystemExit(f"cann_stubs: no extension module `_C.*.so` in {wheel}")
    for library in loaded:  # grows: libraries that it needs are read too
        for name in needed(library):
            path = next((path for path in (wheel / "lib" / name, torch / "lib" / name, known_to_gcc(name)) if path.is_absolute() and path.exists()), None)
            if path is None and wheel in library.parents:
                absent.add(name)
            if path is not None and path not in loaded:
                loaded.append(path)
    undefined = set[str]().union(*(names_in(library, "--undefined-only") for library in loaded if wheel in library.parents))
    defined = set[str]().union(*(names_in(library, "--defined-only") for library in loaded))
    return sorted(absent), sorted(name for name in undefined - defined if not name.startswith(("Py", "_Py")))


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"cann_stubs: {name} is not installed for {sys.executable}")
    return Path(spec.origin).parent


def needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", "--wide", str(library)))


def known_to_gcc(name: str) -> Path:
    """The path of a system library; the bare name where gcc knows none."""
    return Path(output("gcc", f"-print-file-name={name}").strip())


def names_in(library: Path, which: str) -> set[str]:
    """The dynamic symbols of a library without their versions; undefined ones that may stay so (weak: w, v) are left out."""
    symbols = (line.split()[-2:] for line in output("nm", "--dynamic", which, str(library)).splitlines())
    return {name.partition("@")[0] for kind, name in symbols if kind not in "wv"}


def build(folder: Path, libraries: Iterable[str], names: Iterable[str]) -> None:
    """Every function in the first library and the others empty: the loader looks a name up in all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    source = "".join(f"{SPECIAL.get(name, f'long {name}(void) {{ return 0; }}')}\n" for name in names)
    for library in libraries:
        command = ["gcc", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}", "-x", "c", "-", "-o", str(folder / library)]
        output(*command, given=source)
        source = ""


def output(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cann_stubs: {command[0]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
