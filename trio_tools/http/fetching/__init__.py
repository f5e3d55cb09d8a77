"""Many URLs at once: `Fetcher`, its limits per host, and what becomes text for a model.

Rules that concern pages and hosts belong here: redirects, charsets, Markdown, throttling.

    types             the bounds, the request and the result of a fetch         no I/O
    headers           the header fields of a request and of a result            no I/O
    redirects         where a reply leads to, and the cookies on the way        no I/O
    robots            what a site's robots.txt allows
    reply_cache       replies that are used again
    kept_pages        texts longer than wanted, kept to be read on              no I/O
    charsets          which charset a body is in, declared or detected          no I/O
    extraction        a page as Markdown, in a worker process                   no I/O
    pdf               the text of a PDF, in a worker process                    no I/O
    content           bytes to text, JSON or Markdown
    page_content      what a page has of the body of a reply
    throttling        replies that ask for a pause, and when to send again
    host              how many requests one host takes at a time                no I/O
    host_throttle     the hosts in use, where a request waits for its turn
    throttled_client  one request to one host, in its turn
    fetcher           `Fetcher`: what `fetch_urls` uses
"""
