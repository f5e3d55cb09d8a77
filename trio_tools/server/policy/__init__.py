"""What surrounds every call of a tool: its scope, its queue, its record in the log, its span.

What holds for all tools alike belongs here. What one tool does is in `tools`.

    access_log      a record for each call
    telemetry       a span for each request
    call_policy     the waiting queue and the departure of a call
    callers_client  the client of a call, as upstreams may ask it
    scopes          what an access token allows
"""
