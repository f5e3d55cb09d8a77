"""HTTP for many URLs at once: bounded, guarded, and cheap per request.

Import from the modules; this package imports none of them by itself, because httpx, which only
`transport` needs, costs start-up time. Each module imports only from those above it:

    failures     what can go wrong with one URL
    urls         a URL, taken apart once                                  no I/O
    guard        may this client talk to that address?                    no I/O
    parser       replies from bytes, as a table of states                 no I/O
    decoding     gzip, deflate, br and zstd undone under a cap            no I/O
    connection   one connection: bytes out, bytes in
    connect      resolve, check every address, connect, TLS
    pool         which connection does a request get?
    exchange     one request and its reply
    transport    `TrioTransport`: the engine behind httpx's interface
    content      bytes into text, JSON or Markdown
    hosts        per-host limits that adapt to 429, 503 and slowness
    fetcher      `Fetcher`: what `fetch_urls` uses
    api          `ApiClient`: what `call_external_api` uses
"""
