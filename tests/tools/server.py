"""An MCP server on the Python SDK (PyPI mcp): both revisions on one path, with the tools of the project's own sample
server. Prints its port as its first line and ends with its standard input."""

import asyncio
import socket
import sys
import threading

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

mcp = MCPServer("python-server", log_level="WARNING")
times_cancelled = 0


@mcp.tool()
async def echo(text: str) -> str:
    return text


@mcp.tool()
async def add(a: int, b: int) -> str:
    return str(a + b)


@mcp.tool()
async def count(steps: int, milliseconds: int, context: Context) -> str:
    for step in range(1, steps + 1):
        await asyncio.sleep(milliseconds / 1000)
        await context.report_progress(step, steps)
    return str(steps)


@mcp.tool()
async def wait(milliseconds: int) -> str:
    global times_cancelled
    try:
        await asyncio.sleep(milliseconds / 1000)
    except asyncio.CancelledError:
        times_cancelled += 1
        raise
    return "waited"


@mcp.tool()
async def cancelled() -> str:
    return str(times_cancelled)


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(mcp.streamable_http_app(), log_level="warning"))
    print(listener.getsockname()[1], flush=True)

    def end_with_input() -> None:
        sys.stdin.read()
        server.force_exit = server.should_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    await server.serve(sockets=[listener])


asyncio.run(main())
