// A certified OIDC provider (npm oidc-provider) as an issuer of workload tokens: discovery, JWKS, client credentials.
// Prints its URL on a line, then answers on loopback until standard input ends.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const jwk = { ...privateKey.export({ format: "jwk" }), use: "sig", alg: "ES256", kid: "issuer-1" };
const server = createServer();
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(url, {
  jwks: { keys: [jwk] },
  clients: [{
    client_id: "workload", client_secret: "workload-secret-of-a-test", grant_types: ["client_credentials"],
    redirect_uris: [], response_types: [], id_token_signed_response_alg: "ES256",
  }],
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({
        scope: "tunnels", audience: resource, accessTokenTTL: 600, accessTokenFormat: "jwt",
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});
server.on("request", provider.callback());
console.log(url);
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
