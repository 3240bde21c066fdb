"""Prompts for a pool on their way in.

Here is what may be sent, what is checked before it is read, and who waits for it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, cast

import anyio.to_thread
from fastapi import HTTPException, Query, Request
from promptgps_client.wire import AddPrompts, Name, OnEqualContent, PromptsAdded
from starlette.requests import ClientDisconnect

from promptgps_service.api.bodies import (
    JSON,
    Bodies,
    check_rights_before_reading,
    content_type,
    pieces_of,
    read_json,
)
from promptgps_service.errors import Unavailable
from promptgps_service.flow.context import Context
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.uploads import may_import
from promptgps_service.pools.columns import chunks_of
from promptgps_service.pools.mapping import FIELDS, ColumnMapping
from promptgps_service.pools.reading import PLAIN, Cancelled, Readers, Task, Upload
from promptgps_service.reading.json_model import ModelReader

SPOOL_IN_MEMORY = 8 * 2**20
KINDS = {
    "application/jsonl": "lines",
    "application/x-ndjson": "lines",
    "application/jsonlines": "lines",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/parquet": "parquet",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.arrow.stream": "arrow",
}
_LINES = (
    "One object a line with key, text, vector, domain, prior_successes, prior_trials; "
    "gzip and zstd are taken too."
)
_BINARY = {"type": "string", "format": "binary", "description": "The same columns."}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/AddPrompts"}},
            "application/jsonl": {"schema": {"type": "string", "description": _LINES}},
            "text/csv": {
                "schema": {
                    "type": "string",
                    "description": "The same columns, with a line of their names.",
                }
            },
            "application/vnd.apache.parquet": {"schema": _BINARY},
            "application/vnd.apache.arrow.file": {"schema": _BINARY},
            "application/vnd.apache.arrow.stream": {"schema": _BINARY},
        },
    }
}
_COLUMNS: ModelReader[AddPrompts] = ModelReader(AddPrompts, lazy=True)
Path = Annotated[str | None, Query(max_length=1024)]


async def columns_asked(
    key: Annotated[
        Path, Query(description="Column of a file that is the key, or a dotted path to it.")
    ] = None,
    text: Annotated[
        Path, Query(description="The same for the text, or for a list of chat messages.")
    ] = None,
    vector: Annotated[Path, Query(description="The same for the vector.")] = None,
    domain: Annotated[Path, Query(description="The same for the domain.")] = None,
    prior_successes: Annotated[
        Path, Query(description="The same for the successes of an earlier record.")
    ] = None,
    prior_trials: Annotated[Path, Query(description="The same for its trials.")] = None,
) -> ColumnMapping:
    """Where the caller says that a file has what; an empty value means that it has none."""
    given = (key, text, vector, domain, prior_successes, prior_trials)
    return ColumnMapping(
        {name: path for name, path in zip(FIELDS, given, strict=True) if path is not None}
    )


@dataclass(frozen=True)
class Incoming:
    """A body that is there, and whoever sent it.

    Attributes:
        kind: of a file; None for JSON columns.
        file: the file, which lives as long as the request; None for JSON columns.
        columns: JSON columns; None for a file.
    """

    request: Request
    kind: str | None
    file: BinaryIO | None = None
    size: int = 0
    columns: AddPrompts | None = None

    @property
    def on_equal_content(self) -> OnEqualContent | None:
        """What JSON columns say of it."""
        return None if self.columns is None else self.columns.on_equal_content

    @asynccontextmanager
    async def source(self, mapping: ColumnMapping) -> AsyncIterator[Source]:
        """Its chunks, for as long as the client waits for them."""
        if self.columns is not None:
            upload: Upload | ColumnsUpload = ColumnsUpload(self.columns)
        else:
            assert self.file is not None
            assert self.kind is not None
            settings = self.request.app.state.settings
            upload = Upload(
                self.file, Task(self.kind, mapping, self.size, int(settings.max_file_mb * 1e6))
            )

        source = Source(upload, cast(Readers, self.request.app.state.readers))
        watching = asyncio.create_task(source.cancel_when_gone(self.request))
        try:
            yield source
        finally:
            watching.cancel()
            await asyncio.wait([watching])


class ColumnsUpload:
    """JSON columns as an upload: their chunks, which another thread may cut short."""

    def __init__(self, columns: AddPrompts) -> None:
        self.ignored: list[str] = []
        self.cancelled = False
        self._columns = columns

    def cancel(self) -> None:
        """Stop after the chunk that is under way."""
        self.cancelled = True

    def __iter__(self) -> Iterator[PromptChunk]:
        """Chunks.

        Raises:
            Cancelled: nobody waits for them any more.
        """
        for chunk in chunks_of(self._columns):
            if self.cancelled:
                raise Cancelled
            yield chunk

        if self.cancelled:
            raise Cancelled


class Source:
    """Chunks on their way into a pool, and the client that waits for them."""

    def __init__(self, upload: Upload | ColumnsUpload, readers: Readers) -> None:
        self._upload = upload
        self._readers = readers

    async def cancel_when_gone(self, request: Request) -> None:
        """Wait for the client to go away, and stop reading then."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._upload.cancel()

    async def run(self, store: Callable[[Iterable[PromptChunk]], PromptsAdded]) -> PromptsAdded:
        """Store the chunks in a thread; answers what was stored and what was passed over.

        Raises:
            ClientDisconnect: the client has gone.
        """
        try:
            added = await anyio.to_thread.run_sync(self._run, store)
        except Cancelled:
            raise ClientDisconnect from None
        return added.model_copy(update={"ignored_columns": self._upload.ignored})

    def _run(self, store: Callable[[Iterable[PromptChunk]], PromptsAdded]) -> PromptsAdded:
        if isinstance(self._upload, ColumnsUpload):
            return store(self._upload)
        with self._readers.turn(self._upload):
            return store(self._upload)


async def incoming(pool: Name, request: Request) -> AsyncIterator[Incoming]:
    """Read what was sent, once its sender's rights, its type and the pool are known to be right.

    Raises:
        Forbidden: the key may not add to this pool.
        HTTPException: 415, for a type that is not taken.
        NotFound: there is no such pool.
        Busy: another import into it is under way.
        Unavailable: there is no room for the file.
    """
    check_rights_before_reading(request, changes=True)
    sent = content_type(request)
    if sent != JSON and sent not in KINDS:
        raise HTTPException(415, f"send {JSON}, {', '.join(KINDS)}")

    context = cast(Context, request.app.state.context)
    await anyio.to_thread.run_sync(may_import, context, pool)
    if sent == JSON:
        async for columns in _json_columns(request):
            yield columns
    else:
        with tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY) as spool:
            file = cast(BinaryIO, spool)
            size = await _spool(request, file, KINDS[sent])
            yield Incoming(request, KINDS[sent], file, size)


async def _json_columns(request: Request) -> AsyncIterator[Incoming]:
    bodies = cast(Bodies, request.app.state.bodies)
    with bodies.held() as add:
        columns = await read_json(request, _COLUMNS, bodies.most, add)
        yield Incoming(request, None, columns=columns)


async def _spool(request: Request, file: BinaryIO, kind: str) -> int:
    """Put the body into a file, and answer how many bytes came over the wire.

    That number is what the sender has paid for. Lines in gzip stay as they are, and are inflated as
    they are read.
    """
    most = int(request.app.state.settings.max_file_mb * 1e6)
    try:
        async for piece in pieces_of(request, most, inflate=kind not in PLAIN):
            file.write(piece)
        file.seek(0)
    except OSError as error:
        raise Unavailable(
            "the service has no room for this file now; nothing was stored"
        ) from error

    return int(request.state.received)
