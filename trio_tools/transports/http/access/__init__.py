"""Who may send a request: from which address, for which Host, from which Origin, with which token.

Rules that every request is checked against before it is read belong here. Access is off by default.

authentication   which address, which Host, which Origin, which token
browsers         what a page of another origin may do and read
forwarded        the client behind a trusted proxy
"""
