import json
from pathlib import Path

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
        ("http://e.org:0/", Code.INVALID_URL),
        ("http://e.org:65536/", Code.INVALID_URL),
        ("http://e.org:99999999/", Code.INVALID_URL),
        ("http://user:secret@e.org/", Code.INVALID_URL),
        ("http://e.org/\ud800", Code.INVALID_URL),
        ("http://\ud800/", Code.INVALID_URL),
        ("http://ex ample/", Code.INVALID_URL),
        ("http://256.1.1.1/", Code.INVALID_URL),
        ("http://[::1/", Code.INVALID_URL),
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


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("  http://e.org/a b \n", "http://e.org/a%20b"),
        ("http://e.org\\a\\b", "http://e.org/a/b"),
        ("http://e.org\\@evil.org/", "http://e.org/@evil.org/"),
        ("http://e.org/\r\nHost: evil", "http://e.org/Host:%20evil"),
        ("http:///e.org/path", "http://e.org/path"),
        ("http:/e.org/x", "http://e.org/x"),
        ("http:e.org/x", "http://e.org/x"),
        ("<https://e.org/a>", "https://e.org/a"),
        ("http://e.org/a/%2e%2e/b/./c", "http://e.org/b/c"),
        ("http://e.org/é?q=\"ü'", "http://e.org/%C3%A9?q=%22%C3%BC%27"),
        ("http://_a.example/", "http://_a.example/"),
        ("http://-a.example/", "http://-a.example/"),
        ("http://💩.example/", "http://xn--ls8h.example/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("HTTP://E.ORG.:080/", "http://e.org./"),
    ],
)
def test_a_url_is_read_as_browsers_read_it(text, url):
    target = parse_url(text)
    assert target.url == url
    assert f"{target.origin.scheme}://{target.host_header.decode()}{target.path.decode()}" == url


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("e.org/path", "https://e.org/path"),
        ("www.example.org", "https://www.example.org"),
        ("e.org:8080/x", "https://e.org:8080/x"),
        ("localhost:8080/x", "http://localhost:8080/x"),
        ("//e.org/x", "https://e.org/x"),
    ],
)
def test_a_missing_scheme_is_named_with_the_url_that_may_be_meant(text, meant):
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert f"no scheme; did you mean {meant}." in caught.value.message


# Facts of web-platform-tests (url/resources/urltestdata.json): a text, its base, and the URL as it
# is asked for; null where it is none that can be asked for without credentials over http or https.
FACTS = json.loads((Path(__file__).parent / "whatwg_urls.json").read_text("utf-8"))
# Punycode that decodes to no character: ada lets it pass, and no name server knows it.
BEYOND_UNICODE = "xn--pokxncvks"


@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_urls_are_those_of_the_web_platform_tests(fact):
    text, base, url = fact
    try:
        found = parse_url(text, base=base).url
    except FetchError:
        found = None
    assert found == url or BEYOND_UNICODE in text.lower()


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
