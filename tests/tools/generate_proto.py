"""Regenerate the wire types: `proto/**.proto` → Python modules with their stubs. `make proto` runs it.

It also renews `agreed.json`, the API as clients have it, and refuses to where a change would break them. Who means to do that
removes the file first, and a reviewer sees it.

A `.proto` file lives under its protobuf package, the module under the Python package that owns it; protoc knows one place
only, so its output is generated aside and the imports between generated modules are turned to where they end up.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final[dict[str, str]] = {"authz/envoy/v3": "authz/envoy/wire", "authz/v1": "authz/api/wire"}
"""Folder under `proto/` → folder of the generated modules, both relative to the repository."""

OURS: Final = "proto/authz/v1"
AGREED: Final = ROOT / OURS / "agreed.json"
_BUF: Final = str(Path(sys.executable).parent / "buf")
_FOUND: Final = 100
"""Its exit code for a change that breaks something."""


def generate(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file by its path relative to the repository. Raises CalledProcessError when protoc refuses an input."""
    files: dict[Path, str] = {}
    # The plugin is a console script beside this interpreter, which need not be on PATH.
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'proto'}", f"--plugin=protoc-gen-mypy={plugin}"]
    with tempfile.TemporaryDirectory() as aside:
        for package, target in PACKAGES.items():
            sources = sorted((root / "proto" / package).glob("*.proto"))
            subprocess.run([*protoc, f"--python_out={aside}", f"--mypy_out=quiet:{aside}", *map(str, sources)], check=True)
            for made in sorted((Path(aside) / package).glob("*_pb2.py*")):
                files[Path(target) / made.name] = _turn_imports(made.read_text(encoding="utf-8"), package, target)
    return files


def _turn_imports(text: str, package: str, target: str) -> str:
    """Point import lines from `package` to `target`; the serialized descriptor names the package too and must stay."""
    old, new = package.replace("/", "."), target.replace("/", ".")
    return re.sub(rf"^from {re.escape(old)} import", f"from {new} import", text, flags=re.MULTILINE)


def breaking(root: Path = ROOT) -> str:
    """What in `root`, a tree like ours, would break clients of the agreed API; empty for nothing."""
    command = [_BUF, "breaking", "--against", str(AGREED)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode not in (0, _FOUND):
        raise RuntimeError(done.stderr)
    return done.stdout


def as_agreed(root: Path = ROOT) -> bytes:
    """The API in `root`, as `agreed.json` has it. Raises CalledProcessError."""
    command = [_BUF, "build", "--path", OURS, "--exclude-source-info", "-o", "-#format=json"]
    built = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    return msgspec.json.format(built, indent=1) + b"\n"


def main() -> None:
    for path, text in generate().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    if AGREED.exists() and (found := breaking()):
        sys.exit(f"this breaks clients of authz.v1:\n{found}")
    AGREED.write_bytes(as_agreed())


if __name__ == "__main__":
    main()
