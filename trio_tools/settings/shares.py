"""The share of one process, when several processes divide what the settings allow."""

from __future__ import annotations

from trio_tools.settings.settings import Settings


def share_of(settings: Settings, processes: int) -> Settings:
    """Return the settings of one of several processes that share nothing but the state.

    Limits that protect others are divided: the rates of APIs and upstreams, and the connections
    to one host. Each process may have at least one request in flight, so many processes together
    may exceed the setting. Limits that protect the process itself stay.

    Args:
        settings: Those of all processes together.
        processes: How many there are, from 1.
    """
    if settings.limits.shared:  # in that case the database counts them
        replicas = settings.limits.replicas * processes
        limits = settings.limits.model_copy(update={"replicas": replicas})
        return settings.model_copy(update={"limits": limits})
    apis = {
        name: api.model_copy(
            update={
                "rate_per_second": api.rate_per_second / processes,
                "burst": max(1, api.burst // processes),
                "max_concurrent": max(1, api.max_concurrent // processes),
            }
        )
        for name, api in settings.apis.items()
    }
    upstreams = {
        name: upstream
        if upstream.rate_per_second is None
        else upstream.model_copy(update={"rate_per_second": upstream.rate_per_second / processes})
        for name, upstream in settings.upstreams.items()
    }
    per_host = max(1, settings.fetch.max_connections_per_host // processes)
    fetch = settings.fetch.model_copy(update={"max_connections_per_host": per_host})
    return settings.model_copy(update={"apis": apis, "upstreams": upstreams, "fetch": fetch})
