"""Both eras of the protocol, and no settings from the environment of the tests."""

from tests.support.servers_in_memory import era, no_settings_from_outside

__all__ = ["era", "no_settings_from_outside"]
