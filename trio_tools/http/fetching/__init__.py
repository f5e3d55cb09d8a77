"""Many URLs at once: `Fetcher`, its limits per host, and what becomes text for a model.

Rules that concern pages and hosts belong here: redirects, charsets, Markdown, throttling.

    types             the bounds, the request and the result of a fetch         no I/O
    headers           the header fields of a request and of a result            no I/O
    redirects         where a reply leads to, and the cookies on the way        no I/O
    robots            what a site's robots.txt allows
    reply_cache       replies that are used again
    kept_pages        texts longer than wanted, kept to be read on              no I/O
    text              the body of a reply as text
    hosts             the limit of each host, and when it is asked again
    fetcher           `Fetcher`: what `fetch_urls` uses
"""
