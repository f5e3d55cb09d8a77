"""The group `state`: where operations are stored."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveInt, SecretStr

from trio_tools.settings.groups.section import Section

# The text after an @ in a password would be parsed as the host, and shown in errors.
_STATE_URL: Final = re.compile(
    r"sqlite:///(?!:memory:$).+"
    r"|postgres(ql)?(\+\w+)?://([^:/]*(:[^@]*)?@)?(\[[^/?]+\]|[^@/:?]+)?(:\d+)?([/?].*)?",
    re.DOTALL,
)


def _state_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text not in {"sqlite", "memory"} and not _STATE_URL.fullmatch(text):
        raise ValueError(
            "it must be `sqlite`, `memory`, a file as in sqlite:////srv/state.db, or a database as "
            "in postgresql://user:password@host:5432/database, with %40 for an @ and %3A for a : "
            "in user or password"
        )
    return url


class StateSettings(Section):
    """Where operations are stored, so that they survive a restart."""

    url: Annotated[SecretStr, AfterValidator(_state_url)] = Field(
        default=SecretStr("sqlite"),
        description="`sqlite` for a file in the user's state folder, `memory` to store nothing on "
        "disk, or a URL: sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE.",
        repr=False,
        validate_default=False,
    )
    max_bytes: PositiveInt = Field(
        default=4 * 2**30,
        description="Limit of bytes of stored operations. Idle ones are deleted to make room, the "
        "oldest first. What runs stops before it exceeds the limit.",
    )
    resume: bool = Field(
        default=True,
        description="Whether the server resumes interrupted background operations at its start.",
    )
