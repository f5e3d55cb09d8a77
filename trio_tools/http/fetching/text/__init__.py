"""The body of a reply as text: its charset, and JSON, Markdown or the text of a PDF.

What decides what a caller reads of a body belongs here. Whatever takes long on a hostile body runs
in a worker process.

    charsets      which charset a body is in, declared or detected          no I/O
    extraction    a page as Markdown, in a worker process                   no I/O
    pdf           the text of a PDF, in a worker process                    no I/O
    content       bytes to text, JSON or Markdown
    page_content  what a page has of the body of a reply
"""
