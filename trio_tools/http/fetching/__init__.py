"""Many URLs at once: `Fetcher`, its limits per host, and what becomes text for a model.

Rules that concern pages and hosts belong here: redirects, charsets, Markdown, throttling.

    types           what a fetch may do, is asked for, and returns            no I/O
    headers         the header fields of a request and of a result            no I/O
    extraction      the main text of a page, in a worker process              no I/O
    content         bytes to text, JSON or Markdown
    host_throttle   limits per host that adapt to 429, 503 and slowness
    fetcher         `Fetcher`: what `fetch_urls` uses
"""
