"""A second try when the first is late: which wins, what happens to the others, what it may cost."""

import math

import pytest
import trio

from nursery_patterns import HedgePolicy, HedgeStatistics, hedged
from nursery_patterns.testing import InFlightGauge, cancel_at_every_checkpoint


class Server:
    """Answers its n-th request after the n-th number of seconds; a negative one fails then."""

    def __init__(self, *seconds):
        self.seconds = seconds
        self.asked = []
        self.cut = []
        self.gauge = InFlightGauge()

    async def __call__(self, question):
        number = len(self.asked)
        self.asked.append(trio.current_time())
        seconds = self.seconds[number]
        try:
            with self.gauge:
                await trio.sleep(abs(seconds))
        except trio.Cancelled:
            self.cut.append(number)
            raise
        if seconds < 0:
            raise ValueError(f"try {number + 1}")
        return question, number


async def test_a_try_in_time_is_the_only_one(autojump_clock):
    server = Server(0.4)
    assert await hedged(server, "q", delay=0.5) == ("q", 0)
    assert (server.asked, trio.current_time()) == ([0], 0.4)


@pytest.mark.parametrize(
    ("seconds", "winner", "asked", "ended", "cut"),
    [
        ((9, 1), 1, [0, 0.5], 1.5, [0]),
        ((0.75, 1), 0, [0, 0.5], 0.75, [1]),
        ((9, 9, 1), 2, [0, 0.5, 1], 2, [0, 1]),
        ((9, -0.25, 1), 2, [0, 0.5, 1], 2, [0]),
        ((-0.75, 1), 1, [0, 0.5], 1.5, []),
    ],
)
async def test_the_first_success_wins_and_the_others_are_cancelled_and_awaited(
    seconds, winner, asked, ended, cut, autojump_clock
):
    server = Server(*seconds)
    assert await hedged(server, "q", delay=0.5, attempts=3 if len(seconds) > 2 else 2) == (
        "q",
        winner,
    )
    assert (server.asked, trio.current_time(), sorted(server.cut)) == (asked, ended, cut)
    assert server.gauge.now == 0


async def test_a_failure_starts_no_other_try(autojump_clock):
    server = Server(-0.25, 1)
    with pytest.raises(ValueError, match=r"^try 1$"):
        await hedged(server, "q", delay=0.5)
    assert (server.asked, trio.current_time()) == ([0], 0.25)


async def test_when_all_fail_the_earliest_failure_is_raised_with_a_note_of_the_others(
    autojump_clock,
):
    with pytest.raises(ValueError, match=r"^try 1\b") as caught:
        await hedged(Server(-2, -0.5), "q", delay=0.5)
    assert caught.value.__notes__ == ["try 2 failed too: ValueError('try 2')"]
    assert trio.current_time() == 2


async def test_a_loser_that_fails_while_it_is_cancelled_takes_nothing_from_the_winner(
    autojump_clock,
):
    async def answer(_):
        if trio.current_time() > 0:
            return "won"
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("unwinding")

        return None

    assert await hedged(answer, "q", delay=0.5) == "won"


async def test_without_a_delay_all_tries_start_at_once(autojump_clock):
    server = Server(3, 2, 1)
    assert await hedged(server, "q", delay=0, attempts=3) == ("q", 2)
    assert (server.asked, trio.current_time()) == ([0, 0, 0], 1)


async def test_the_delay_follows_what_calls_took_of_late(autojump_clock):
    policy = HedgePolicy(percentile=0.95, initial=7, budget=1)
    assert policy.delay == 7
    for tenths in range(1, 21):
        await hedged(Server(tenths / 10), "q", delay=policy)
    assert policy.delay == pytest.approx(1.9)
    server = Server(9, 1)
    started = trio.current_time()
    assert await hedged(server, "q", delay=policy) == ("q", 1)
    assert server.asked[1] - started == pytest.approx(1.9)


async def test_a_budget_bounds_further_tries_to_a_share_of_calls(autojump_clock):
    policy = HedgePolicy(0.5, budget=0.1)
    for _ in range(200):
        await hedged(Server(1, 1), "q", delay=policy)
    assert policy.statistics() == HedgeStatistics(0.5, 200, 20, 180, 0)
    assert repr(policy) == "<HedgePolicy: late after 0.5 s, 20 of 200>"


async def test_a_quiet_time_saves_up_ten_tries_at_most(autojump_clock):
    policy = HedgePolicy(0.5, budget=0.1)
    for _ in range(1000):
        await hedged(Server(0.25), "q", delay=policy)
    for _ in range(20):
        await hedged(Server(1, 0.25), "q", delay=policy)
    statistics = policy.statistics()
    assert (statistics.hedges, statistics.won) == (11, 11)


def test_a_cancel_anywhere_leaves_no_try_behind():
    async def scenario(probe):
        server = Server(9, 9, 1)
        probe.check(lambda: check(server))
        await hedged(server, "q", delay=0.5, attempts=3)

    def check(server):
        assert server.gauge.now == 0

    assert cancel_at_every_checkpoint(scenario) > 5


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: hedged(len, "q", delay=1), TypeError, "plain function len"),
        (
            lambda: hedged(trio.sleep, 1, delay=-1),
            ValueError,
            "delay must be at least 0 seconds, got -1: write await hedged(fn, argument, delay=0.5)",
        ),
        (
            lambda: hedged(trio.sleep, 1, delay="soon"),
            TypeError,
            (
                "delay must be a number of seconds, got 'soon': write "
                "await hedged(fn, argument, delay=0.5)"
            ),
        ),
        (
            lambda: hedged(trio.sleep, 1, delay=1, attempts=0),
            ValueError,
            "attempts must be at least 1, got 0: write await hedged(fn, argument, delay=0.5)",
        ),
    ],
)
async def test_wrong_arguments_are_refused_with_the_corrected_call(call, kind, message):
    with pytest.raises(kind) as caught:
        await call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"delay": 0}, ValueError),
        ({"percentile": 1}, ValueError),
        ({"percentile": math.nan}, ValueError),
        ({"budget": 1.5}, ValueError),
        ({"budget": 0}, ValueError),
        ({"budget": "10%"}, TypeError),
        ({"initial": -1}, ValueError),
    ],
)
def test_a_policy_out_of_its_bounds_is_refused_with_the_corrected_call(arguments, kind):
    with pytest.raises(kind, match=rf"^{next(iter(arguments))} must be .*: write HedgePolicy\("):
        HedgePolicy(**arguments)


async def test_a_function_of_several_arguments_gets_all_of_them(autojump_clock):
    async def ask(question, language):
        await trio.lowlevel.checkpoint()
        return question, language

    assert await hedged(ask, "why", "en", delay=1) == ("why", "en")
