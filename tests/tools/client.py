"""The Python SDK (PyPI mcp) as a client. Usage: client.py URL ours|everything 2025-11-25|2026-07-28
In place of the URL: a command as a JSON array, for standard input and output. RESOLVE_TO: where every name leads."""

import asyncio
import json
import os
import socket
import sys
import time

from mcp import Client
from mcp.client.stdio import StdioServerParameters

if address := os.environ.get("RESOLVE_TO"):
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda _host, *more, **named: resolve(address, *more, **named)

SHAPES = {
    "ours": {
        "tools": ["echo", "add", "count", "wait", "cancelled"],
        "echo": ("echo", "text", "{}"),
        "slow": ("count", {"steps": 5, "milliseconds": 100}, 5),
        "endless": ("wait", {"milliseconds": 600_000}),
    },
    "everything": {
        "tools": ["echo", "get-sum", "trigger-long-running-operation"],
        "echo": ("echo", "message", "Echo: {}"),
        "slow": ("trigger-long-running-operation", {"duration": 1, "steps": 5}, 5),
        "endless": ("trigger-long-running-operation", {"duration": 600, "steps": 2}),
    },
}


async def main(url: str, kind: str, revision: str) -> None:
    shape = SHAPES[kind]
    mode = "legacy" if revision == "2025-11-25" else revision
    words = json.loads(url) if url.startswith("[") else None
    server = StdioServerParameters(command=words[0], args=words[1:]) if words else url
    async with Client(server, mode=mode) as client:
        assert client.protocol_version == revision, f"negotiated {client.protocol_version}"
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert set(shape["tools"]) <= set(names), f"tools/list: {names}"

        async def echo(text: str) -> None:
            tool, argument, answer = shape["echo"]
            result = await client.call_tool(tool, {argument: text})
            assert result.content[0].text == answer.format(text), f"echo of {len(text)} characters"

        for length in (1, 1000, 100_000):
            await echo("äx" * length)

        # Progress comes while the call runs: whoever collects it would deliver all of it at the end.
        seen: list[tuple[float, float]] = []

        async def progress(step: float, _total: float | None, _message: str | None) -> None:
            seen.append((time.monotonic(), step))

        tool, arguments, steps = shape["slow"]
        result = await client.call_tool(tool, arguments, progress_callback=progress)
        assert not result.is_error, result
        assert [step for _, step in seen] == list(range(1, steps + 1)), f"progress: {seen}"
        spread = seen[-1][0] - seen[0][0]
        assert spread > 0.2, f"progress came at once, within {spread} s"

        await cancel(client, kind, shape, echo)
        await echo("after")
    print("ok")


async def cancel(client: Client, kind: str, shape: dict, echo) -> None:
    async def count() -> int:
        return int((await client.call_tool("cancelled", {})).content[0].text)

    before = await count() if kind == "ours" else 0
    limit = time.monotonic() + 15
    while True:
        call = asyncio.ensure_future(client.call_tool(*shape["endless"]))
        # A later answer on the same path makes it likely that the server has the call, and no more than that.
        await echo("before")
        call.cancel()
        try:
            await call
            raise AssertionError("a cancelled call was answered")
        except asyncio.CancelledError:
            pass
        if kind != "ours":
            return
        # What was cancelled before it was sent is no call: then another one is.
        soon = time.monotonic() + 3
        while time.monotonic() < soon:
            if await count() > before:
                return
            await asyncio.sleep(0.02)
        assert time.monotonic() < limit, "the server never learnt of the cancellation"


asyncio.run(main(*sys.argv[1:]))
