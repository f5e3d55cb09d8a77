"""Operations that outlive the process: their stored form, its location, and when it is committed.

Code that writes or reads state files and databases of operations belongs here. Nothing here knows
the tools. Each module imports only those above it.

location     the location of the state, and the key that signs cursors
holders      the server that runs an operation, and whether it has died
records      operations, and the changes of one commit
blobs        outcomes as bytes, and reading them
notices      notices between servers that share a database
pruning      selects the operations to delete
counters     the use of clients, over all servers
tables       the tables, in SQLAlchemy, and their migrations
engine       connections and transactions
database     write, read, find and delete; blocking, for threads
disk_budget  the limit of stored bytes, and which operations may start items
journal      the changes of an operation for the writer
writer       group commit: one thread, and the tasks that wait for it
"""
