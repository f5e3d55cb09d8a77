"""Operations that outlive the process: what is stored, where, and when it is safe.

Code that writes or reads state files and databases of operations belongs here. Nothing here knows
which tool asked. Each module imports only those above it.

location  where the state is, and the key that signs cursors
holders   which server works on an operation, and whether it has died
records   operations, and what one commit changes of them
blobs     outcomes as bytes, and what is read back of them
notices   what servers that share a database tell each other
pruning   which operations have to go
counters  what clients used, over all servers
tables    the tables, in SQLAlchemy, and how older ones become new ones
engine    connections and transactions
database  what is written, read, found and deleted; blocking, for threads
disk_budget  how much may be stored, and who may start further items
journal   what an operation tells the disk
writer    group commit: one thread, and the tasks that wait for it
"""
