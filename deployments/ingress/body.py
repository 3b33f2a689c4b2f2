"""A request's body, read up to a limit."""

from __future__ import annotations

from fastapi import Request

from tollama.errors import InvalidRequest, RequestTooLarge


async def read(request: Request, limit: int) -> bytes:
    """The whole body. Raises :class:`RequestTooLarge` as soon as it is known to be over ``limit`` bytes."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise InvalidRequest(
            f"The content encoding {encoding[:20]!r} is not supported.", hint="Send the body uncompressed."
        )
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


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's body is larger than the limit of {limit / 1e6:g} MB.")
