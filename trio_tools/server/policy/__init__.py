"""Code around every call of a tool: its scope, its queue, its log record, its span.

Code that applies to all tools belongs here. Code of one tool is in `tools`.

    access_log      a record for each call
    telemetry       a span for each request
    call_policy     the queue and the cancellation of a call
    callers_client  the client of a call, for requests of upstreams
    scopes          the permissions of an access token
"""
