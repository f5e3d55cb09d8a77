"""Named databases that can be read and nothing else, one bounded statement at a time."""

from __future__ import annotations

from trio_tools.database.databases import Databases
from trio_tools.database.results import DatabaseConfig, QueryResult, QueryTiming

__all__ = ["DatabaseConfig", "Databases", "QueryResult", "QueryTiming"]
