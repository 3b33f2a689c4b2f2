"""A request's body, read and decoded up to a limit."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request

from tollama.errors import InvalidRequest, RequestTooLarge


def _gzip(body: bytes) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(body))


def _zstd(body: bytes) -> Any:
    import pyarrow  # type: ignore[import-untyped]  # 0.1 s that only those who send zstd pay, once

    return pyarrow.CompressedInputStream(pyarrow.BufferReader(body), "zstd")


DECODERS: Mapping[str, Callable[[bytes], Any]] = {"gzip": _gzip, "x-gzip": _gzip, "zstd": _zstd}


async def read(request: Request, limit: int) -> bytes:
    """The whole body, decoded. Raises :class:`RequestTooLarge` as soon as it is known to be over ``limit`` bytes."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return await _sent(request, limit)
    if encoding not in DECODERS:
        raise InvalidRequest(
            f"The content encoding {encoding[:20]!r} is not supported.", hint="Send gzip, zstd, or it uncompressed."
        )
    body = await _sent(request, limit)
    return await asyncio.to_thread(decoded, body, encoding, limit)


async def _sent(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """``body`` uncompressed. No more than ``limit`` bytes are ever unpacked, however many there would be."""
    try:
        plain: bytes = DECODERS[encoding](body).read(limit + 1)
    except (OSError, EOFError, zlib.error):
        raise InvalidRequest(
            f"The body is not whole {encoding}, as its content encoding says.", hint="Compress it again."
        ) from None
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's body is larger than the limit of {limit / 1e6:g} MB.")
