"""HTTP/1.1 between this process and one server: from a URL to the bytes of its reply.

Everything that touches a socket, a frame or an address belongs here. Nothing here knows what a
page is, or how fast a host may be asked.

    errors             what can go wrong with one URL
    urls               a URL, parsed once                                     no I/O
    proxies            which proxy a request goes through                     no I/O
    address_policy     may this client connect to that address?               no I/O
    codecs             gzip, deflate, br and zstd, a bounded piece at a time  no I/O
    content_encoding   the codings of a body, decoded under a cap             no I/O
    head_repair        the head of a reply, broken where it does not matter   no I/O
    response_parser    replies from bytes, as a table of states               no I/O
    request_framing    the head of a request, and how its body ends           no I/O
    connection         one connection: bytes out, bytes in
    connector          resolve, check every address, connect, TLS
    pool               which connection a request gets
    exchange           one request and its reply
    reply              the fields of a reply by name, its body up to a cap
    client             a pool for the length of a block
"""
