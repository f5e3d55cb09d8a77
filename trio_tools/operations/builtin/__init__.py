"""The operations that come with the server: what each does to one item, and how its outcome reads.

A new operation of our own belongs here, in the module of its subject. How operations run, and where
their outcomes are stored, does not. No module imports another one.

    web       fetch, call_api
    crawl     crawl
    content   hash, compress
    data      query, infer
    upstream  the tools of the MCP servers behind this one
"""
