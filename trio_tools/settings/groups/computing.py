"""Where operations compute: the group `cluster`, and the group of one operation."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from trio_tools.settings.groups.section import Section

_CLUSTER_ADDRESS: Final = re.compile(
    r"local|auto|(ray://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}", re.IGNORECASE
)


def _cluster_address(text: str) -> str:
    if not _CLUSTER_ADDRESS.fullmatch(text):
        raise ValueError(
            "it is not an address of a cluster: write local, auto, ray://HOST:10001 or HOST:6379"
        )
    return text


class ClusterSettings(Section):
    """The cluster of the operations whose `runs` is `cluster`."""

    address: Annotated[str, AfterValidator(_cluster_address)] = Field(
        default="local",
        description="`local` starts Ray on this machine when an item first needs it. `auto` "
        "connects to a Ray that runs on this machine, `ray://HOST:10001` or `HOST:6379`"
        " to another one.",
    )


class OperationSettings(Section):
    """Settings of one operation."""

    runs: Literal["thread", "process", "cluster"] = Field(
        description="Where the operation runs: in a thread, in a worker process, or on the cluster."
    )
