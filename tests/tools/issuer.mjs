// A certified OIDC provider (npm oidc-provider) as an issuer of workload tokens (discovery, JWKS, client credentials) and as
// the place where people sign in (authorization code with PKCE). It asks nobody anything: login_hint is who signs in, how,
// and with what acr: "ada|pwd,mfa|urn:two-factors".
// Prints its URL on a line, then answers on loopback until standard input ends.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

// Standard output is for the one line: nobody reads it after that, and a pipe that nobody reads ends the writer.
console.info = console.error;
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
  }, {
    client_id: "operator", application_type: "native", token_endpoint_auth_method: "none",
    grant_types: ["authorization_code"], response_types: ["code"], redirect_uris: ["http://127.0.0.1/callback"],
    id_token_signed_response_alg: "ES256",
  }],
  claims: { openid: ["sub", "amr", "acr"] },
  findAccount: (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({
        scope: "tunnels", audience: resource, accessTokenTTL: 600, accessTokenFormat: "jwt",
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});

// The form of login and consent, filled in.
const interact = async (request, response) => {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    const [accountId, ways, acr] = params.login_hint.split("|");
    const login = { accountId, acr: acr || undefined, amr: ways ? ways.split(",") : undefined };
    return provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope("openid");
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
};
const answer = provider.callback();
server.on("request", (request, response) => {
  if (!request.url.startsWith("/interaction/")) return answer(request, response);
  return interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
});
console.log(url);
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
