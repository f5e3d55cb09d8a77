"""Access checks of a request: its address, Host, Origin and token.

Rules that every request is checked against before it is read belong here. Access is off by
default.

authentication   the allowed addresses, Hosts, Origins and tokens
browsers         what a page of another origin may send and read
forwarded        the client behind a trusted proxy
"""
