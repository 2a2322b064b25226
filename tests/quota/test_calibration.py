"""What is learned from settled requests, and what it says of the next one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import StoreUnavailable
from authz.quota.calibration import (
    FLOOR_TOKENS,
    MAX_SAMPLES,
    MIN_SAMPLES,
    OVERSHOOT_TOKENS,
    OVERSHOTS,
    RESERVED_TOKENS,
    SAMPLES,
    Calibration,
    Expectation,
    Lesson,
    Observed,
    added,
    calibrated,
    cell,
    counts_of,
    expectation,
    upper,
)


def seen(output: int = 100, *, reserved: int = 600, input_bytes: int = 1_000, input_tokens: int = 250) -> Observed:
    return Observed("k", "m", input_bytes, input_tokens, output, reserved)


def learned(*observed: Observed) -> dict[int, int]:
    counts: dict[int, int] = {}
    for each in observed:
        counts = added(counts, counts_of(each))
    return counts


class Store:
    """Lessons in a list; `works` is switched off by a test. `meanwhile` is called while it has them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Lesson] = {}
        self.sequence = 0
        self.works = True
        self.meanwhile: Callable[[], None] = lambda: None
        self.told_ns: list[int] = []

    def learn(self, lessons: tuple[Lesson, ...], now_ns: int) -> None:
        self.meanwhile()
        if not self.works:
            raise StoreUnavailable("made up")
        self.told_ns.append(now_ns)
        for lesson in lessons:
            self.sequence += 1
            name = (lesson.key, lesson.model)
            kept = self.rows[name].counts if name in self.rows else {}
            self.rows[name] = Lesson(*name, added(kept, lesson.counts), self.sequence)

    def learned_since(self, sequence: int, at_most: int) -> tuple[Lesson, ...]:
        assert at_most > 0
        rows = sorted((row for row in self.rows.values() if row.sequence > sequence), key=lambda row: row.sequence)
        return tuple(rows[:at_most])


@given(st.integers(0, 2**39))
def test_a_cell_holds_its_values_and_is_an_eighth_wide(value: int) -> None:
    number = cell(value)
    assert upper(number - 1) < value <= upper(number)
    assert upper(number) - value <= value // 8
    assert cell(upper(number)) == number
    assert cell(upper(number) + 1) == number + 1


def test_cells_are_few_and_every_value_has_one() -> None:
    assert cell(-5) == 0
    assert cell(2**63) == cell(2**40) < 400


def test_nothing_is_expected_until_there_is_enough_to_go_by() -> None:
    few = [seen()] * (MIN_SAMPLES - 1)
    assert expectation(learned(*few)) is None
    assert expectation(learned(*few, seen())) == Expectation(upper(cell(100)), upper(cell(200)))  # 250 of 1,256


def test_nine_in_ten_fit() -> None:
    chance = random.Random(1)
    outputs = [round(chance.lognormvariate(5, 1)) for _ in range(1_500)]
    found = expectation(learned(*(seen(output) for output in outputs)))
    assert found is not None
    exact = sorted(outputs)[1_350]
    assert exact <= found.output_tokens <= exact * 9 // 8
    assert sum(output <= found.output_tokens for output in outputs) >= 1_350


def test_short_prompts_do_not_make_a_long_one_dear() -> None:
    """Most of a short prompt's tokens are its template's."""
    short, long = seen(input_bytes=2, input_tokens=40), seen(input_bytes=12_000, input_tokens=3_000)
    found = expectation(learned(*[short] * 60, *[long] * 40))
    assert found is not None
    assert 3_000 <= found.input_tokens(12_000) <= 3_500
    assert 40 <= found.input_tokens(2) <= 80


def test_an_answer_is_never_expected_to_be_nothing() -> None:
    found = expectation(learned(*[seen(0, input_tokens=0)] * MIN_SAMPLES))
    assert found == Expectation(FLOOR_TOKENS, 0)


def test_the_newest_are_what_speaks() -> None:
    counts = learned(*[seen(1_000)] * MAX_SAMPLES)
    for _ in range(3 * MAX_SAMPLES):
        counts = added(counts, counts_of(seen(10)))
        assert MAX_SAMPLES // 2 <= counts[SAMPLES] <= MAX_SAMPLES
    found = expectation(counts)
    assert found is not None
    assert found.output_tokens == 10


@given(st.lists(st.dictionaries(st.integers(0, 3_400), st.integers(0, 5_000)), max_size=20))
def test_counts_stay_bounded_and_positive(lessons: list[dict[int, int]]) -> None:
    counts: dict[int, int] = {}
    for lesson in lessons:
        counts = added(counts, lesson)
        assert counts.get(SAMPLES, 0) <= MAX_SAMPLES
        assert all(count > 0 for count in counts.values())


@pytest.mark.parametrize(
    ("kept", "more", "sum_"),
    [
        ({}, {}, {}),
        ({5: 1}, {5: 2, 6: 1}, {5: 3, 6: 1}),
        ({5: 1}, {5: -1, 6: -2}, {}),
        ({SAMPLES: MAX_SAMPLES - 1, 5: 7}, {SAMPLES: 1}, {SAMPLES: MAX_SAMPLES, 5: 7}),
        ({SAMPLES: MAX_SAMPLES, 5: 7, 6: 1}, {SAMPLES: 1}, {SAMPLES: MAX_SAMPLES // 2, 5: 3}),
        ({SAMPLES: MAX_SAMPLES, 5: 9}, {SAMPLES: 3 * MAX_SAMPLES}, {SAMPLES: MAX_SAMPLES, 5: 2}),
        ({SAMPLES: MAX_SAMPLES, 5: 9}, {SAMPLES: 3 * MAX_SAMPLES + 4}, {SAMPLES: MAX_SAMPLES // 2, 5: 1}),
    ],
)
def test_counts_are_added_and_halved_above_the_most(kept: dict[int, int], more: dict[int, int], sum_: dict[int, int]) -> None:
    before = (dict(kept), dict(more))
    assert added(kept, more) == sum_
    assert (kept, more) == before


@pytest.mark.parametrize(
    ("observed", "counts"),
    [
        (seen(), {0: 1, 3: 600, 1_000 + cell(100): 1, 2_000 + cell(200): 1, 3_000 + cell(583): 1}),
        (seen(350), {0: 1, 3: 600, 1_000 + cell(350): 1, 2_000 + cell(200): 1, 3_000 + cell(1_000): 1}),
        (seen(351), {0: 1, 1: 1, 2: 1, 3: 600, 1_000 + cell(351): 1, 2_000 + cell(200): 1, 3_000 + cell(1_001): 1}),
        (seen(2, reserved=1, input_tokens=0), {0: 1, 1: 1, 2: 1, 3: 1, 1_002: 1, 2_000: 1, 3_000 + cell(2_000): 1}),
        (  # at the very end of a cell, both
            Observed("k", "m", 744, 1_023, 0, 1_000),
            {0: 1, 1: 1, 2: 23, 3: 1_000, 1_000: 1, 2_000 + cell(1_023): 1, 3_000 + cell(1_023): 1},
        ),
        (seen(0, reserved=0, input_tokens=0), {0: 1, 3: 0, 1_000: 1, 2_000: 1}),
        (seen(0, reserved=9, input_tokens=2), {0: 1, 3: 9, 1_000: 1, 2_002: 1, 3_000 + cell(222): 1}),  # 2 of 1,256: rounded up
    ],
)
def test_the_cells_of_a_request_are_the_same_in_every_version(observed: Observed, counts: dict[int, int]) -> None:
    """They lie in data bases, and several versions may add to them."""
    assert counts_of(observed) == counts


@pytest.mark.parametrize(
    ("input_bytes", "millitokens", "tokens"), [(0, 0, 0), (0, 1, 1), (744, 250, 250), (745, 250, 251), (1, 4, 2)]
)
def test_the_tokens_of_a_text_are_rounded_up(input_bytes: int, millitokens: int, tokens: int) -> None:
    assert Expectation(8, millitokens).input_tokens(input_bytes) == tokens


@pytest.mark.parametrize(
    ("small", "large", "expected"), [(1_800, 200, 10), (1_799, 201, 900), (27, 3, 10), (26, 4, 900), (0, 30, 900)]
)
def test_the_quantile_is_the_least_that_nine_in_ten_do_not_exceed(small: int, large: int, expected: int) -> None:
    counts = {
        SAMPLES: small + large,
        1_000 + cell(10): small,
        1_000 + cell(900): large,
        2_000 + cell(1): small,
        2_000 + cell(7): large,
    }
    assert expectation(counts) == Expectation(upper(cell(expected)), 1 if expected == 10 else 7)


def test_empty_answers_count_among_the_others() -> None:
    found = expectation(learned(*[seen(0)] * 95, *[seen(900)] * 5))
    assert found is not None
    assert found.output_tokens == FLOOR_TOKENS


def test_the_order_in_which_replicas_report_does_not_matter_below_the_most() -> None:
    one, two = learned(*[seen(10)] * 40), learned(*[seen(900)] * 7)
    assert added(one, two) == added(two, one)


def test_the_report_tells_errors_and_overshoot() -> None:
    row = calibrated(Lesson("k", "m", learned(*[seen(150, reserved=500)] * 90, *[seen(750, reserved=500)] * 10)))
    assert (row.key, row.model, row.samples) == ("k", "m", 100)
    assert row.error_p50_permille == upper(cell(800))
    assert row.error_p90_permille == upper(cell(800))
    assert (row.overshots, row.overshoot_permille) == (10, 100)  # 5,000 tokens over 50,000
    halves = {3_000 + cell(100): 500, 3_000 + cell(200): 400, 3_000 + cell(300): 100}
    row = calibrated(Lesson("k", "m", {SAMPLES: 1_000, RESERVED_TOKENS: 70, OVERSHOTS: 3, OVERSHOOT_TOKENS: 8} | halves))
    assert (row.error_p50_permille, row.error_p90_permille) == (upper(cell(100)), upper(cell(200)))
    assert (row.samples, row.overshots, row.overshoot_permille) == (1_000, 3, 114)  # 8 of 70 is 114.3
    assert row.expectation == Expectation(FLOOR_TOKENS, 0)
    assert calibrated(Lesson("k", "m", {RESERVED_TOKENS: 1_000, OVERSHOOT_TOKENS: 1_000})).overshoot_permille == 1_000
    none_over = calibrated(Lesson("k", "m", learned(seen(1, reserved=500))))
    assert (none_over.samples, none_over.overshots, none_over.overshoot_permille) == (1, 0, 0)
    empty = calibrated(Lesson("k", "m", {}))
    assert (empty.overshots, empty.error_p90_permille) == (0, 0)
    assert (empty.samples, empty.expectation, empty.error_p50_permille, empty.overshoot_permille) == (0, None, 0, 0)


def test_a_request_without_text_or_reservation_teaches_what_it_can() -> None:
    counts = counts_of(seen(10, reserved=0, input_bytes=0))
    assert calibrated(Lesson("k", "m", counts)).error_p90_permille == 0
    assert calibrated(Lesson("k", "m", counts)).overshots == 1


def test_what_one_process_sees_every_process_knows() -> None:
    store = Store()
    one, two = Calibration(store), Calibration(store)
    for _ in range(MIN_SAMPLES):
        one.observe(seen(40))
    two.refresh()
    assert two.find("k", "m") is None
    one.flush(0)
    for calibration in (one, two):
        calibration.refresh()
        found = calibration.find("k", "m")
        assert found is not None
        assert found.output_tokens == upper(cell(40))
        assert calibration.find("k", "other") is None
        assert calibration.find("other", "m") is None
    before = store.sequence
    one.flush(0)
    assert store.sequence == before  # nothing new is nothing written


def test_what_a_store_does_not_take_is_kept() -> None:
    store = Store()
    calibration = Calibration(store)
    store.works = False
    for _ in range(3):
        calibration.observe(seen())
        with pytest.raises(StoreUnavailable):
            calibration.flush(0)
    store.meanwhile = lambda: calibration.observe(seen())  # another thread, just then
    with pytest.raises(StoreUnavailable):
        calibration.flush(0)
    store.works = True
    store.meanwhile = lambda: None
    calibration.flush(77)
    assert store.rows["k", "m"].counts[SAMPLES] == 4
    assert store.told_ns == [77]


def test_all_that_fits_is_known_however_many_pages_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.quota.calibration._MAX_KNOWN", 4)
    monkeypatch.setattr("authz.quota.calibration._PAGE", 2)
    store = Store()
    for number in range(4):
        store.learn((Lesson(f"k{number}", "m", learned(*[seen()] * MIN_SAMPLES)),), 0)
    calibration = Calibration(store)
    calibration.refresh()
    assert None not in [calibration.find(f"k{number}", "m") for number in range(4)]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.quota.calibration._MAX_LEARNING", 5)
    monkeypatch.setattr("authz.quota.calibration._MAX_KNOWN", 5)
    monkeypatch.setattr("authz.quota.calibration._PAGE", 2)
    store = Store()
    calibration = Calibration(store)
    for number in range(9):
        for _ in range(MIN_SAMPLES):
            calibration.observe(Observed(f"k{number}", "m", 10, 5, 5, 5))
    calibration.flush(0)
    assert len(store.rows) == 5
    for number in range(9):
        store.learn((Lesson(f"l{number}", "m", learned(*[seen()] * MIN_SAMPLES)),), 0)
    calibration.refresh()
    assert len(calibration._known) <= 5
    assert calibration.find("l8", "m") is not None
