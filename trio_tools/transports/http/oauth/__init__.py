"""OAuth 2.1: the server as a resource server, whose tokens an authorization server issues.

What a token has to be, and what a client without one is told, belongs here. No token is issued.

    metadata    what clients are told of the authorization server (RFC 9728)
    keys        the issuer's keys: fetched off the path of requests, cached, rotated
    tokens      one access token, checked
    resource_server  all of it, put together
    scope_stage  scopes, handed to the policy around a call
"""
