// Signing in, as far as a person is needed. `signin.mjs server DOMAIN`: an MCP server that wants a token, and its
// authorization server, told apart by the name that was asked for; prints its port and ends with its standard input.
// `signin.mjs client URL`: the npm client 2.x finds its way from the challenge to the page where a person signs in.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const [role, what] = process.argv.slice(2);

function serve(domain) {
    const [docs, auth] = [`https://docs.${domain}`, `https://auth.${domain}`];
    const documents = {
        [`docs.${domain}/.well-known/oauth-protected-resource/mcp`]: { resource: `${docs}/mcp`, authorization_servers: [auth] },
        [`auth.${domain}/.well-known/oauth-authorization-server`]: {
            issuer: auth,
            authorization_endpoint: `${auth}/authorize`,
            token_endpoint: `${auth}/token`,
            registration_endpoint: `${auth}/register`,
            response_types_supported: ['code'],
            code_challenge_methods_supported: ['S256'],
        },
    };
    const listener = createServer(async (request, response) => {
        const parts = [];
        for await (const part of request) parts.push(part);
        const asked = `${request.headers['x-forwarded-host']}${request.url}`;
        const say = (status, body, headers = {}) =>
            response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
        if (documents[asked]) return say(200, documents[asked]);
        if (asked === `auth.${domain}/register`) return say(201, { ...JSON.parse(Buffer.concat(parts)), client_id: 'registered' });
        if (asked.startsWith(`auth.${domain}/authorize?`)) return say(200, { resource: new URL(`https://${asked}`).searchParams.get('resource') });
        if (asked !== `docs.${domain}/mcp`) return say(404, {});
        const metadata = `${docs}/.well-known/oauth-protected-resource/mcp`;
        return say(401, {}, { 'www-authenticate': `Bearer resource_metadata="${metadata}"` });
    });
    listener.listen(0, '127.0.0.1', () => console.log(listener.address().port));
    process.stdin.resume().on('end', () => process.exit(0));
}

async function ask(url) {
    let page;
    const kept = {};
    const provider = {
        redirectUrl: 'http://localhost:1/callback',
        clientMetadata: { client_name: 'test', redirect_uris: ['http://localhost:1/callback'] },
        clientInformation: () => kept.client,
        saveClientInformation: client => void (kept.client = client),
        tokens: () => undefined,
        saveTokens: () => assert.fail('nobody signed in'),
        redirectToAuthorization: found => void (page = found),
        saveCodeVerifier: verifier => void (kept.verifier = verifier),
        codeVerifier: () => kept.verifier,
    };
    const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
    const client = new Client({ name: 'signin', version: '1' });
    await assert.rejects(client.connect(transport), UnauthorizedError);
    assert.equal(kept.client.client_id, 'registered');
    const { origin } = new URL(url);
    const expected = url.includes('//docs.') ? `${origin.replace('docs.', 'auth.')}/authorize` : `${origin}/auth/authorize`;
    assert.equal(`${page.origin}${page.pathname}`, expected);
    assert.equal(page.searchParams.get('resource'), url);
    // The person's browser goes there; what it asks a token for is what the tunnel knows, whatever the client calls it.
    const shown = await (await fetch(page)).json();
    assert.match(shown.resource, /^https:\/\/docs\.[^/]+\/mcp$/);
    console.log('ok');
}

await (role === 'server' ? serve(what) : ask(what));
