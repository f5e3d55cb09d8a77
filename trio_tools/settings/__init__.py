"""What the operator decides, and how it is logged.

Every value that an operator can set belongs here, with its type, its bound and its description.
Nothing here opens a file, a socket or a database that a setting names.

    database_urls  URLs of databases: what is ours, and what goes to the driver
    machine     what of the machine this process may use
    clients     the group of one client
    oauth       the group of an authorization server
    schema      the groups of settings: fetch, apis, databases, datasets, state, cluster, http
    upstreams   the group of one upstream
    host_files  the servers that a host keeps in its own file
    settings    `Settings`, and where its values come from
    shares      what one of several processes may do of it
    changes     what differs between two settings, and what a running server takes
    reference   the settings as a table and as an example file
    problems    what is wrong with settings, in lines
    threads     a tool's thread, and how long a cancel waits for it
    computing   where functions that compute run
    logs        the log of the command line, on stderr
"""

from __future__ import annotations

from trio_tools.settings.settings import (
    ApiSettings,
    ClusterSettings,
    DatabaseSettings,
    DatasetSettings,
    FetchSettings,
    HttpSettings,
    OperationSettings,
    Settings,
    StateSettings,
    ToolLimits,
    UpstreamSettings,
    written_name,
)

__all__ = [
    "ApiSettings",
    "ClusterSettings",
    "DatabaseSettings",
    "DatasetSettings",
    "FetchSettings",
    "HttpSettings",
    "OperationSettings",
    "Settings",
    "StateSettings",
    "ToolLimits",
    "UpstreamSettings",
    "written_name",
]
