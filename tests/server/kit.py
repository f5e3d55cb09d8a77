"""Moved to `tests.support.servers_in_memory`. Remove this file when nothing imports it."""

from tests.support.servers_in_memory import *  # noqa: F403
