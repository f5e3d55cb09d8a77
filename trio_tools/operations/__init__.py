"""Operations: functions of one item that run over many, and the store of their outcomes.

The functions of one item belong here, and how their outcomes outlive the call. Nothing here knows
MCP. Each module imports only those above it.

memory_estimate   estimates of the memory that values use
timeline          when the items of an operation started and ended, and their progress
item_types        types of items, and the error for an item of another shape
functions         the function of an operation: its parameters
operation         `Operation` and its declaration
output_state      the output file of an operation, and whether it was written
result            the result of one item, in memory or on the disk
durable           the stored form of operations, and when it is committed
item_runner       an operation over the items of one batch
memory_budget     the memory limit for items in flight and kept results
stored_operation  one operation that outlives its call, and the interface of a store
store             operations that outlive their calls
durable_store     operations that outlive the process
builtin           the operations that the server provides
registry          the operations of one server, by name
"""

from trio_tools.operations.operation import Operation as Operation
