"""PostgreSQL: its connections, and one read-only statement at a time on one of them.

Code that imports psycopg, or that depends on how PostgreSQL behaves, belongs here. Each module
imports only from those above it:

    values        values of PostgreSQL as JSON
    session       one statement in a read-only transaction
    errors        errors of PostgreSQL as failures
    cancel        a cancel that reaches the server
    connections   connections and queries
"""
