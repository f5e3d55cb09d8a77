"""Requests of operators of an HTTP server, and messages to its supervisor.

token_reload  the file of tokens, read again when it changes
reload_door   POST /reload
metrics_door  access to /metrics, and its own port
supervisor    messages to systemd: ready, reloading, stopping, alive
"""
