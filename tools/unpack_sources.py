"""Unpack the Python of the source distributions of vllm and vllm-ascend, and put it on the path of the interpreter that runs this.

Used by ``make test-vllm-ascend`` after ``pip download``. Nothing is built and nothing is changed: the packages, their tests and their metadata are taken as
they are, the C++, CUDA and Rust beside them are not. Their ``*.egg-info`` lies next to them, so ``importlib.metadata`` knows both versions and their entry
points (vllm finds its platform that way). Standard library only.
"""

from __future__ import annotations

import argparse
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

TAKEN = ("vllm", "vllm.egg-info", "vllm_ascend", "vllm_ascend.egg-info", "PKG-INFO", "LICENSE", "pyproject.toml")
"""Top-level entries of both archives."""
TESTS = ("tests/__init__.py", "tests/ut")
"""Of vllm-ascend. They go into a folder of their own, which is not on the path: a package called ``tests`` would hide ours."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Unpack the Python of source distributions and put it on this interpreter's path.")
    parser.add_argument("archives", type=Path, help="the folder that pip downloaded into")
    parser.add_argument("folder", type=Path, help="where the sources go")
    given = parser.parse_args(arguments)
    roots = [unpack(archive, given.folder) for archive in sorted(given.archives.glob("*.tar.gz"))]
    if not roots:
        raise SystemExit(f"unpack_sources: no source distribution in {given.archives}")
    path = Path(sysconfig.get_path("purelib")) / "sources.pth"
    path.write_text("".join(f"{root.resolve()}\n" for root in roots), encoding="utf-8")
    print(f"{path}: {', '.join(root.name for root in roots)}")


def unpack(archive: Path, folder: Path) -> Path:
    """The root folder of the archive below ``folder``."""
    with tarfile.open(archive) as tar:
        inside = {member: PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in tar.getmembers()}
        tar.extractall(folder, members=[member for member, path in inside.items() if path.parts[:1] and path.parts[0] in TAKEN], filter="data")
        tar.extractall(folder / "unit_tests", members=[_moved(member, path) for member, path in inside.items() if _is_test(path)], filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _is_test(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(part) for part in TESTS)


def _moved(member: tarfile.TarInfo, path: PurePosixPath) -> tarfile.TarInfo:
    return member.replace(name=str(path))


if __name__ == "__main__":
    main()
