"""Many URLs at once: `Fetcher`, its limits per host, and the text of pages for a model.

Rules for pages and hosts belong here: redirects, charsets, Markdown, throttling.

    types         the bounds, the request and the result of a fetch       no I/O
    headers       the header fields of a request and of a result          no I/O
    redirects     the target of a redirect, and cookies within the chain  no I/O
    robots        what a site's robots.txt allows
    reply_cache   replies that are reused
    kept_pages    long texts, kept to continue reading                    no I/O
    text          the body of a reply as text
    hosts         the limit of each host, and the end of its pauses
    fetcher       `Fetcher`: what `fetch_urls` uses
"""
