"""Operations: functions of one item that run over many, and the store that keeps what they did.

What can be done with an item belongs here, and how its outcomes outlive the call. Nothing here
knows MCP. Each module imports only those above it.

memory_estimate   how much memory values hold
timeline          when the items of an operation started and ended, and how far they are
item_types        types of items, and the error for an item of another shape
functions         the function of an operation: what it takes
operation         `Operation` and what it declares
output_state      the file that outcomes go to, and whether they got there
result            what an operation returned for one item, in memory or on the disk
durable           what is stored beyond the process, and when it is safe
item_runner       an operation over the items of one batch
memory_budget     what items in flight and kept results may take together
stored_operation  one operation that outlives its call, and what a store of them does
store             operations that outlive their calls
durable_store     operations that outlive the process
builtin           the operations that come with the server
registry          the operations of one server, by name
"""

from trio_tools.operations.operation import Operation as Operation
