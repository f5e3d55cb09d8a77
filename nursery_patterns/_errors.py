"""The exceptions of this library.

Argument errors are `TypeError` and `ValueError`; `_arguments` raises them. Exceptions of the
caller's own functions are never wrapped: they become outcomes, or leave in an `ExceptionGroup`.
"""

from __future__ import annotations

from functools import partial


class Overloaded(Exception):  # noqa: N818 - named like trio's Cancelled and WouldBlock
    """The queue is full. Nothing was started, and no slot is held.

    Attributes:
        retry_after: Seconds after which a slot is probably free, estimated from recent holds.
            Finite and at least 0.
    """

    def __init__(self, message: str = "", *, retry_after: float) -> None:
        super().__init__(message or f"the waiting line is full: try again in {retry_after:g} s")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # By default unpickling passes only the positional arguments.
        return partial(type(self), retry_after=self.retry_after), self.args, self.__dict__


class NestedBatch(RuntimeError):  # noqa: N818
    """A batch was started inside an item that holds the same limiter, and could wait for itself."""


class FrontierFull(RuntimeError):  # noqa: N818
    """`Frontier.add` was called when `max_items` had been added. The frontier is unchanged."""


class WorkerCrashed(Exception):  # noqa: N818
    """The worker process died while it ran this call. Other calls are not affected.

    Also raised if a function in a worker process or thread raised `SystemExit` or
    `KeyboardInterrupt`.
    """


class ClusterLost(WorkerCrashed):
    """The connection to the cluster was lost during the call. The next call connects again."""


class ClusterError(Exception):
    """A call could not be sent to the cluster, so its function was not run.

    Each subclass is also a built-in error: `ConnectionError` if there is no cluster at the address,
    `ImportError` if the extra is not installed, `RuntimeError` if the cluster has another Python or
    Ray version, `TypeError` if something cannot be pickled, and `ValueError` if a call or a result
    is too large. (The size of a result is known only after the function has returned.)
    """


class ClusterUnreachable(ClusterError, ConnectionError):  # noqa: N818
    """There is no cluster at the address, or it does not answer."""


class ClusterNotInstalled(ClusterError, ImportError):  # noqa: N818
    """The extra `cluster` is not installed."""


class ClusterMismatch(ClusterError, RuntimeError):  # noqa: N818
    """The cluster cannot be used from here, for example because it has another Python version."""


class NotPicklable(ClusterError, TypeError):  # noqa: N818
    """A function or an argument cannot be pickled."""


class TooLargeForCluster(ClusterError, ValueError):  # noqa: N818
    """A function with its arguments, or a result, is larger than `max_bytes`."""
