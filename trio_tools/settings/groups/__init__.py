"""The groups of settings, one file for each group or for several that belong together.

A setting belongs here, with its type, bound, description and check. Nothing here reads a file or
the environment.

    section     the base of every group, and shared checks
    limits      limits: of each tool
    clients     clients: of each client
    fetch       fetch: which URLs, and how
    apis        apis: of each API
    data        databases, datasets
    state       state: where operations are stored
    computing   cluster, operations
    oauth       http.oauth: an authorization server
    http        http: the Streamable HTTP transport
    upstreams   upstreams: of each upstream
"""
