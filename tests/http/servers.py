"""Moved to `tests.support.raw_http_servers`. Remove this file when nothing imports it."""

from tests.support.raw_http_servers import *  # noqa: F403
