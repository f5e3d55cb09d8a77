"""What operators of an HTTP server, and its supervisor, ask for and are told while it runs.

token_reload  the file of tokens, read again when it changes
reload_door   POST /reload
metrics_door  who may read /metrics, and the port of its own
supervisor    what systemd is told: ready, reloading, stopping, alive
"""
