// The npm SDK 1.x (@modelcontextprotocol/sdk) as a client, revision 2025-11-25. Usage: client-v1.mjs URL ours|everything
// In place of the URL: a command as a JSON array, for standard input and output.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { exercise } from './exercise.mjs';

const [url, kind] = process.argv.slice(2);
const [command, ...args] = url.startsWith('[') ? JSON.parse(url) : [];
const transport = command ? new StdioClientTransport({ command, args }) : new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: 'npm-sdk-1', version: '1' });
await client.connect(transport);
await exercise({
    kind,
    stdio: Boolean(command),
    session: !command,
    transport,
    tools: async () => (await client.listTools()).tools.map(tool => tool.name),
    call: (name, input, options) => client.callTool({ name, arguments: input }, undefined, options),
});
if (!command) await transport.terminateSession();
await client.close();
console.log('ok');
