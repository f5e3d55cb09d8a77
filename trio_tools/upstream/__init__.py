"""Other MCP servers behind this one: the client side, and the only place that opens it.

How an upstream is started, called, cut, restarted and given back belongs here. One task owns each
connection; callers come and go. Nothing here knows of operations or of our own MCP server.

    homes       the nurseries that upstreams live in
    launch      what the settings say, with references filled in
    child       the program of an upstream: its pipes, its last words, its end
    messages    what every transport does with messages
    stdio       MCP messages over the pipes of a program
    http        MCP messages over Streamable HTTP
    catalog     which tools there are, and which of them may be used
    content     what a tool's result is as a value
    client_requests  what an upstream asks its client, handed on or refused
    tool_list   the tools of one connection, and their changes
    cancels     whether an upstream over stdio reacts to cancels
    connection  one connection, from its handshake to its end
    upstream    one upstream: started on first use, restarted, given back
    upstreams   all upstreams of one server
"""
