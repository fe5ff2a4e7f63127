// The npm client 2.x (@modelcontextprotocol/client). Usage: client-v2.mjs URL ours|everything 2025-11-25|2026-07-28
// In place of the URL: a command as a JSON array, for standard input and output.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { exercise } from './exercise.mjs';

const [url, kind, revision] = process.argv.slice(2);
const [command, ...args] = url.startsWith('[') ? JSON.parse(url) : [];
const legacy = revision === '2025-11-25';
const session = legacy && !command;
const transport = command ? new StdioClientTransport({ command, args }) : new StreamableHTTPClientTransport(new URL(url));
const mode = legacy ? 'legacy' : { pin: revision };
const client = new Client({ name: 'npm-client-2', version: '1' }, { versionNegotiation: { mode } });
await client.connect(transport);
await exercise({
    kind,
    stdio: Boolean(command),
    session,
    transport,
    tools: async () => (await client.listTools()).tools.map(tool => tool.name),
    call: (name, input, options) => client.callTool({ name, arguments: input }, options),
});
if (session) await transport.terminateSession();
await client.close();
console.log('ok');
