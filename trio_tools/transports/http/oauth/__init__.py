"""OAuth 2.1: the server as a resource server, whose tokens an authorization server issues.

The checks of an access token, and the challenge for a client without one, belong here. No token
is issued.

    metadata         the protected resource metadata for clients (RFC 9728)
    keys             the issuer's keys: fetched outside of requests, cached, rotated
    tokens           the check of one access token
    resource_server  all parts combined
    scope_stage      passes the scopes to the policy of a call
"""
