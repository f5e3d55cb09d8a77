"""A limiter that finds its capacity: against simulated servers on the virtual clock."""

import math
import xml.etree.ElementTree as ET
from functools import partial

import pytest
import trio

from nursery_patterns import (
    AIMD,
    AdaptiveLimiter,
    Admission,
    Gradient2,
    Limits,
    Overloaded,
    run_batch,
    run_in_thread,
)
from tests.support import adaptive_plot
from tests.support.simulated_server import SimulatedServer, load

# Best of fixed limits from 5 to 100 against a knee of 20 (see the test below).
BEST = 20


async def settled(server, limiter, seconds=8):
    """Let it find the limit, and return its answers per second from then on."""
    await load(server, limiter, seconds=seconds)
    return await load(server, limiter, seconds=seconds)


async def test_the_best_fixed_limit_is_at_the_knee(autojump_clock):
    rates = {
        limit: await load(SimulatedServer(), trio.CapacityLimiter(limit), seconds=5)
        for limit in (5, 10, 15, BEST, 25, 30, 50, 100)
    }
    assert max(rates, key=rates.get) == BEST


async def test_gradient2_is_within_15_percent_of_the_best_fixed_limit(autojump_clock):
    best = await load(SimulatedServer(), trio.CapacityLimiter(BEST), seconds=5)
    for initial in (2, 15):  # begun in overload it would take that for the usual
        limiter = AdaptiveLimiter(initial, 1, 200)
        assert await settled(SimulatedServer(), limiter) >= 0.85 * best


async def test_aimd_is_within_15_percent_of_the_best_fixed_limit(autojump_clock):
    best = await load(SimulatedServer(refuses=22), trio.CapacityLimiter(BEST), seconds=5)
    for initial in (2, 100):
        limiter = AdaptiveLimiter(initial, 1, 200, algorithm="aimd")
        assert await settled(SimulatedServer(refuses=22), limiter) >= 0.85 * best


@pytest.mark.parametrize("algorithm", ["gradient2", "aimd"])
async def test_it_follows_a_step_in_capacity_down_and_up_again(algorithm, autojump_clock):
    limiter = AdaptiveLimiter(10, 1, 200, algorithm=algorithm)
    server = SimulatedServer(power=1.0)
    refusing = algorithm == "aimd"
    for knee in (20, 8, 30):
        server.knee = knee
        server.refuses = int(knee * 1.1) if refusing else None
        best = 10 * knee
        assert await settled(server, limiter) >= 0.85 * best
        if refusing:
            assert limiter.total_tokens <= knee * 1.1 + 1


@pytest.mark.parametrize("algorithm", ["gradient2", "aimd"])
async def test_two_that_compete_use_the_server_as_well_as_one(algorithm, autojump_clock):
    refuses = 22 if algorithm == "aimd" else None
    server = SimulatedServer(refuses=refuses, power=1.0)  # each keeps a small queue there
    pair = [AdaptiveLimiter(10, 1, 200, algorithm=algorithm) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for limiter in pair:
            nursery.start_soon(partial(load, server, limiter, seconds=18))
        await trio.sleep(9)
        before = server.answered
        await trio.sleep(8)
        rate = (server.answered - before) / 8
    best = await load(SimulatedServer(refuses=refuses), trio.CapacityLimiter(BEST), seconds=5)
    assert rate >= 0.85 * best


async def test_aimd_swings_no_further_than_its_published_saw(autojump_clock):
    server, trace = SimulatedServer(power=0, refuses=20), []
    limiter = AdaptiveLimiter(18, 1, 200, algorithm="aimd")
    await load(server, limiter, seconds=10)
    await load(server, limiter, seconds=10, trace=trace)
    limits = [limit for _, limit in trace]
    assert max(limits) <= 21
    assert min(limits) >= math.floor(0.9 * 20) - 1


async def test_gradient2_swings_by_less_than_its_queue(autojump_clock):
    server, trace = SimulatedServer(), []
    limiter = AdaptiveLimiter(10, 1, 200)
    await load(server, limiter, seconds=10)
    await load(server, limiter, seconds=10, trace=trace)
    limits = [limit for _, limit in trace]
    assert max(limits) - min(limits) <= 2 * Gradient2().queue_size


def test_the_picture_is_what_the_simulation_does():
    drawn = ET.parse(adaptive_plot.PICTURE).getroot()
    for name, limits in adaptive_plot.records().items():
        curve = drawn.find(f".//*[@id='{name}']").get("points").split()
        token = adaptive_plot.HIGH / adaptive_plot.MOST
        fresh = adaptive_plot.points(limits, adaptive_plot.TOPS[name])
        for point, (x, y) in zip(curve, fresh, strict=True):
            assert [float(each) for each in point.split(",")] == [
                x,
                pytest.approx(y, abs=3 * token),
            ]


# --- the formulas, step by step ---------------------------------------------------------------


def test_aimd_adds_one_and_takes_a_tenth():
    step = AIMD().update
    assert step(10, elapsed=1, in_flight=5, dropped=False) == 11
    assert step(10, elapsed=1, in_flight=4, dropped=False) == 10  # too few to tell
    assert step(50, elapsed=1, in_flight=50, dropped=True) == 45
    assert step(5, elapsed=1, in_flight=5, dropped=True) == 4  # one less at least
    assert step(50, elapsed=5.5, in_flight=50, dropped=False) == 45


def test_gradient2_grows_by_its_queue_and_shrinks_by_the_gradient():
    algorithm = Gradient2(queue_size=4, smoothing=0.2)
    step = algorithm.update
    assert step(10, elapsed=1, in_flight=10, dropped=False) == pytest.approx(10.8)
    assert step(10, elapsed=1, in_flight=4, dropped=False) == 10  # too few to tell
    for _ in range(10):
        step(10, elapsed=1, in_flight=10, dropped=False)
    usual = 1 + (2 - 1) * 2 / 601
    grown = 10 * (usual / 2) + 4
    assert step(10, elapsed=2, in_flight=10, dropped=False) == pytest.approx(8 + 0.2 * grown)
    assert step(100, elapsed=9, in_flight=99, dropped=False) == pytest.approx(80 + 0.2 * 54)
    assert step(100, elapsed=0.1, in_flight=99, dropped=True) == pytest.approx(80 + 0.2 * 54)


# --- as a limiter -----------------------------------------------------------------------------


async def test_it_is_a_capacity_limiter_wherever_one_is_taken(autojump_clock):
    limiter = AdaptiveLimiter(2, 1, 4)
    assert isinstance(limiter, trio.CapacityLimiter)
    assert await run_in_thread(len, "abc", limiter=limiter) == 3
    assert await trio.to_thread.run_sync(len, "abc", limiter=limiter) == 3
    async with Admission(limiter, max_waiting=1), Limits()["other"]:
        assert (limiter.borrowed_tokens, limiter.available_tokens) == (1, 1)
    assert limiter.statistics().total_tokens == 2
    assert repr(limiter) == "<AdaptiveLimiter 2.0 of 1 to 4, 0 in use>"


async def test_a_block_that_fails_otherwise_teaches_nothing(autojump_clock):
    limiter = AdaptiveLimiter(10, 1, 100, algorithm="aimd")
    for error in (ValueError, KeyError):
        with pytest.raises(error):
            async with limiter:
                raise error
    assert limiter.total_tokens == 10
    with pytest.raises(Overloaded):
        async with limiter:
            raise Overloaded(retry_after=1)
    assert limiter.total_tokens == 9
    assert limiter.borrowed_tokens == 0


async def test_it_learns_from_the_items_of_a_batch(autojump_clock):
    limiter = AdaptiveLimiter(10, 1, 100, algorithm="aimd")
    await run_batch(trio.sleep, 100 * [0.1], limit=100, limiter=limiter)
    assert limiter.total_tokens > 12
    before = limiter.total_tokens
    await run_batch(trio.sleep, [60], limiter=limiter, item_timeout=1)
    assert limiter.total_tokens == int(0.9 * before)

    async def fail(_):
        raise ValueError

    before = limiter.total_tokens
    await run_batch(fail, range(100), limiter=limiter)
    assert limiter.total_tokens == before


async def test_drops_from_before_the_last_decrease_do_not_lower_it_again(autojump_clock):
    limiter = AdaptiveLimiter(100, 1, 100, algorithm="aimd")
    await trio.sleep(5)
    limiter.record(1, dropped=True)
    limiter.record(1, dropped=True)
    limiter.record(3, dropped=True)
    assert limiter.total_tokens == 90
    await trio.sleep(2)
    limiter.record(1, dropped=True)
    assert limiter.total_tokens == 81


async def test_it_stays_within_its_bounds_and_pauses_at_zero(autojump_clock):
    limiter = AdaptiveLimiter(2, 2, 3, algorithm="aimd")
    for _ in range(10):
        await trio.sleep(1)
        limiter.record(0.5, dropped=True)
    assert limiter.total_tokens == 2
    limiter.total_tokens = 0
    for _ in range(20):
        limiter.record(0.5)
    assert limiter.total_tokens == 0
    limiter.total_tokens = 3
    assert limiter.total_tokens == 3


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: AdaptiveLimiter(0), ValueError, "initial must be at least 1, got 0: write "),
        (lambda: AdaptiveLimiter(5, 6), ValueError, "initial must be at least 6, got 5: write "),
        (
            lambda: AdaptiveLimiter(5, 1, 4),
            ValueError,
            "initial must be at most the maximum 4, got 5: write ",
        ),
        (
            lambda: AdaptiveLimiter(algorithm="vegas"),
            ValueError,
            (
                "algorithm must be 'gradient2', 'aimd' or an object with an update method, got "
                "'vegas': write "
            ),
        ),
        (lambda: AIMD(backoff=0.3), ValueError, "backoff must be at least 0.5 and below 1, got"),
        (lambda: Gradient2(smoothing=2), ValueError, "smoothing must be above 0 and at most 1"),
        (lambda: Gradient2(tolerance=math.nan), ValueError, "tolerance must be at least 1 and"),
    ],
)
def test_bad_input_is_refused_with_the_corrected_call(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_limit_out_of_its_bounds_is_refused():
    with pytest.raises(ValueError, match=r"^the limit must be 0, or from 1 to 100, got 101: "):
        AdaptiveLimiter().total_tokens = 101
