"""A crawl as an operation of the store: the found pages are stored with their outcomes.

The pages of a crawl are found while it runs. So the journal of its batch stores each added page,
and the index under which it starts, no later than any later outcome. A restored crawl runs the
added pages that have no outcome.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from nursery_patterns import Journal, Outcome
from trio_tools.live.state import ServerState
from trio_tools.operations.builtin.crawl import (
    Crawl,
    CrawlItem,
    CrawlStart,
    Found,
    make_crawl,
    pages_operation,
)
from trio_tools.operations.durable.blobs import growth_json
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.operation import Operation

CRAWL: Final = "crawl"
"""The operation, and the mark of a stored request whose items are the pages of a crawl."""


class CrawlJournal(Journal[Any, Any]):
    """The journal of a crawl's batch: stores pages that are added, beside what ends.

    Args:
        journal: Of the operation.
        start: What is stored already.

    Attributes:
        operation: The journal of the operation.
    """

    def __init__(self, journal: OperationJournal, start: CrawlStart) -> None:
        self.operation = journal
        # Frames are numbered, so that one which is written twice is read once.
        self._numbers = {found: number for number, (found, _) in enumerate(start.entries)}
        self._started = {index for _, index in start.entries if index is not None}

    def outcomes(self) -> Iterable[Outcome[Any, Any]]:
        """Return those of the operation."""
        return self.operation.outcomes()

    def added(self, item: Found) -> None:
        """Have a page stored that is added to the crawl."""
        number = self._numbers[item] = len(self._numbers)
        self._grow({"number": number, "found": item})

    def started(self, index: int, item: Found) -> None:
        """Have the index of a page stored when it starts for the first time."""
        self.operation.started(index, item)
        if index not in self._started:
            self._started.add(index)
            self._grow({"number": self._numbers[item], "index": index})

    def answered(self, final_url: str, url: str) -> None:
        """Have it stored that a page was found to be at another URL."""
        self._grow({"final_url": final_url, "url": url})

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Have an outcome stored."""
        self.operation.ended(outcome)

    def behind(self) -> bool:
        """Whether so much is still to be written that no further page should start."""
        return self.operation.behind()

    async def ready(self) -> None:
        """Wait while too much is still to be written."""
        await self.operation.ready()

    def _grow(self, told: Mapping[str, Any]) -> None:
        self.operation.grow(growth_json(told))


def stored_start(growth: Iterable[bytes]) -> CrawlStart:
    """Return what `CrawlJournal` had stored of a crawl."""
    found: dict[int, Found] = {}
    indexes: dict[int, int] = {}
    answered: dict[str, str] = {}
    for frame in growth:
        told = json.loads(frame)
        if "found" in told:
            found[told["number"]] = Found(*told["found"])
        elif "index" in told:
            indexes[told["number"]] = told["index"]
        else:
            answered[told["final_url"]] = told["url"]
    entries = [(found[number], indexes.get(number)) for number in sorted(found)]
    return CrawlStart(entries, answered)


def restored_crawl(
    state: ServerState, item: Any, start: CrawlStart
) -> tuple[Crawl, Operation, str]:
    """Return a crawl as it was stored, its operation, and why it cannot go on; empty if it can."""
    asked, why_not = CrawlItem.model_validate(item), ""
    if CRAWL not in state.operations:
        why_not = f"this server has no operation {CRAWL!r} any more: the setting fetch.crawl is off"
    crawl = make_crawl(state.services, state.settings, asked, start)
    return crawl, crawl_operation(state, crawl), why_not


def crawl_operation(state: ServerState, crawl: Crawl) -> Operation:
    """Return the operation whose items are the pages of a crawl."""
    offered = state.operations.get(CRAWL)
    return pages_operation(crawl, (offered and offered.computes_in) or "process")
