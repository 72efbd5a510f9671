"""URLs as they are asked for, and as they are shown."""

from __future__ import annotations

import pytest

from hutch.control.fetch import Fetcher, _bare, shown
from hutch.errors import InputFailed


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("http://user:pw@example.com:81/a?b=c#d", "http://example.com:81/a?b=c"),
        ("https://bücher.example/ä b?ö=1", "https://xn--bcher-kva.example/%C3%A4%20b?%C3%B6=1"),
        ("http://[2606:4700::1]/x%20y", "http://[2606:4700::1]/x%20y"),
    ],
)
def test_what_is_asked_for_has_no_credentials_and_is_ascii(url: str, bare: str) -> None:
    assert _bare(url) == bare


def test_what_is_shown_has_no_secrets() -> None:
    assert shown("https://user:pw@example.com/a?token=x#y") == "https://example.com/a"
    assert len(shown("https://example.com/" + "x" * 10_000)) <= 300


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.com/x", "http://", "http://[::1", "http://a:99999/", "gopher://x/", "//x"],
)
async def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InputFailed):
        await anext(Fetcher(allow_private=False, max_bytes=10).get(url))
