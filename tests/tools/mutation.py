"""mutmut with the tests collected once, before the first fork: `python tests/tools/mutation.py run [PATTERN …]`.

By its path and not as a module: `tests` has to be the copy that mutmut makes.

By itself it collects them anew for each mutant, which takes several times as long as to run those that kill it. And it gives a
mutant up by the clock, so that a busy machine counts as killed what it has only slowed down; here only the mutant's own
processor time counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pytest
from _pytest.config import _prepareconfig  # what `pytest.main` does is not to be had in parts
from mutmut.__main__ import cli
from mutmut.runners.harness import PytestRunner
from mutmut.utils.file_utils import change_cwd
from mutmut.workers import isolation

MAX_CPU_S: Final = 20
"""A mutant that takes longer never ends."""


class Collected(PytestRunner):
    """Runs a mutant's tests in the session that its parent has collected."""

    session: pytest.Session | None = None

    def collect(self) -> None:
        quiet = ["--rootdir=.", "--tb=no", "--capture=no", "-x", "-q"]
        with change_cwd("mutants"):
            config = _prepareconfig([*quiet, *self._pytest_add_cli_args, *self._pytest_add_cli_args_test_selection])
            config._do_configure()
            self.session = pytest.Session.from_config(config)
            config.hook.pytest_sessionstart(session=self.session)
            config.hook.pytest_collection(session=self.session)
        self._items = {item.nodeid: item for item in self.session.items}

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        session = self.session
        if session is None or mutant_name is None:
            return super().run_tests(mutant_name=mutant_name, tests=tests)
        session.items = [self._items[name] for name in tests if name in self._items]
        with change_cwd("mutants"):
            try:
                session.config.hook.pytest_runtestloop(session=session)
            except session.Failed:
                return 1
        return 1 if session.testsfailed else 0


class Runner(isolation.ForkRunner):
    def startup(self) -> None:
        assert isinstance(self.test_runner, Collected)
        self.test_runner.collect()
        super().startup()

    def submit(self, mutant_name: str, tests: list[str], cpu_time_limit: int, estimated_time: float) -> None:
        super().submit(mutant_name, tests, min(cpu_time_limit, MAX_CPU_S), 60 * estimated_time)


def main() -> None:
    # mutmut has no other place to say so
    setattr(isolation, "PytestRunner", Collected)  # noqa: B010
    setattr(isolation, "ForkRunner", Runner)  # noqa: B010
    cli()


if __name__ == "__main__":
    main()
