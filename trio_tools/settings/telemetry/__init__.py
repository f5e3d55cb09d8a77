"""Whether traces and metrics are sent with OpenTelemetry, and the interface to the sender.

Nothing here imports OpenTelemetry. Code that makes requests reads `current_tracing`, which is None
unless the operator has switched telemetry on.

    section  the group of settings
    seam     the interface that code around a request calls
"""
