"""The location of a server's state, and what is known of it without a database library."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

_KEY_BYTES = 32
_SQLITE = "sqlite:///"
_GLIMPSE_SECONDS = 0.5


class StateTroubleError(Exception):
    """The state cannot be read or written now; the message says why, without secrets."""


@dataclass(frozen=True)
class Location:
    """The location of stored operations: a SQLite file, or a PostgreSQL database.

    Attributes:
        path: The SQLite file; None for PostgreSQL.
        url: The URL of PostgreSQL, which may contain a password; empty for SQLite.
    """

    path: Path | None
    url: str = ""

    @property
    def told(self) -> str:
        """Its name for people, without secrets."""
        return "the PostgreSQL database of state.url" if self.path is None else str(self.path)

    @classmethod
    def of_url(cls, url: str) -> Location | None:
        """Return the location in the setting `state.url`; None for `memory`."""
        if url == "memory":
            return None
        if url == "sqlite":
            from platformdirs import user_state_path  # noqa: PLC0415 - only where it is needed

            return cls(user_state_path("trio-tools", appauthor=False) / "operations.db")
        if url.startswith(_SQLITE):
            return cls(Path(url.removeprefix(_SQLITE)).expanduser().absolute())
        return cls(None, url)

    def may_hold_operations(self) -> bool:
        """Whether anything may be stored there. Only checks whether the file exists."""
        return self.path is None or self.path.exists()

    def has_parked(self) -> bool:
        """Whether an interrupted operation may wait there, by a quick check.

        Blocking, for a thread. It does not load the database library, since most starts find
        nothing.
        """
        if self.path is None:
            return True
        if not self.path.exists():
            return False
        uri = f"{self.path.as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=_GLIMPSE_SECONDS)) as database:
                found = database.execute("SELECT 1 FROM operations WHERE background LIMIT 1")
                return found.fetchone() is not None
        except sqlite3.Error:
            return True  # opening it for use reports the error

    def make_file(self) -> None:
        """Create the SQLite file if necessary, readable only for its owner.

        Raises:
            OSError: It cannot be created.
        """
        assert self.path is not None
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def file_key(self) -> bytes | None:
        """Return the key beside the SQLite file. The first use creates it. None without a file.

        Several servers may create it at the same time: the first one wins, and all read that one.
        """
        if self.path is None:
            return None
        path = self.path.with_name(f"{self.path.name}.key")
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with suppress(OSError):
            if not path.exists():
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                draft.touch(mode=0o600)
                draft.write_bytes(secrets.token_bytes(_KEY_BYTES))
                with suppress(FileExistsError):
                    os.link(draft, path)
                draft.unlink()
            key = path.read_bytes()
            return key if len(key) == _KEY_BYTES else None
        return None
