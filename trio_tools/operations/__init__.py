"""Operations: functions of one item that tools run over many. Each imports only those above it.

base       `Operation` and what it declares
registry   the operations of one server, by name
builtin    fetch, hash, ...
"""
