"""Every exception this library raises of its own accord, split by who must act.

Argument mistakes are `TypeError` and `ValueError`; they come from `_arguments`. What fails inside
the caller's own functions is never wrapped: it leaves as an outcome, or in an `ExceptionGroup`.
"""

from __future__ import annotations

from functools import partial


class Overloaded(Exception):  # noqa: N818 - named like trio's Cancelled and WouldBlock
    """The waiting line is full: come back later. Nothing was started and nothing is held.

    Attributes:
        retry_after: Seconds after which a slot is likely to be free, estimated from how long
            recent holders kept theirs. Finite and at least 0.
    """

    def __init__(self, message: str = "", *, retry_after: float) -> None:
        super().__init__(message or f"the waiting line is full: try again in {retry_after:g} s")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # Left alone, an exception is made again from its positional arguments only.
        return partial(type(self), retry_after=self.retry_after), self.args, self.__dict__


class NestedBatch(RuntimeError):  # noqa: N818
    """A batch was started inside an item that holds the same limiter: it could wait for itself."""


class FrontierFull(RuntimeError):  # noqa: N818
    """`Frontier.add` was called when `max_items` had been added. The frontier is unchanged."""


class WorkerCrashed(Exception):  # noqa: N818
    """The worker process died while it ran this call. Other calls are not affected.

    Also raised for a function in a worker process or thread that raised `SystemExit` or
    `KeyboardInterrupt`, which are meant to end a program.
    """


class ClusterLost(WorkerCrashed):
    """The connection to the cluster is over, and the call with it. The next call connects anew."""


class ClusterError(Exception):
    """A call could not be sent to the cluster, so its function was not run.

    Each is an error of a second, built-in kind too: `ConnectionError` if there is no cluster at the
    address, `ImportError` if the extra is not installed, `RuntimeError` if the cluster has another
    Python or Ray, `TypeError` if something cannot be pickled, and `ValueError` if it is too large
    (or the result is, which is known only after the function has returned).
    """


class ClusterUnreachable(ClusterError, ConnectionError):  # noqa: N818
    """There is no cluster at the address, or it does not answer."""


class ClusterNotInstalled(ClusterError, ImportError):  # noqa: N818
    """The extra `cluster` is not installed."""


class ClusterMismatch(ClusterError, RuntimeError):  # noqa: N818
    """The cluster cannot be used from here, for example since it has another Python."""


class NotPicklable(ClusterError, TypeError):  # noqa: N818
    """A function or an argument cannot be pickled."""


class TooLargeForCluster(ClusterError, ValueError):  # noqa: N818
    """A function with its arguments, or a result, has more bytes than it may have."""
