"""The MCP tools, one file per family. Each imports only those above it.

arguments     the arguments that several tools share
call          what a tool gets to work with, and what it answers
results       an answer or a failure as MCP has it
declaration   what a tool declares: arguments, execution, annotations
pages         what of an operation fits into one answer
progress      how a tool tells its caller how it goes
batch_calls   how a batch-like tool runs an operation over many items
fetch         fetch_urls
api           call_external_api
database      query_database
compute       compute_hash, compress_data
inference     run_inference
batch         batch_process, get_operation, cancel_operation
datasets      process_large_dataset
status        get_concurrency_status
patterns      the smallest example of each pattern
catalog       the tuple of all tools, by toolset
"""
