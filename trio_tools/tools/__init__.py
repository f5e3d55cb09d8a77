"""The MCP tools, one file per family. Each imports only those above it.

call          what a tool gets to work with, and what it answers
declaration   what a tool declares: arguments, execution, annotations
batches       how a batch-like tool runs an operation over many items
fetch         fetch_urls
compute       compute_hash
status        get_concurrency_status
catalog       the tuple of all tools, by toolset
"""
