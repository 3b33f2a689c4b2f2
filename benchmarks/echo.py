"""What FastAPI and uvicorn alone can do here: ``python -m benchmarks.echo PORT``, one process.

``/json`` parses the body and returns it, so FastAPI writes JSON again; ``/raw`` returns the bytes as they came.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

app = FastAPI()


@app.get("/")
async def root() -> None:
    """A sign of life."""


@app.post("/json")
async def echo(request: Request) -> Any:
    """JSON in, JSON out."""
    return await request.json()


@app.post("/raw")
async def raw(request: Request) -> Response:
    """Bytes in, bytes out."""
    return Response(await request.body(), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
