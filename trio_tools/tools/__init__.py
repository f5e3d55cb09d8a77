"""The MCP tools, one file per family, and the code that they share.

The arguments and answers of tools belong here. `operations` and the services below do the work.
Each module imports only those above it.

call          the context of a call, and its answer
declaring     how a tool is declared: arguments, schemas, descriptions
batches       the common part of batch-like tools: run, page, report, resume
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
