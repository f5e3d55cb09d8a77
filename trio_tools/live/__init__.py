"""The live state of one server: its limits, its queues, its calls and its operations.

Tools, descriptions, status and metrics read the same objects, so they cannot disagree. Nothing
here knows MCP.

    calls        a call from its arrival to its answer, and how long calls took
    clients      the clients that share the server, and the share of each
    usage        the use of each client today
    jobs         work that continues while the server serves
    limits       the declared limits of a tool, with their current capacity
    workers      the figures of several worker processes together
    state        `ServerState`: everything that lives as long as one server
    datasets     the records of a dataset as items
    crawls       what a crawl found, stored with its outcomes
    operations   operations made for a call, restored from the store, and run
    snapshot     the content of the dashboard
    figures      the figures of metrics
    telemetry    traces and metrics through OpenTelemetry
    stored_view  the content of the dashboard for a state that other processes write to
    pages        the HTML pages
"""
