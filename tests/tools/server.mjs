// An MCP server on the npm SDK (@modelcontextprotocol/server): sessions of 2025-11-25 and the stateless 2026-07-28 on one
// path, with the tools of the project's own sample server, or with `fixtures` those of the conformance suite. Prints its port
// as its first line and ends with its standard input.
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { McpServer, ProtocolError, Server, createMcpHandler, fromJsonSchema, isLegacyRequest } from '@modelcontextprotocol/server';
import { NodeStreamableHTTPServerTransport, localhostHostValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { capabilities, install } from './fixtures.mjs';

let cancelled = 0;
const text = value => ({ content: [{ type: 'text', text: String(value) }] });
const schema = (type, ...names) =>
    fromJsonSchema({ type: 'object', properties: Object.fromEntries(names.map(name => [name, { type }])), required: names });
const pause = (milliseconds, signal) =>
    new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, milliseconds);
        signal.addEventListener('abort', () => { clearTimeout(timer); reject(new Error('cancelled')); }, { once: true });
    });

function server() {
    const mcp = new McpServer({ name: 'npm-server', version: '1' });
    mcp.registerTool('echo', { inputSchema: schema('string', 'text') }, async input => text(input.text));
    mcp.registerTool('add', { inputSchema: schema('integer', 'a', 'b') }, async input => text(input.a + input.b));
    mcp.registerTool('count', { inputSchema: schema('integer', 'steps', 'milliseconds') }, async (input, context) => {
        for (let step = 1; step <= input.steps; step++) {
            await pause(input.milliseconds, context.mcpReq.signal);
            const params = { progressToken: context.mcpReq._meta?.progressToken, progress: step, total: input.steps };
            await context.mcpReq.notify({ method: 'notifications/progress', params });
        }
        return text(input.steps);
    });
    mcp.registerTool('wait', { inputSchema: schema('integer', 'milliseconds') }, async (input, context) => {
        try {
            await pause(input.milliseconds, context.mcpReq.signal);
        } catch (error) {
            cancelled += 1;
            throw error;
        }
        return text('waited');
    });
    mcp.registerTool('cancelled', { inputSchema: schema('integer') }, async () => text(cancelled));
    return mcp;
}

function fixtures() {
    const server = new Server({ name: 'fixtures', version: '1' }, { capabilities });
    install(server, ProtocolError);
    return server;
}

const make = process.argv[2] === 'fixtures' ? fixtures : server;
const modern = toNodeHandler(createMcpHandler(make, { legacy: 'reject' }));
const sessions = new Map();

async function legacy(request, response, body) {
    const known = sessions.get(request.headers['mcp-session-id']);
    if (known) return known.handleRequest(request, response, body);
    if (request.method !== 'POST' || body?.method !== 'initialize') return response.writeHead(404).end();
    const transport = new NodeStreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: id => sessions.set(id, transport),
        onsessionclosed: id => sessions.delete(id),
    });
    await make().connect(transport);
    return transport.handleRequest(request, response, body);
}

const allowed = localhostHostValidation();
const listener = createServer(async (request, response) => {
    if (!allowed(request, response)) return;
    const parts = [];
    for await (const part of request) parts.push(part);
    const raw = Buffer.concat(parts).toString();
    const body = raw === '' ? undefined : JSON.parse(raw);
    const headers = new Headers(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
    const seen = new Request('http://localhost/mcp', { method: request.method, headers, body: raw === '' ? undefined : raw });
    await ((await isLegacyRequest(seen)) ? legacy(request, response, body) : modern(request, response, body));
});
listener.listen(0, '127.0.0.1', () => console.log(listener.address().port));
process.stdin.resume().on('end', () => process.exit(0));
