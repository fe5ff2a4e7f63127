// The whole Tunnels API through the product's own TypeScript SDK, signed in by token exchange. What the SDK needs stands
// in the environment as the product documents it; CA_FILE is a CA certificate.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ maxRetries: 0 });
const tunnels = client.beta.tunnels;

const made = [];
for (let n = 0; n < 3; n += 1) made.push(await tunnels.create({ display_name: `typescript ${n}` }));
const first = made[0];
assert.equal(first.type, "tunnel");
assert.equal((await tunnels.retrieve(first.id)).domain, first.domain);

const listed = [];
for await (const tunnel of tunnels.list({ limit: 1 })) listed.push(tunnel.id);
assert.deepEqual(listed, made.map((tunnel) => tunnel.id).reverse());

const pem = readFileSync(process.env.CA_FILE, "utf8");
const certificate = await tunnels.certificates.create(first.id, { ca_certificate_pem: pem });
assert.equal(certificate.fingerprint.length, 64);
const again = await tunnels.certificates.retrieve(certificate.id, { tunnel_id: first.id });
assert.equal(again.fingerprint, certificate.fingerprint);
await assert.rejects(tunnels.certificates.create(first.id, { ca_certificate_pem: "x" }), Anthropic.BadRequestError);
assert.ok((await tunnels.certificates.archive(certificate.id, { tunnel_id: first.id })).archived_at);

const revealed = await tunnels.revealToken(first.id);
const rotated = await tunnels.rotateToken(first.id, { reason: "a test" });
assert.notEqual(revealed.tunnel_token, rotated.tunnel_token);
assert.equal((await tunnels.revealToken(first.id)).tunnel_token, rotated.tunnel_token);

assert.ok((await tunnels.archive(first.id)).archived_at);
await assert.rejects(tunnels.retrieve("tnl_0"), Anthropic.NotFoundError);
console.log("done");
