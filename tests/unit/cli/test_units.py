from __future__ import annotations

import pytest
import typer

from hutch.cli.units import human_bytes, human_seconds, parse_duration, parse_mib


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("45s", 45),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        (" 1M ", 60),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5x", "m", "10m5", "-5s", "1h 30m", "ten"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("512", 512), ("512M", 512), ("2G", 2048), ("2GiB", 2048), ("1.5g", 1536), ("2048k", 2), ("1T", 1 << 20)],
)
def test_sizes(text: str, mib: int) -> None:
    assert parse_mib(text) == mib


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "lots"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_mib(text)


def test_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1536, 158 << 20, 3 << 40)] == [
        "0 B",
        "999 B",
        "1.5 KiB",
        "158 MiB",
        "3072 GiB",
    ]
    assert [human_seconds(n) for n in (0.44, 12.4, 59.7, 200, 7500, 273600)] == [
        "0.4 s",
        "12 s",
        "1m 0s",
        "3m 20s",
        "2h 5m",
        "3d 4h",
    ]
