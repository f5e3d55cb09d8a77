"""An introduction: each pattern of structured concurrency as one small tool.

Served with `--toolset patterns`. Names, arguments and fields are those of the guideline in
`docs/guideline.md`. The work is real: they fetch, hash and query. Each is made with `tool`, as in
an application, and uses the server through its `ToolContext`. None of them has a handler for a
cancel, polling, a list of tasks, or a stop flag.

hashing       the work of most of them, and the form of a failed item
limits        a rate limit, a bounded map, a stream
deadlines     a deadline with partial results, a query with a time limit, a cancel
toolset       a request context; all seven as tools
"""
