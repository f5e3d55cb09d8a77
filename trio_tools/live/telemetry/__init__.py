"""Traces and metrics through OpenTelemetry (extra `telemetry`), made from the live objects.

All imports of OpenTelemetry in the server are here, and only `telemetry` is imported without it.

    spans        spans of calls, batches and requests
    meters       the figures of the server as instruments
    providers    where spans and metrics go, by the settings and the environment
    telemetry    `Telemetry`: on while the server serves, flushed at its end
"""
