"""The upstream's own limits: what is left of them, and that one team cannot starve the others when that is little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.model import Meter, UpstreamLimit, UpstreamRoom
from authz.quota.headroom import LOW_PERCENT, MAX_POOLS, MAX_TAKEN, MAX_WAIT_S, Crowded, Headroom

S = 10**9
T0 = 1_795_996_800 * S


def said(
    remaining: int, *, limit: int = 1000, reset_s: float = 60, at_ns: int = T0, meter: Meter = Meter.TOKENS
) -> UpstreamLimit:
    return UpstreamLimit(meter, limit, remaining, round(reset_s * S), at_ns)


def heard(*limits: UpstreamLimit) -> Headroom:
    made = Headroom()
    made.learn("default", "m", limits)
    return made


def ask(
    it: Headroom, team: str, tokens: int = 100, now_ns: int = T0, model: str = "m", upstream: str = "default"
) -> Crowded | None:
    """As a decision does: look, and take where nothing speaks against it."""
    found = it.look(upstream, model, team, tokens, now_ns)
    if found is None:
        it.take(upstream, model, team, tokens, now_ns)
    return found


def left(it: Headroom, now_ns: int = T0) -> int:
    (room,) = it.rooms(now_ns)
    return room.left


# ---- what is left


def test_what_is_left_flows_back_and_is_taken() -> None:
    it = heard(said(400, reset_s=60))
    assert left(it) == 400
    assert left(it, T0 + 30 * S) == 700
    assert left(it, T0 + 60 * S) == left(it, T0 + 600 * S) == 1000
    assert ask(it, "a", 300, T0 + 1) is None
    assert left(it, T0 + 1) == 100
    assert it.rooms(T0 + 1) == (UpstreamRoom("default", "m", Meter.TOKENS, 1000, 100, 1, T0),)


def test_an_answer_counts_what_was_taken_before_it_and_an_older_one_says_nothing() -> None:
    it = heard(said(900))
    ask(it, "a", 300, T0 + 1 * S)
    it.learn("default", "m", [said(650, at_ns=T0 + 2 * S)])
    assert left(it, T0 + 2 * S) == 650
    it.learn("default", "m", [said(5, at_ns=T0 + 1 * S)])
    assert left(it, T0 + 2 * S) == 650


def test_what_was_taken_and_never_answered_is_forgotten_with_the_window() -> None:
    it = heard(said(1000, reset_s=0))
    ask(it, "a", 900, T0 + 1)
    assert left(it, T0 + 2) == 100
    assert left(it, T0 + 60 * S) == 100
    assert left(it, T0 + 60 * S + 1) == 1000


def test_of_two_answers_at_one_instant_the_one_heard_last_counts_and_what_was_taken_then_is_in_it() -> None:
    it = heard(said(900))
    ask(it, "a", 300, T0)
    it.learn("default", "m", [said(650)])
    assert left(it) == 650
    it.learn("default", "m", [said(600)])
    assert left(it) == 600


@pytest.mark.parametrize(
    ("remaining", "reset_s", "after_s", "expected"),
    [
        (1000, 60, 0, 1000),
        (5000, 60, 0, 1000),  # more than there is
        (0, 0, 0, 1000),  # it has flowed back already
        (401, 60, 7, 470),  # 599 * 7 / 60 is 69.9: what is not whole is not there
        (0, 60, -5, 0),  # by a clock that is behind the receipt's
        (0, 60, 59.999, 999),
    ],
)
def test_what_flows_back_is_whole_and_in_proportion(remaining: int, reset_s: float, after_s: float, expected: int) -> None:
    assert left(heard(said(remaining, reset_s=reset_s)), T0 + round(after_s * S)) == expected


def test_every_request_is_one_of_the_requests_and_its_tokens_of_the_tokens() -> None:
    it = heard(said(1000), said(50, limit=100, meter=Meter.REQUESTS, reset_s=80_000))
    ask(it, "a", 30, T0 + 1)
    ask(it, "a", 0, T0 + 2)
    requests, tokens = it.rooms(T0 + 2)
    assert (requests.meter, requests.left, tokens.meter, tokens.left) == (Meter.REQUESTS, 48, Meter.TOKENS, 970)


def test_a_limit_that_groq_does_not_announce_is_not_watched() -> None:
    assert heard(said(5, meter=Meter.SPEND)).rooms(T0) == ()


def test_who_asks_for_a_model_beyond_those_that_are_watched_goes_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.quota.headroom.MAX_POOLS", 2)
    it = heard(said(0), said(0, meter=Meter.REQUESTS, reset_s=80_000))
    it.learn("default", "another", [said(0)])
    for team in ("a", "b", "a", "b"):
        assert ask(it, team, 500, model="another") is None
    assert [room.model for room in it.rooms(T0)] == ["m", "m"]


def test_what_no_longer_fits_into_memory_is_taken_all_the_same() -> None:
    it = heard(said(100_000, limit=100_000))
    for number in range(MAX_TAKEN + 10):
        it.take("default", "m", "a", 3, T0 + 1 + number)
    assert left(it, T0 + MAX_TAKEN + 20) == 100_000 - 3 * (MAX_TAKEN + 10)


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 200_000_000_000)), max_size=40),
    st.integers(0, 5000),
    st.integers(0, 300),
)
def test_what_is_left_is_never_below_nothing_nor_above_the_limit(
    takes: list[tuple[int, int]], remaining: int, reset_s: int
) -> None:
    it = heard(said(remaining, reset_s=reset_s))
    now_ns = T0
    for tokens, later_ns in takes:
        now_ns += later_ns
        ask(it, "a", tokens, now_ns)
        assert 0 <= left(it, now_ns) <= 1000


# ---- who may have it


def test_with_enough_left_nobody_waits() -> None:
    it = heard(said(1000))
    assert ask(it, "b", 1) is None
    assert all(ask(it, "a", 100) is None for _ in range(7))


def test_alone_a_team_may_have_all_of_it() -> None:
    it = heard(said(1000))
    assert all(ask(it, "a", 100) is None for _ in range(20)), "the upstream's own 429 is the last word"


def test_a_team_above_its_share_waits_while_another_asks() -> None:
    it = heard(said(1000))
    ask(it, "b", 10)
    answers = [ask(it, "a", 100) for _ in range(20)]
    assert [answer is None for answer in answers] == [True] * 7 + [False] * 13
    refused = answers[-1]
    assert refused is not None
    assert (refused.limit, refused.left, refused.used, refused.share) == (1000, 290, 700, 500)
    assert refused.wait_s == 1  # ten tokens at a thousand a minute
    assert ask(it, "b", 200) is None, "and the other has what was kept for it"


@pytest.mark.parametrize(
    ("used", "amount", "refused"),
    [
        (450, 101, True),  # one below the last fifth, and one above the share
        (450, 100, False),  # the last fifth is still there
        (399, 101, False),  # exactly its share
        (400, 101, True),
    ],
)
def test_a_team_is_held_back_below_the_last_fifth_and_above_its_share_and_not_before(
    used: int, amount: int, refused: bool
) -> None:
    it = heard(said(1000))
    it.take("default", "m", "b", 1, T0)
    it.take("default", "m", "a", used, T0)
    it.learn("default", "m", [said(300)])
    assert (it.look("default", "m", "a", amount, T0) is not None) is refused


def test_the_last_fifth_and_the_shares_are_whole_numbers_rounded_down() -> None:
    it = heard(said(299, limit=999))
    for team in ("a", "b", "c", "d"):
        it.take("default", "m", team, 300, T0)
    it.learn("default", "m", [said(299, limit=999)])
    assert it.look("default", "m", "a", 100, T0) is None  # leaves 199; a fifth is 199.8
    assert it.look("default", "m", "a", 101, T0) == Crowded(Meter.TOKENS, 999, 299, 300, 249, 1)


@pytest.mark.parametrize(("amount", "wait_s"), [(101, 1), (116, 1), (117, 2), (600, 30), (1_100, 60), (2_000, MAX_WAIT_S)])
def test_the_wait_is_until_so_much_has_flowed_back_in_whole_seconds_rounded_up(amount: int, wait_s: int) -> None:
    it = heard(said(1000))
    it.take("default", "m", "b", 1, T0)
    it.take("default", "m", "a", 500, T0)
    it.learn("default", "m", [said(300)])
    refused = it.look("default", "m", "a", amount, T0)
    assert refused is not None
    assert refused.wait_s == wait_s


@pytest.mark.parametrize("limit", [0, 1])
def test_of_next_to_nothing_one_waits_as_long_as_anybody_has_to(limit: int) -> None:
    it = heard(said(0, limit=limit))
    for team in ("a", "b"):
        it.take("default", "m", team, 1, T0)
    assert it.look("default", "m", "a", 1, T0) == Crowded(Meter.TOKENS, limit, 0, 1, 0, MAX_WAIT_S)


@pytest.mark.parametrize(
    ("tokens_left", "told", "wait_s"), [(200, Meter.TOKENS, 6), (0, Meter.TOKENS, 18), (300, Meter.REQUESTS, 1)]
)
def test_of_two_limits_the_one_that_waits_longer_is_told(tokens_left: int, told: Meter, wait_s: int) -> None:
    it = Headroom()
    for team in range(100):
        it.take("default", "m", f"t{team}", 1, T0)
    for _ in range(870):
        it.take("default", "m", "a", 1, T0)
    requests = said(
        17_280, limit=86_400, meter=Meter.REQUESTS, reset_s=80_000
    )  # a fifth: one more is one too many for a second
    it.learn("default", "m", [said(tokens_left), requests])
    found = it.look("default", "m", "a", 100, T0)
    assert found is not None
    assert (found.meter, found.wait_s) == (told, wait_s)
    found = it.look("default", "m", "a", 0, T0)
    assert found is not None
    assert (found.meter, found.used, found.share, found.wait_s) == (Meter.REQUESTS, 870, 855, 1)


def test_what_a_team_has_used_is_forgotten_by_twelfths_of_the_window() -> None:
    it = heard(said(0, reset_s=10_000))
    it.take("default", "m", "a", 300, T0)
    it.take("default", "m", "a", 50, T0 + 5 * S)
    it.take("default", "m", "a", 7, T0 + 3 * S)  # late: counted from now on all the same

    def used(after_s: float) -> int:
        now_ns = T0 + round(after_s * S)
        it.learn("default", "m", [said(0, at_ns=now_ns)])
        ask(it, "b", 0, now_ns)
        it.take("default", "m", "b", 0, now_ns)
        it.look("default", "m", "b", 1, now_ns)
        found = it.look("default", "m", "a", 600, now_ns)
        assert found is not None
        assert (found.share, found.left) == (500, 0)
        return found.used

    assert [used(after_s) for after_s in (5, 59.9, 60, 64.9, 65, 3_600)] == [357, 357, 57, 57, 0, 0]


def test_who_asked_one_window_ago_is_not_asking_any_more() -> None:
    it = heard(said(1000))
    it.take("default", "m", "a", 1, T0)
    assert [room.teams for room in it.rooms(T0 + 60 * S - 1)] == [1]
    assert [room.teams for room in it.rooms(T0 + 60 * S)] == [0]


def test_it_goes_on_once_it_has_flowed_back_or_the_other_has_gone() -> None:
    it = heard(said(100))
    ask(it, "b", 10)
    it.take("default", "m", "a", 600, T0)
    refused = ask(it, "a", 100)
    assert refused is not None
    it.learn("default", "m", [said(210, at_ns=T0 + 1 * S, reset_s=47)])
    assert ask(it, "a", 100, T0 + 2 * S) is not None
    assert ask(it, "a", 100, T0 + 10 * S) is None
    it.learn("default", "m", [said(0, at_ns=T0 + 59 * S)])
    assert ask(it, "a", 100, T0 + 70 * S) is None, "the other has not asked for a minute"


def test_who_is_refused_goes_on_asking_and_still_counts() -> None:
    it = heard(said(0))
    it.take("default", "m", "a", 900, T0)
    assert ask(it, "b", 100) is None
    it.take("default", "m", "b", 600, T0)
    assert ask(it, "a") is not None
    assert ask(it, "b") is not None


def test_models_keys_and_meters_are_apart() -> None:
    it = heard(said(0), said(0, limit=100, reset_s=80_000, meter=Meter.REQUESTS))
    it.take("default", "m", "a", 900, T0)
    ask(it, "b", 1)
    assert ask(it, "a") is not None
    assert ask(it, "a", model="other") is None
    assert ask(it, "a", upstream="second") is None
    for _ in range(60):
        it.take("default", "m", "c", 0, T0 + 120 * S)
    found = ask(it, "c", 0, T0 + 120 * S)  # audio: no tokens, and sixty requests of a hundred for three teams
    assert found is not None
    assert (found.meter, found.share, found.wait_s) == (Meter.REQUESTS, 33, MAX_WAIT_S)


def test_an_answer_from_long_ago_holds_nobody_back() -> None:
    it = heard(said(0, reset_s=10_000))
    it.take("default", "m", "a", 900, T0)
    ask(it, "b", 1, T0 + 59 * S)
    assert ask(it, "a", 900, T0 + 60 * S - 1) is not None
    assert ask(it, "a", 900, T0 + 60 * S) is None


def test_memory_is_bounded() -> None:
    it = heard(said(1000))
    for number in range(MAX_TAKEN * 2):
        it.take("default", "m", f"team-{number}", 0 if number else 1, T0 + number)
    assert left(it, T0 + MAX_TAKEN * 2) == 999
    for number in range(MAX_POOLS + 50):
        it.learn("default", f"m{number}", [said(1)])
    assert len(it.rooms(T0 + 3600 * S)) == MAX_POOLS - 1  # one is that of "m"'s requests, of which nothing was said
    assert {room.teams for room in it.rooms(T0 + 3600 * S)} == {0}


class Groq:
    """A bucket that flows back evenly, and refuses what does not fit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level, self.at_ns = limit, float(limit), T0

    def take(self, tokens: int, now_ns: int) -> bool:
        self.level = min(self.limit, self.level + self.limit * (now_ns - self.at_ns) / (60 * S))
        self.at_ns = now_ns
        fits = self.level >= tokens
        self.level -= tokens if fits else 0
        return fits

    def says(self) -> UpstreamLimit:
        reset_ns = round((self.limit - self.level) / self.limit * 60 * S)
        return UpstreamLimit(Meter.TOKENS, self.limit, int(self.level), reset_ns, self.at_ns)


@settings(max_examples=settings().max_examples // 4, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda others: st.lists(st.integers(20, 90), min_size=others, max_size=others)),
    st.integers(50, 150),
    st.integers(50, 2_000),
)
def test_one_team_cannot_starve_the_others(percents: list[int], greedy_tokens: int, greedy_every_ms: int) -> None:
    """The greedy team asks for far more than there is. The others ask for most of their share, evenly: Groq takes every one
    of their requests, and the greedy team gets at least its own share."""
    limit, minutes, step_ms = 10_000, 2, 50
    groq, it, names = Groq(limit), Headroom(), [f"t{number}" for number in range(len(percents))]
    share = limit // (len(percents) + 1)
    due = dict.fromkeys(names, 50.0)  # they are there from the first: who is alone may have all of it
    got = refused = 0
    for now_ms in range(0, minutes * 60_000, step_ms):
        now_ns = T0 + now_ms * 10**6
        for name, percent in zip(names, percents, strict=True):
            due[name] += share * percent / 100 * step_ms / 60_000
            if due[name] >= 50:
                due[name] -= 50
                assert ask(it, name, 50, now_ns) is None
                assert groq.take(50, now_ns), "starved"
                it.learn("default", "m", [groq.says()])
        if now_ms % greedy_every_ms < step_ms:
            for _ in range(5):
                if ask(it, "greedy", greedy_tokens, now_ns) is None:
                    assert groq.take(greedy_tokens, now_ns)
                    got += greedy_tokens
                    it.learn("default", "m", [groq.says()])
                else:
                    refused += 1
    wanted = 5 * greedy_tokens * len(range(0, minutes * 60_000, max(step_ms, greedy_every_ms)))
    assert got >= min(wanted * 0.9, share * (minutes - 1))
    assert refused > 0 or wanted < limit * (100 - LOW_PERCENT) // 100 + limit * minutes


def test_a_burst_before_any_answer_leaves_the_last_fifth() -> None:
    it = heard(said(1000))
    ask(it, "b", 1, T0 + 1)
    taken = sum(10 for _ in range(200) if ask(it, "a", 10, T0 + 2) is None)
    assert 780 <= taken <= 800
