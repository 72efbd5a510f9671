"""The seal of exported snapshots: nothing but what bears it is taken in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import InternalError, InvalidArchive
from hutch.node.seals import SEAL_BYTES, archive_key, sealed, unsealed

KEY = bytes(range(32))


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(1, 300))
async def test_it_comes_off_again_however_the_stream_is_cut(data: bytes, one: int, other: int) -> None:
    file = await whole(sealed(pieces(data, one), KEY))
    assert file[:-SEAL_BYTES] == data
    assert await whole(unsealed(pieces(file, other), KEY)) == data


@given(st.binary(max_size=500), st.data())
async def test_one_changed_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    file = bytearray(await whole(sealed(pieces(data, 100), KEY)))
    at = draw.draw(st.integers(0, len(file) - 1))
    file[at] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(InvalidArchive, match="seal"):
        await whole(unsealed(pieces(bytes(file), 64), KEY))


@pytest.mark.parametrize("cut", [0, 1, SEAL_BYTES - 1, SEAL_BYTES, SEAL_BYTES + 1, 600])
async def test_one_that_is_cut_short_or_goes_on_is_noticed(cut: int) -> None:
    file = await whole(sealed(pieces(b"x" * 500, 100), KEY))
    changed = file[: len(file) - cut] if cut else file + b"\n"
    with pytest.raises(InvalidArchive, match="seal"):
        await whole(unsealed(pieces(changed, 64), KEY))


async def test_another_key_is_another_installation() -> None:
    file = await whole(sealed(pieces(b"data", 100), KEY))
    with pytest.raises(InvalidArchive, match="seal"):
        await whole(unsealed(pieces(file, 64), KEY[::-1]))


def test_the_key_is_made_once_and_is_the_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "archive.key"
    key = archive_key(path)
    assert len(key) == 32 and archive_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("not a key\n")
    with pytest.raises(InternalError, match=r"archive\.key"):
        archive_key(path)
