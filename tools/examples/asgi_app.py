"""An OpenAI-style front of local models for any ASGI server.

    uvicorn --app-dir tools/examples --workers 4 asgi_app:application

Each request holds a lease for as long as its answer takes; the first request that needs a model loads it.
Waits cost no thread, and a client that leaves ends its wait or its lease.
"""

import asyncio
import contextlib

import h11
import modelpool
import models

MODELS = models.read_models()
POOL = modelpool.Pool()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] != "http":
        return None
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    # The first of the two ends the other: the answer, or the client's leaving.
    tasks = {asyncio.create_task(answer(scope, body, send)), asyncio.create_task(left(receive))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()  # raises what cut the answer, so that the server cuts the connection


async def lifespan(receive, send):
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    POOL.close()
    await send({"type": "lifespan.shutdown.complete"})


async def left(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(scope, body, send):
    headers = dict(scope["headers"])
    tag = models.tag_of(headers.get(b"x-request-id", b"").decode("latin-1"))
    reply = Reply(send, tag)
    try:
        match scope["method"], scope["path"]:
            case "GET", "/v1/models":
                await reply.whole(200, models.list_of(MODELS))
            case "POST", path if path in models.PATHS:
                kind = models.kind_of(headers.get(b"content-type", b"").decode("latin-1"))
                await proxy(models.model_of(MODELS, kind, body), path, kind, body, tag, reply)
            case _:
                raise models.no_such_path()
    except Exception as error:
        if reply.begun:
            raise
        refused = models.refused(error)
        await reply.whole(refused.status, refused.body, refused.headers)


class Reply:
    def __init__(self, send, tag):
        self.begun = False
        self._send = send
        self._tag = tag

    async def begin(self, status, headers):
        self.begun = True
        pairs = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
        pairs.append((b"x-request-id", self._tag.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def body(self, chunk, more=True):
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def whole(self, status, body, headers=(("Content-Type", "application/json"),)):
        await self.begin(status, headers)
        await self.body(body, more=False)


async def proxy(model, path, kind, body, tag, reply):
    async with POOL.lease_async(
        model.name, load=model.load, timeout=models.WAIT, tag=tag
    ) as lease:
        async for event in exchange(lease.address, path, kind, body):
            lease.progress()
            if isinstance(event, h11.Response):
                kept = (b"content-type", b"content-length")
                headers = [(n.decode(), v.decode()) for n, v in event.headers if n in kept]
                await reply.begin(event.status_code, headers)
            else:
                await reply.body(bytes(event.data))
        await reply.body(b"", more=False)


async def exchange(address, path, kind, body):
    """POSTs to the backend; yields h11's Response, then its Data as they come."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = h11.Connection(h11.CLIENT)
    try:
        headers = [
            ("Host", address),
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        writer.write(connection.send(h11.Request(method="POST", target=path, headers=headers)))
        writer.write(connection.send(h11.Data(data=body)) + connection.send(h11.EndOfMessage()))
        await writer.drain()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, (h11.Response, h11.Data)):
                yield event
            elif isinstance(event, h11.EndOfMessage):
                return
    except h11.RemoteProtocolError as error:
        raise ConnectionError(f"the backend ended in the middle: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            writer.close()
