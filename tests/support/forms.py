"""Whether an answer is complete as a text: every datum of its structured content is found in it."""

import json


def leaves(value):
    """Yield each text and number in a JSON value."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield value


def check_complete(text, envelope, *, without=()):
    """Find every datum of the structured content in the text."""
    plain = text.replace(",", "")
    for char in "\u2028\x85":
        text = text.replace(f"\\u{ord(char):04x}", char)
    cells = text.replace("\\|", "|").replace("\\\\", "\\")
    for leaf in leaves({k: v for k, v in envelope["data"].items() if k not in without}):
        told = str(leaf)
        written = (told, json.dumps(told, ensure_ascii=False)[1:-1], json.dumps(told)[1:-1])
        assert any(one in text for one in written) or told in plain or told in cells, leaf
