"""What the bodies of all requests under way weigh: bounded, and shared between clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from trio_tools.transports.http.access.authentication import ANONYMOUS, Denied

# A client may hold so many times what is still free (Choudhury and Hahne, 1998): alone three
# quarters of all, and every further client finds room.
_TIMES_FREE: Final = 3


class BodyWeights:
    """Bytes of bodies that are being received or served, together and for each client.

    Args:
        done: Called with the weight of a request that has ended.
    """

    def __init__(self, done: Callable[[int], None]) -> None:
        self._done = done
        # Invariant: the sum of `_of_client`. Above the bound only for as long as it takes to refuse
        # the piece that made it so.
        self._all = 0
        self._of_client: Counter[str] = Counter()

    @contextmanager
    def weighing(self, client: str, most: int) -> Generator[Callable[[int], None]]:
        """Yield a function that adds to the weight of one request, for as long as the block lasts.

        Args:
            client: Whose request it is. Clients without a token share no identity, and have only
                the common bound.
            most: Most bytes of all requests together.

        Raises:
            Denied: By the function: all requests weigh too much, or those of this client.
        """
        weight = 0

        def count(more: int) -> None:
            nonlocal weight
            weight += more
            self._all += more
            self._of_client[client] += more
            if self._all > most:
                raise _too_much(f"The requests under way weigh more than {most} bytes.")
            held = self._of_client[client]
            if client != ANONYMOUS and held > weight and held > _TIMES_FREE * (most - self._all):
                raise _too_much(
                    f"This client's requests under way weigh {held} of {most} bytes, and the rest "
                    "is for others: wait for answers before you send more."
                )

        try:
            yield count
        finally:
            self._all -= weight
            self._of_client[client] -= weight
            if not self._of_client[client]:
                del self._of_client[client]
            self._done(weight)


def _too_much(reason: str) -> Denied:
    return Denied(HTTPStatus.SERVICE_UNAVAILABLE, reason, {"retry-after": "1"})
