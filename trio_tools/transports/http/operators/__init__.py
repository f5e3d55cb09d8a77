"""What operators of an HTTP server ask for while it runs, and what is done for them unasked.

token_reload  the file of tokens, read again when it changes
reload_door   POST /reload
"""
