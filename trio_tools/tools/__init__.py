"""The MCP tools, one file per family, and what they share.

What a caller can ask for, and the shape of what a tool answers, belong here. The work itself is
done by `operations` and the doors below. Each module imports only those above it.

call          what a tool gets to work with, and what it answers
declaring     how a tool is declared: arguments, schemas, descriptions
batches       what every batch-like tool does: run, page, report, go on
fetch         fetch_urls
crawl         crawl_site
api           call_external_api
database      query_database
compute       compute_hash, compress_data
inference     run_inference
batch         batch_process, get_operation, cancel_operation
datasets      process_large_dataset
status        get_concurrency_status
application   functions of an application as tools
patterns      the smallest example of each pattern
catalog       the tuple of all tools, by toolset
"""
