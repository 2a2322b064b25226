"""One target under atheris: `python -m tests.fuzz.run TARGET [options and corpus folders of libFuzzer's]`."""

from __future__ import annotations

import importlib
import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # it is made for some platforms only


def main() -> None:
    with atheris.instrument_imports(include=["authz", "python_multipart"]):
        module = importlib.import_module(f"tests.fuzz.{sys.argv[1]}")
        one = module.target()
        for seed in module.SEEDS:  # what is imported where it is needed is instrumented too
            one(seed)

    def test_one_input(data: bytes) -> None:
        one(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
