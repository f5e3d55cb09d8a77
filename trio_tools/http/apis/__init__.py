"""Configured HTTP APIs, called by name. Their secrets never reach a caller.

types       what an API may be called with, and returns                   no I/O
paths       may this path be called?                                      no I/O
redaction   a secret that does not show itself                            no I/O
client      `ApiClient`: what `call_external_api` uses
"""
