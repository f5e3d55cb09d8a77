"""The clients that may use the HTTP server: by address, Host, Origin and token.

Pure functions of headers. The only I/O is reading the token file once.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trio_tools.settings import HttpSettings

ANONYMOUS: Final = "anonymous"

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
MIN_TOKEN_CHARS: Final = 16

Headers = Iterable[tuple[bytes, bytes]]


class Denied(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is refused.

    Args:
        status: HTTP status of the answer.
        reason: One sentence, which is the body of the answer.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Authenticator:
    """The rules of one server. Made by `from_settings`.

    Attributes:
        hosts: Accepted Host headers, `name` (any port) or `name:port`, in lower case.
        origins: Accepted Origin headers, in lower case.
        loopback: Whether only this machine can reach the server.
        max_header_bytes: Limit of bytes of all headers together.
        digests: SHA-256 of each token, by client name.
        oauth: Whether access tokens are accepted too. With neither kind, every client is
            anonymous.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    loopback: bool
    max_header_bytes: int
    digests: Mapping[str, bytes]
    oauth: bool = False

    @classmethod
    def from_settings(cls, settings: HttpSettings) -> Authenticator:
        """Make the rules of the settings.

        Raises:
            ValueError: The address is reachable from other machines, and there is neither a token
                nor `insecure`; a token is too short or given twice; or the token file is empty,
                contains a client twice, or contains an invalid token.
            OSError: The file of tokens cannot be read.
        """
        tokens = _tokens(settings)
        loopback = is_loopback(settings.host)
        oauth = settings.oauth.issuer is not None
        if not (loopback or tokens or oauth or settings.insecure):
            raise ValueError(
                f"http.host {settings.host!r} can be reached from other machines, and there is no "
                "token: set http.tokens, http.token_file or http.oauth.issuer, or "
                "http.insecure=true if everyone who reaches it may use every tool"
            )
        own = {_bracketed(settings.host)} | (LOOPBACK_NAMES if loopback else set[str]())
        return cls(
            hosts=frozenset(host.lower() for host in own.union(settings.allowed_hosts)),
            origins=frozenset(origin.lower() for origin in settings.allowed_origins),
            loopback=loopback,
            max_header_bytes=settings.max_header_bytes,
            digests={name: _digest(token.encode()) for name, token in tokens.items()},
            oauth=oauth,
        )

    @property
    def asks_for_tokens(self) -> bool:
        """Whether clients must send a token."""
        return bool(self.digests) or self.oauth

    def allows_origin(self, origin: bytes) -> bool:
        """Whether pages of an origin may call the server. If so, CORS headers allow it."""
        return self._is_allowed(origin.decode("latin-1").lower())

    def admit(self, headers: Headers) -> str:
        """Return the name of the client that sent a request with these headers.

        Raises:
            Denied: The headers are too long, the Host or Origin is not accepted, or the token is
                missing or unknown.
        """
        values = self.check_address(headers)
        if b"origin" in values:
            origin = values[b"origin"].decode("latin-1").lower()
            self._check_origin(origin, values[b"host"].decode("latin-1").lower())
        return self._client(values.get(b"authorization", b""))

    def check_operator(self, client: str) -> None:
        """Refuse clients that may use tools, but not request a reload.

        Raises:
            Denied: All machines may call without a token, so no client is known to be an
                operator.
        """
        if client == ANONYMOUS and not self.loopback:
            raise Denied(
                HTTPStatus.FORBIDDEN,
                "Without tokens a reload is asked for on this machine alone: send SIGHUP.",
            )

    def check_address(self, headers: Headers) -> dict[bytes, bytes]:
        """Return the headers by lower-case name, after a check of their size and of the Host.

        Raises:
            Denied: The headers are too long, or the Host is not accepted.
        """
        values: dict[bytes, bytes] = {}
        size = 0
        for name, value in headers:
            values[name.lower()] = value
            size += len(name) + len(value) + len(b": \r\n")
        if size > self.max_header_bytes:
            raise Denied(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The headers are longer than {self.max_header_bytes} bytes.",
            )
        self._check_host(values.get(b"host", b"").decode("latin-1").lower())
        return values

    def _check_host(self, host: str) -> None:
        name, _, _ = host.rpartition(":") if _has_port(host) else (host, "", "")
        if host not in self.hosts and name not in self.hosts:
            raise Denied(
                HTTPStatus.MISDIRECTED_REQUEST,
                "This Host is not served here: add it to http.allowed_hosts.",
            )

    def _is_allowed(self, origin: str) -> bool:
        # A page served by this machine may call a server that only this machine can reach.
        local = self.loopback and _host_of(origin) in LOOPBACK_NAMES
        return local or origin in self.origins

    def _check_origin(self, origin: str, host: str) -> None:
        if host and origin.partition("://")[2] == host:
            return  # a page of this server; its Host was checked
        if not self._is_allowed(origin):
            raise Denied(
                HTTPStatus.FORBIDDEN,
                "This Origin may not call: add it to http.allowed_origins.",
            )

    def _client(self, authorization: bytes) -> str:
        if not self.asks_for_tokens:
            return ANONYMOUS
        scheme, _, token = authorization.partition(b" ")
        offered = _digest(token.strip())
        # All tokens are compared, each in constant time, so the duration reveals nothing.
        known = [
            name for name, digest in self.digests.items() if hmac.compare_digest(digest, offered)
        ]
        if scheme.lower() != b"bearer" or not known:
            raise Denied(
                HTTPStatus.UNAUTHORIZED,
                "A bearer token is needed: send Authorization: Bearer <token>.",
                {"www-authenticate": "Bearer"},
            )
        return known[0]


def bearer_token(headers: Headers) -> str:
    """Return the token of a request; empty without one."""
    values = {name.lower(): value for name, value in headers}
    scheme, _, token = values.get(b"authorization", b"").partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tokens(settings: HttpSettings) -> dict[str, str]:
    tokens = {name: token.get_secret_value() for name, token in settings.tokens.items()}
    if settings.token_file is not None:
        _read_tokens(settings.token_file, tokens)
    for name, token in tokens.items():
        if len(token) < MIN_TOKEN_CHARS:
            raise ValueError(
                f"the token of client {name!r} has {len(token)} characters: use at least "
                f"{MIN_TOKEN_CHARS}, such as from `python -c 'import secrets; "
                "print(secrets.token_urlsafe())'`"
            )
    if len(set(tokens.values())) < len(tokens):
        raise ValueError("two clients have the same token: give each its own")
    return tokens


def _read_tokens(path: Path, tokens: dict[str, str]) -> None:
    """Add the tokens of a file to the given ones."""
    check_permissions(path, "http.token_file")
    before = len(tokens)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:  # noqa: PLR2004 - a name and a token
            raise ValueError(f"{path}, line {number}: write `client-name token`")
        name, token = words
        if name in tokens:
            raise ValueError(
                f"{path}, line {number}: client {name!r} has a token already, in a line before or "
                "in http.tokens: leave one of them out, or name the clients apart"
            )
        tokens[name] = token
    # A configured token file means that tokens are required. Without any, every client would
    # pass.
    if len(tokens) == before:
        raise ValueError(
            f"http.token_file {str(path)!r} holds no token: write lines `client-name token` into "
            "it, or leave the setting out"
        )


def check_permissions(path: Path, setting: str) -> None:
    """Refuse a file that other users of this machine could read or change.

    Raises:
        ValueError: Other users could; the message names the setting.
    """
    mode = path.stat().st_mode
    # A file in a folder that others cannot enter is not readable for them.
    reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)
    if mode & (stat.S_IWOTH | stat.S_IWGRP) or (mode & stat.S_IROTH and reachable):
        raise ValueError(
            f"{setting} {str(path)!r} can be read or changed by others: make it its owner's "
            f"alone, as with chmod 600 {path}"
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")


def _host_of(origin: str) -> str:
    try:
        return _bracketed(urlsplit(origin).hostname or "")
    except ValueError:
        return ""
