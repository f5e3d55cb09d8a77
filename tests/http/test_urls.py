import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tools.http.wire import urls
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.urls import Origin, parse_url


@pytest.mark.parametrize(
    ("text", "url", "origin", "host_header", "path"),
    [
        ("http://e.org", "http://e.org/", Origin("http", "e.org", 80), b"e.org", b"/"),
        ("HTTP://E.ORG:80/a", "http://e.org/a", Origin("http", "e.org", 80), b"e.org", b"/a"),
        (
            "https://e.org:8443/a?b=c#d",
            "https://e.org:8443/a?b=c",
            Origin("https", "e.org", 8443),
            b"e.org:8443",
            b"/a?b=c",
        ),
        ("http://[::1]:81/", "http://[::1]:81/", Origin("http", "::1", 81), b"[::1]:81", b"/"),
        (
            "http://bücher.example/ü?q=ü%20",
            "http://xn--bcher-kva.example/%C3%BC?q=%C3%BC%20",
            Origin("http", "xn--bcher-kva.example", 80),
            b"xn--bcher-kva.example",
            b"/%C3%BC?q=%C3%BC%20",
        ),
    ],
)
def test_a_url_is_taken_apart(text, url, origin, host_header, path):
    target = parse_url(text)
    assert (target.url, target.origin) == (url, origin)
    assert (target.host_header, target.path) == (host_header, path)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.INVALID_URL),
        ("e.org/path", Code.INVALID_URL),
        ("http://", Code.INVALID_URL),
        ("http:///path", Code.INVALID_URL),
        ("http://e.org:0/", Code.INVALID_URL),
        ("http://e.org:65536/", Code.INVALID_URL),
        ("http://e.org:99999999/", Code.INVALID_URL),
        ("http://user:secret@e.org/", Code.INVALID_URL),
        ("http://e.org/a b", Code.INVALID_URL),
        ("http://e.org\\@evil.org/", Code.INVALID_URL),
        ("http://e.org/\r\nHost: evil", Code.INVALID_URL),
        ("http://e.org/\ud800", Code.INVALID_URL),
        ("http://\ud800/", Code.INVALID_URL),
        ("http://[::1/", Code.INVALID_URL),
        ("http://a..b\u00e4/", Code.INVALID_URL),
        ("http://e.org/" + "a" * 70_000, Code.INVALID_URL),
        ("file:///etc/passwd", Code.BLOCKED_SCHEME),
        ("gopher://e.org/", Code.BLOCKED_SCHEME),
        ("javascript:alert(1)", Code.BLOCKED_SCHEME),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_a_reason(text, code):
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.error_code == code
    assert "secret" not in caught.value.message


def test_a_redirect_may_be_relative_and_may_hold_a_space():
    assert parse_url("../b c", base="http://e.org/x/y/z").url == "http://e.org/x/b%20c"
    assert parse_url("//f.org/", base="https://e.org/").origin == Origin("https", "f.org", 443)


USUAL = st.from_regex(
    r"\Ahttps?://[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?(:[0-9]{1,6})?/[a-zA-Z0-9./%&=;:@-]{0,9}"
    r"(\?[a-z=&%/?]{0,5})?\Z"
)


@given(USUAL)
def test_the_short_way_and_the_long_way_agree(text):
    def outcome():
        try:
            return parse_url(text)
        except FetchError as exc:
            return exc.error_code

    short = outcome()
    usual, urls._USUAL_URL = urls._USUAL_URL, urls.re.compile(r"(?!)")
    try:
        assert outcome() == short
    finally:
        urls._USUAL_URL = usual


@given(st.text())
def test_any_text_is_a_target_or_a_named_refusal(text):
    try:
        target = parse_url("http://e.org/" + text)
    except FetchError:
        return
    assert not set(target.path) & set(b"\r\n \0")
    assert not set(target.host_header) & set(b"\r\n \0")
