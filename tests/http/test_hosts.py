import email.utils
import time

import pytest
import trio

from nursery_patterns import request_context, run_batch
from nursery_patterns.testing import InFlightGauge
from trio_tools.answers.errors import ErrorType
from trio_tools.http.fetching.hosts.host import HostState
from trio_tools.http.fetching.hosts.host_throttle import HostLimits
from trio_tools.http.fetching.hosts.throttling import parse_retry_after
from trio_tools.http.wire.errors import HostCoolingDown


def make(max_per_host=4, max_cooldown_seconds=60):
    return HostLimits(max_per_host=max_per_host, max_cooldown_seconds=max_cooldown_seconds)


async def test_a_host_that_answers_well_is_bounded_and_then_forgotten(autojump_clock):
    hosts = make()
    running = peak = 0

    async def request():
        nonlocal running, peak
        await hosts.enter("a")
        running += 1
        peak = max(peak, running)
        await trio.sleep(1)
        hosts.answered_well("a")
        running -= 1
        hosts.leave("a")

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(request)
        await trio.testing.wait_all_tasks_blocked()
        assert hosts.snapshot() == {"a": HostState(4, 4, 6, 0.0)}
    assert (peak, trio.current_time()) == (4, 3)
    assert hosts.snapshot() == {}


async def test_a_refusal_halves_the_limit_once_and_pauses_the_host(autojump_clock):
    hosts = make()
    for _ in range(4):
        await hosts.enter("a")
    await trio.sleep(1)
    pauses = [hosts.refused("a", started=0.0, retry_after=5.0) for _ in range(4)]
    assert pauses == [5, 5, 5, 5]
    for _ in range(4):
        hosts.leave("a")
    assert hosts.snapshot() == {"a": HostState(2, 0, 0, 5.0)}
    await hosts.enter("a")
    assert trio.current_time() == 6
    await hosts.enter("a")
    with trio.move_on_after(1) as scope:
        await hosts.enter("a")
    assert scope.cancelled_caught
    assert hosts.snapshot() == {"a": HostState(2, 2, 0, 0.0)}
    for _ in range(20):
        hosts.answered_well("a")
    hosts.leave("a")
    hosts.leave("a")
    assert hosts.snapshot() == {}


async def test_a_good_answer_to_an_earlier_request_does_not_end_the_pause(autojump_clock):
    hosts = make()
    await hosts.enter("a")
    await hosts.enter("a")
    hosts.refused("a", started=0.0, retry_after=30.0)
    hosts.answered_well("a")
    hosts.leave("a")
    hosts.leave("a")
    await hosts.enter("a")
    assert trio.current_time() == 30
    hosts.leave("a")


async def test_pauses_without_retry_after_grow_and_are_bounded(autojump_clock):
    hosts = make(max_cooldown_seconds=10)
    pauses = []
    for _ in range(6):
        await hosts.enter("a")
        pauses.append(hosts.refused("a", started=trio.current_time(), retry_after=None))
        hosts.leave("a")
    assert pauses == [1, 2, 4, 8, 10, 10]
    await hosts.enter("a")
    assert hosts.refused("a", started=trio.current_time(), retry_after=1e9) == 10
    hosts.leave("a")


async def test_waiting_is_first_come_first_served_and_a_cancelled_waiter_delays_nobody(
    autojump_clock,
):
    hosts = make(max_per_host=1)
    await hosts.enter("a")
    order = []

    async def wait(number):
        await hosts.enter("a")
        order.append((number, trio.current_time()))
        await trio.sleep(1)
        hosts.leave("a")

    async with trio.open_nursery() as nursery:
        scopes = []
        for number in range(4):

            async def cancellable(number=number):
                with trio.CancelScope() as scope:
                    scopes.append(scope)
                    await wait(number)

            nursery.start_soon(cancellable)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[2].cancel()
        await trio.testing.wait_all_tasks_blocked()
        hosts.leave("a")
    assert order == [(1, 0), (3, 1)]
    assert hosts.snapshot() == {}


async def test_one_host_in_trouble_does_not_hold_up_another(autojump_clock):
    hosts = make()
    await hosts.enter("bad")
    hosts.refused("bad", started=0.0, retry_after=30.0)
    hosts.leave("bad")
    await hosts.enter("good")
    assert trio.current_time() == 0
    hosts.leave("good")
    assert hosts.cooling_seconds("bad") == 30
    assert hosts.cooling_seconds("good") == 0


async def test_a_wait_that_must_be_in_vain_is_refused_at_once(autojump_clock):
    hosts = make()
    await hosts.enter("a")
    hosts.refused("a", started=0.0, retry_after=30.0)
    hosts.leave("a")
    with trio.move_on_after(10), pytest.raises(HostCoolingDown) as caught:
        await hosts.enter("a")
    assert trio.current_time() == 0
    assert caught.value.error_type is ErrorType.RATE_LIMITED
    assert caught.value.data == {"retry_after_seconds": 30.0}
    assert hosts.snapshot()["a"].waiting == 0


async def test_who_waits_for_a_slot_leaves_the_line_when_a_pause_begins(autojump_clock):
    hosts = make(max_per_host=1)
    working = InFlightGauge()

    async def request(n):
        if n == 0:
            await hosts.enter("a")
            await trio.sleep(1)
            hosts.refused("a", started=0.0, retry_after=5.0)
            hosts.leave("a")
        elif n < 3:
            await hosts.enter("a")
            with working:
                await trio.sleep(1)
            hosts.leave("a")
        else:
            await hosts.enter("b")
            await trio.sleep(1)
            hosts.leave("b")
        return trio.current_time()

    # At first all three slots are held for host a. When it pauses they are free for host b.
    report = await run_batch(request, range(5), limit=3)
    first, *of_a, of_b_1, of_b_2 = report.values()
    assert (first, sorted(of_a), sorted([of_b_1, of_b_2])) == (1, [7, 8], [2, 3])
    assert working.peak == 1
    assert hosts.snapshot() == {}


async def test_slowness_cuts_the_limit_without_a_pause(autojump_clock):
    hosts = make()
    await hosts.enter("a")
    await trio.sleep(3)
    hosts.timed_out("a", started=0.0)
    hosts.timed_out("a", started=0.0)
    assert hosts.snapshot() == {"a": HostState(2, 1, 0, 0.0)}
    hosts.leave("a")


async def test_hosts_in_trouble_are_forgotten_before_they_fill_the_memory(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr("trio_tools.http.fetching.hosts.host_throttle._MAX_REMEMBERED", 10)
    hosts = make()
    for number in range(50):
        await hosts.enter(str(number))
        hosts.refused(str(number), started=0.0, retry_after=5.0)
        hosts.leave(str(number))
    assert list(hosts.snapshot()) == [str(number) for number in range(40, 50)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0),
        (b" 17 ", 17),
        (b"9" * 50, 999_999_999),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0),
        (b"", None),
        (b"-5", None),
        (b"soon", None),
        (b"1.5", None),
        (b"\xb2", None),
        (b"Sun, 99 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date_counts_from_now():
    value = email.utils.formatdate(time.time() + 100, usegmt=True).encode()
    assert 98 <= parse_retry_after(value) <= 100


@pytest.mark.parametrize("form", ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_older_forms_of_a_date_are_in_utc_too(form, zone, monkeypatch):
    moment = time.strftime(form, time.gmtime(time.time() + 100)).encode()
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert 90 <= parse_retry_after(moment) <= 100
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_a_pause_is_for_the_client_whose_request_was_refused(autojump_clock):
    hosts = make()
    with request_context(client_id="alice"):
        await hosts.enter("a")
        assert hosts.refused("a", started=0, retry_after=30) == 30
        hosts.leave("a")
        assert hosts.cooling_seconds("a") == 30
        with trio.fail_after(5), pytest.raises(HostCoolingDown):
            await hosts.enter("a")
    with request_context(client_id="bob"):
        assert hosts.cooling_seconds("a") == 0
        assert hosts.enter_at_once("a")
        hosts.answered_well("a")
        hosts.leave("a")
    with request_context(client_id="alice"):
        assert hosts.cooling_seconds("a") == 30
        await hosts.enter("a")
        assert trio.current_time() == 30
        hosts.leave("a")
