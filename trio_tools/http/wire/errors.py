"""The failures of one URL, as exceptions with the message of the answer.

The exceptions are divided by who can act: `FetchError` (the server or network), `FetchRefused`
(the operator), `FetchTimedOut` (allow more time or fetch less), `InvalidRequest` (the caller) and
`HostCoolingDown` (wait). `error_code` identifies the case for programs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from trio_tools.answers.errors import ErrorType, ToolFailure
from trio_tools.answers.shortages import local_shortage


class Code(StrEnum):
    """Every `error_code` of this package."""

    INVALID_URL = "INVALID_URL"
    INVALID_REQUEST = "INVALID_REQUEST"
    BLOCKED_SCHEME = "BLOCKED_SCHEME"
    BLOCKED_PORT = "BLOCKED_PORT"
    BLOCKED_ADDRESS = "BLOCKED_ADDRESS"
    BLOCKED_HEADER = "BLOCKED_HEADER"
    BLOCKED_METHOD = "BLOCKED_METHOD"
    BLOCKED_PATH = "BLOCKED_PATH"
    MISSING_SECRET = "MISSING_SECRET"  # noqa: S105 - the name of a case
    WEAK_SECRET = "WEAK_SECRET"  # noqa: S105 - the same
    DNS_FAILED = "DNS_FAILED"
    CONNECT_FAILED = "CONNECT_FAILED"
    LOCAL_SHORTAGE = "LOCAL_SHORTAGE"
    PROXY_FAILED = "PROXY_FAILED"
    TLS_FAILED = "TLS_FAILED"
    CONNECTION_LOST = "CONNECTION_LOST"
    PROTOCOL_ERROR = "PROTOCOL_ERROR"
    TOO_LARGE = "TOO_LARGE"
    TIMEOUT = "TIMEOUT"
    TOO_MANY_REDIRECTS = "TOO_MANY_REDIRECTS"
    INVALID_ENCODING = "INVALID_ENCODING"
    INVALID_JSON = "INVALID_JSON"
    EXTRACTION_FAILED = "EXTRACTION_FAILED"
    PDF_ENCRYPTED = "PDF_ENCRYPTED"
    PDF_BROKEN = "PDF_BROKEN"
    BLOCKED_BY_ROBOTS = "BLOCKED_BY_ROBOTS"
    HOST_COOLING_DOWN = "HOST_COOLING_DOWN"
    CLIENT_CLOSED = "CLIENT_CLOSED"


class Phase(StrEnum):
    """The phase in which an exchange failed. The transport selects httpx's exception by it."""

    POOL = "waiting for a free connection"
    CONNECT = "connecting"
    WRITE = "sending the request"
    REPLY = "waiting for the reply"
    READ = "reading the reply"
    TOTAL = "working on this URL"


class FetchError(ToolFailure):
    """One URL failed because of the server or the network.

    Args:
        message: One sentence: what happened, at which host.
        code: The case.
        remediation: What to do; may be empty.
        phase: The phase of the exchange.
        data: Further fields for the answer.
    """

    error_type = ErrorType.UPSTREAM

    def __init__(
        self,
        message: str,
        *,
        code: Code,
        remediation: str = "",
        phase: Phase = Phase.READ,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, error_code=code, remediation=remediation, data=data)
        self.phase = phase


class LocalShortageError(FetchError):
    """Nothing was sent, since this machine or process is short of descriptors or memory.

    Args:
        reason: The system's message.
    """

    error_type = ErrorType.OVERLOADED

    def __init__(self, reason: str) -> None:
        told = local_shortage(reason)
        super().__init__(
            told.message,
            code=Code.LOCAL_SHORTAGE,
            remediation=told.remediation,
            phase=Phase.CONNECT,
            data=told.data,
        )


class FetchRefused(FetchError):  # noqa: N818 - said as it is
    """The settings of this client do not allow it; the message names the one that would."""

    error_type = ErrorType.FORBIDDEN


class FetchTimedOut(FetchError):  # noqa: N818 - said as it is
    """The timeout expired; `phase` is the phase in which it did."""

    error_type = ErrorType.TIMEOUT


class InvalidRequest(FetchError):  # noqa: N818 - said as it is
    """The URL, a header or an argument is wrong; nothing was sent."""

    error_type = ErrorType.VALIDATION


class HostCoolingDown(FetchError):  # noqa: N818 - said as it is
    """The host requires a pause longer than the time left; `data["retry_after_seconds"]`."""

    error_type = ErrorType.RATE_LIMITED


def proxy_failed(reason: str) -> FetchError:
    """Return the error for a proxy that does not work as a proxy."""
    return FetchError(
        f"The proxy does not let this request through: {reason}.",
        code=Code.PROXY_FAILED,
        remediation="Let the operator check `fetch.proxy`: its address, user and password, and "
        "what the proxy allows.",
        phase=Phase.CONNECT,
    )
