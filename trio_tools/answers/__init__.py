"""Answers to callers: the envelope, failures, and cursors.

Everything that determines the text or the structure of an answer belongs here. Nothing here depends
on a tool or a transport.

    errors          failures that a caller can act on
    shortages       a shortage of this machine or process, as a failure
    json_values     values as JSON that JavaScript reads without loss
    texts           the text of an answer, with foreign text between markers
    envelope        success_response, error_response and their schema
    cursors         signed positions, from which the next page starts
    error_mapping   the one table from an exception to a failure
"""
