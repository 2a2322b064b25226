"""Ids of decisions and reservations: 128 bits that nobody else has, whoever asks for them and from where."""

from __future__ import annotations

import os
import threading

from authz.compose import new_id


def test_no_two_are_alike_in_threads() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(new_id() for _ in range(2_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16_000
    assert {len(each) for each in found} == {32}
    assert set("".join(found)) == set("0123456789abcdef")


def test_a_forked_child_has_none_of_its_parents() -> None:
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        drawn = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {drawn[at : at + 32] for at in range(0, len(drawn), 32)}
    assert len(theirs) == 100
    assert theirs.isdisjoint(new_id() for _ in range(100))
