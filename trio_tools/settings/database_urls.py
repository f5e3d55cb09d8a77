"""URLs of databases, split into parameters of this server and parameters of the driver."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self
from urllib.parse import quote, unquote

_FILE_URL: Final = re.compile(r"(sqlite(\+\w+)?|duckdb):///(?!:memory:$).+", re.DOTALL)
# Ports must be numbers, and a host contains no @. Otherwise the text after an @ in a password
# would be parsed as either, and shown in errors.
_HOST: Final = r"(\[[^/?\]]+\]|[^@/:?,\[\]]*)(:\d+)?"
_POSTGRES_URL: Final = re.compile(
    r"postgres(ql)?(\+\w+)?://((?P<user>[^:/]*)(:(?P<password>[^@]*))?@)?"
    rf"(?P<hosts>{_HOST}(,{_HOST})*)(?P<path>/[^?]*)?(\?(?P<query>.*))?",
    re.DOTALL,
)
_DRIVER_PARAMETERS: Final = frozenset(
    re.findall(
        r"\w+",
        """application_name channel_binding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
    keepalives_interval krbsrvname load_balance_hosts options passfile password port require_auth
    requirepeer service servicefile ssl_max_protocol_version ssl_min_protocol_version sslcert
    sslcertmode sslcompression sslcrl sslcrldir sslkey sslmode sslnegotiation sslpassword
    sslrootcert sslsni target_session_attrs tcp_user_timeout user""",
    )
)
_OTHER_TOOLS: Final = {
    **dict.fromkeys(
        ("pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "sslaccept",
         "sslidentity", "statement_cache_size"),
        "Prisma's; no statement is kept on the server here, so it has no use: remove it",
    ),
    **dict.fromkeys(
        ("prepared_statement_cache_size", "prepared_statement_name_func", "prepareThreshold"),
        "another driver's; no statement is kept on the server here: remove it",
    ),
    "currentSchema": "JDBC's: write schema=",
    "search_path": "another driver's: write schema=",
    "ssl": "another driver's: write sslmode=require",
    "loginTimeout": "JDBC's: write connect_timeout=",
}  # fmt: skip


_NO_URL: Final = (
    "it must begin with sqlite:/// and name a file, as in "
    "sqlite:////srv/data/shop.db, or with duckdb:/// and name a file or a folder, or be like "
    "postgresql://user:password@host:5432/database, with %40 for an @ and %3A for a : in user or "
    "password"
)


class PostgresUrl(NamedTuple):
    """A PostgreSQL URL, split into its parts."""

    conninfo: str
    """The URL for libpq."""
    schema: str | None
    """From `?schema=`."""
    connect_timeout: int | None
    """From `?connect_timeout=`, in seconds."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take a URL apart.

        Raises:
            ValueError: It is not a database URL, or has a parameter that neither PostgreSQL's
                library nor this server knows. The message names it, and nothing else of the URL.
        """
        parts = _POSTGRES_URL.fullmatch(url)
        if parts is None:
            raise ValueError(_NO_URL)
        schema, connect_timeout, kept = None, None, list[str]()
        for pair in filter(None, (parts["query"] or "").split("&")):
            name, _, value = pair.partition("=")
            if name == "schema":
                schema = unquote(value)
                continue
            if name not in _DRIVER_PARAMETERS:
                known = _OTHER_TOOLS.get(name)
                raise ValueError(
                    f"its parameter {name!r} is {known}"
                    if known
                    else f"its parameter {name!r} is unknown: remove it, or use schema or one of "
                    "PostgreSQL's own, such as sslmode, service or target_session_attrs"
                )
            if name == "connect_timeout":
                if not value.isdecimal():
                    raise ValueError("its parameter 'connect_timeout' must be a number of seconds")
                connect_timeout = int(value)
                continue
            kept.append(pair)
        # libpq accepts fewer characters unescaped in a user or a password.
        user = [quote(unquote(part), safe="") for part in parts.group("user", "password") if part]
        conninfo = "".join(
            (
                "postgresql://",
                f"{':'.join(user)}@" if user else "",
                parts["hosts"],
                parts["path"] or "",
                f"?{'&'.join(kept)}" if kept else "",
            )
        )
        return cls(conninfo, schema, connect_timeout)


def check_database_url(url: str) -> None:
    """Refuse a URL of no known kind.

    Raises:
        ValueError: It is one. The message shows nothing of it but the name of a parameter.
    """
    if _FILE_URL.fullmatch(url):
        return
    PostgresUrl.parse(url)
