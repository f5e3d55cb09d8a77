"""Operations: functions of one item that tools run over many. Each imports only those above it.

sizes      how much memory values hold
base       `Operation` and what it declares
work       an operation over the items of one batch
registry   the operations of one server, by name
web        fetch, call_api
content    hash, compress
data       query, infer
builtin    the six of them
"""

from trio_tools.operations.base import Operation as Operation
