"""What a caller is answered: the envelope, failures, and the marks of pages.

Everything that decides the words or the shape of an answer belongs here. Nothing here knows which
tool answers, or by which transport.

    errors          failures that a caller can act on
    shortages       a shortage of this machine or process, as a failure
    json_values     values as JSON that JavaScript reads as it was meant
    texts           the text of an answer, with what is foreign between markers
    envelope        success_response, error_response and their schema
    cursors         signed marks of where the next page starts
    error_mapping   the one table from an exception to a failure
"""
