"""Other MCP servers behind this one: the client side, and the only place that connects to them.

How an upstream is started, called, cancelled, restarted and closed belongs here. One task owns
each connection; callers only use it. Nothing here knows operations or our own MCP server.

    homes            the nurseries that upstreams live in
    launch           the settings of an upstream, with references filled in
    child            the program of an upstream: its pipes, its stderr, its end
    messages         handling of messages that all transports share
    stdio            MCP messages over the pipes of a program
    http             MCP messages over Streamable HTTP
    catalog          the tools of an upstream, and which of them may be used
    content          the result of a tool as a value
    client_requests  requests of an upstream to its client, passed on or refused
    tool_list        the tools of one connection, and their changes
    cancels          whether an upstream over stdio reacts to cancels
    failures         what a failed call or connection was about
    connection       one connection, from its handshake to its end
    status           the state of an upstream, and when it is restarted
    upstream         one upstream: started at first use, restarted, closed when idle
    upstreams        all upstreams of one server
"""
