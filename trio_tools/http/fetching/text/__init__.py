"""The body of a reply as text: its charset, and JSON, Markdown or the text of a PDF.

Code that determines the text of a body belongs here. Anything that a hostile body can make slow
runs in a worker process.

    charsets      the charset of a body, declared or detected  no I/O
    extraction    a page as Markdown, in a worker process      no I/O
    pdf           the text of a PDF, in a worker process       no I/O
    content       bytes to text, JSON or Markdown
    page_content  the parts of a page that come from the body
"""
