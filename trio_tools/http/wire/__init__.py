"""HTTP/1.1 between this process and one server: from a URL to the bytes of its reply.

Code that handles sockets, framing or addresses belongs here. Nothing here knows what a page is,
or the rate limit of a host.

    errors             the failures of one URL
    urls               a URL, parsed once                                     no I/O
    proxies            the proxy of a request                                 no I/O
    address_policy     checks whether an address may be connected to          no I/O
    codecs             gzip, deflate, br and zstd, a bounded piece at a time  no I/O
    content_encoding   the codings of a body, decoded with a size limit       no I/O
    head_repair        repair of malformed heads, where that is harmless      no I/O
    response_parser    replies from bytes, as a table of states               no I/O
    request_framing    the head of a request, and the end of its body         no I/O
    connection         one connection: bytes out, bytes in
    connector          resolve, check every address, connect, TLS
    pool               chooses the connection of a request
    exchange           one request and its reply
    reply              the fields of a reply by name, its body up to a cap
    client             a pool for the length of a block
"""
