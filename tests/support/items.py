"""Functions of an item for tests to run, and the statuses of what came of them."""

import trio


async def sleep_and_return(seconds):
    await trio.sleep(seconds)
    return seconds


class Recorder:
    """An item function that takes what `seconds` says and logs when each item starts and ends."""

    def __init__(self, seconds=1):
        self.seconds = seconds if callable(seconds) else lambda _: seconds
        self.started = []
        self.ended = []

    def starts(self):
        return [item for _, item in self.started]

    def ends(self):
        return [item for _, item in self.ended]

    async def __call__(self, item):
        self.started.append((trio.current_time(), item))
        await trio.sleep(self.seconds(item))
        self.ended.append((trio.current_time(), item))
        return item


def statuses(report):
    return [o.status.value for o in report.outcomes]
