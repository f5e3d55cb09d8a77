"""The reader's way in: each pattern of structured concurrency as one small tool.

Served with `--toolset patterns`. Names, arguments and fields are those of the guideline that
`docs/guideline.md` goes through. The work is real: they fetch, hash and query. Each is made with
`tool`, as an application makes its own, and asks the server through its `ToolContext`. Note what is
absent: no handler for a cancel, no polling, no list of tasks, no flag that says stop.

hashing       the work of most of them, and how a failed item is shown
limits        a rate limit, a bounded map, a stream
deadlines     a deadline with partial results, a query with a time limit, a cancel
toolset       a request context; all seven as tools
"""
