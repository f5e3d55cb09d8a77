"""The operator's settings, and the log.

Every setting belongs here, with its type, bound and description. Nothing here opens a file, a
socket or a database that a setting names.

    database_urls  URLs of databases: our parameters, and those for the driver
    groups         the groups of settings: fetch, http, limits and others
    telemetry      the group of OpenTelemetry, and the seam to it
    host_files     the servers in a host's configuration file
    environment    settings from environment variables
    settings       `Settings`, and where its values come from
    shares         the share of each limit for one of several processes
    changes        the differences between two settings, and which need a restart
    reference      the settings as a table and as an example file
    problems       errors in settings, as lines of text
    threads        a tool's thread, and how long a cancel waits for it
    computing      where functions that compute run
    logs           the log of the command line, on stderr
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
    TelemetrySettings,
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
    "TelemetrySettings",
    "ToolLimits",
    "UpstreamSettings",
    "written_name",
]
