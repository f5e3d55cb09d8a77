"""Moved to `tests.support.followed_operations`. Remove this file when nothing imports it."""

from tests.support.followed_operations import *  # noqa: F403
