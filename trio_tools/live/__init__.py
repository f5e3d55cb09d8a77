"""What is live in one server: its limits, its waiting queues, its calls and its operations.

Tools, descriptions, status and metrics read the same objects, so they cannot disagree. Nothing
here knows MCP.

    calls        a call from its arrival to its answer, and how long calls took
    clients      who shares the server, and what one client may hold
    usage     the use of each client today
    jobs      work that continues while the server serves
    limits    the declared limits of a tool, with their current capacity
    workers   the figures of several worker processes together
    datasets     the records of a dataset as items
    operations   operations made for a call, brought back, and worked on
    snapshot     what the dashboard shows
    figures      the figures of metrics
    telemetry    traces and metrics through OpenTelemetry
    stored_view  the same of a state that other processes write to
    pages        the pages that show it
"""
