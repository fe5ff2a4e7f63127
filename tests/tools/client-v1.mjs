// The npm SDK 1.x (@modelcontextprotocol/sdk) as a client, revision 2025-11-25. Usage: client-v1.mjs URL ours|everything
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { exercise } from './exercise.mjs';

const [url, kind] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: 'npm-sdk-1', version: '1' });
await client.connect(transport);
await exercise({
    kind,
    session: true,
    transport,
    tools: async () => (await client.listTools()).tools.map(tool => tool.name),
    call: (name, input, options) => client.callTool({ name, arguments: input }, undefined, options),
});
await transport.terminateSession();
await client.close();
console.log('ok');
