"""The base of every group of settings, and checks that several groups share.

Mistakes that would otherwise show with the first call are refused in the groups: a name that can
never match, an invalid address. A message states the problem without the value, because it may be a
secret that was given to the wrong name. The error has the name of the setting.
"""

from __future__ import annotations

from ipaddress import ip_network

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the settings. An unknown name in it is an error."""

    # Times and caps are shown in schemas, and JSON has no infinity. Messages name the setting and
    # not the value, which may be a secret that was given to the wrong name.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def checked_network(text: str) -> str:
    """Return the setting if it is a network (CIDR) or an address, else raise ValueError."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("it is not a network: write one like 10.0.0.0/8, or an address") from None
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(
            f"it has bits set behind its prefix: write {network}, or an address alone"
        ) from None
    return text
