"""A cursor is ours and untouched, or it is refused."""

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trio_tools.answers.cursors import Cursors
from trio_tools.answers.errors import InvalidArgument

CURSORS = Cursors("tests")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
POSITIONS = st.dictionaries(st.text(), JSON, max_size=4)


def refused(cursor, cursors=CURSORS):
    with pytest.raises(InvalidArgument) as error:
        cursors.decode(cursor)
    return error.value.error_code == "INVALID_CURSOR" and "without cursor" in error.value.message


@given(POSITIONS)
def test_a_position_comes_back_as_it_was(position):
    assert CURSORS.decode(CURSORS.encode(position)) == position


@given(POSITIONS)
def test_a_cursor_can_stand_in_a_url(position):
    assert set(CURSORS.encode(position)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


@given(POSITIONS, st.data())
def test_a_cursor_with_any_byte_changed_is_refused(position, data):
    cursor = CURSORS.encode(position)
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert refused(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(POSITIONS, st.integers(min_value=1))
def test_a_truncated_cursor_is_refused(position, length):
    cursor = CURSORS.encode(position)
    assert refused(cursor[: -1 - length % (len(cursor) - 1)])


@given(st.text())
def test_any_other_text_is_refused(text):
    assert refused(text)


@given(POSITIONS)
def test_a_cursor_for_another_purpose_or_of_another_server_is_refused(position):
    secret = b"shared"
    cursor = Cursors("one", secret).encode(position)
    assert Cursors("one", secret).decode(cursor) == position
    assert refused(cursor, Cursors("two", secret))
    assert refused(cursor, Cursors("one", b"other"))
    assert refused(cursor, Cursors("one"))


@given(POSITIONS, POSITIONS)
def test_two_halves_of_two_cursors_make_none(one, other):
    assume(one != other)
    first, second = (
        base64.urlsafe_b64decode(c + "=" * (-len(c) % 4))
        for c in (CURSORS.encode(one), CURSORS.encode(other))
    )
    assert refused(base64.urlsafe_b64encode(first[:12] + second[12:]).decode())
