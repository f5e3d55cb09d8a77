"""The operations that the server provides: the function of one item, and the text of its outcome.

A new operation of the server belongs here, in the module of its subject. Running operations and
storing their outcomes does not. No module imports another one.

    web       fetch, call_api
    crawl     crawl
    content   hash, compress
    data      query, infer
    upstream   the tools of upstream MCP servers
"""
