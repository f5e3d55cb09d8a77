import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tools.transports.stdio.request_ids import END_BYTES, request_id_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
# Texts that look like the fields that are searched for.
TRAPS = st.sampled_from([',"id":7}', '{"id":7,"method":"x",', "\\", '"', "id", '","id":7}'])
IDS = st.integers() | st.text() | TRAPS


@given(
    IDS,
    st.permutations(["jsonrpc", "id", "method", "params"]),
    st.dictionaries(st.text() | TRAPS | st.just("id"), ANYTHING | TRAPS),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]),
)
def test_the_id_is_found_wherever_it_stands_and_is_never_another_one(
    request_id, order, params, separators
):
    fields = {"jsonrpc": "2.0", "id": request_id, "method": "x", "params": params}
    text = json.dumps({name: fields[name] for name in order}, separators=separators).encode()
    assert request_id_of(text, text) == request_id
    assert request_id_of(text) in {request_id, None}


@given(st.dictionaries(st.text() | st.sampled_from(["id", "method"]) | TRAPS, ANYTHING | TRAPS))
def test_what_is_found_is_what_the_parser_finds(fields):
    text = json.dumps(fields).encode()
    found = request_id_of(text, text)
    assert found is None or ("method" in fields and fields["id"] == found)


@pytest.mark.parametrize(
    "text",
    [
        b'{"jsonrpc":"2.0","id":1,"result":[',  # a response to a request of ours
        b'{"method":"x","params":{"id":1',
        b'{"method":"x","params":{},"id":[1]}',
        b'{"method":"x","params":{},"id":1.5}',
        b'{"method":"x","id":true,"params":[',
        b'[{"method":"x","id":1}]',
        b'{"method":"x","id":"\\ud',
        b'{"method":"x","id":"\\x","params":[',
        b'"id":1',
        b"",
    ],
)
def test_no_id_is_guessed(text):
    assert request_id_of(text, text) is None


@pytest.mark.parametrize("trap", [b',"a":1', b'","', b',"id":', b'\\"', b"{", b" "])
def test_the_cost_is_that_of_the_two_ends(trap):
    text = b'{"method":"x","params":{' + trap * (2 * END_BYTES) + b'},"id":5}'
    # The search reads each byte of the end a few times at most; it would be stuck otherwise.
    assert request_id_of(text, text) == 5
