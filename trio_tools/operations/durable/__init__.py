"""Operations that outlive the process: what is stored, where, and when it is safe.

Whatever writes or reads state files and databases of operations belongs here. Nothing here knows
which tool asked. Each module imports only those above it.

location  where the state is, and the key that signs cursors
records   operations and outcomes as bytes
notices   what servers that share a database tell each other
counters  what clients used, over all servers
database  the tables, in SQLAlchemy; blocking, for threads
writer    group commit: one thread, and the tasks that wait for it
"""
