"""The whole Tunnels API through the product's own Python SDK, signed in by token exchange.

What the SDK needs stands in the environment as the product documents it: ANTHROPIC_BASE_URL,
ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID, ANTHROPIC_IDENTITY_TOKEN_FILE. CA_FILE is a CA certificate.
"""

import os
import pathlib

import anthropic

client = anthropic.Anthropic(max_retries=0)
tunnels = client.beta.tunnels

made = [tunnels.create(display_name=f"python {n}") for n in range(3)]
first = made[0]
assert first.id.startswith("tnl_") and first.type == "tunnel" and first.archived_at is None, first
assert tunnels.retrieve(first.id).domain == first.domain

listed = [tunnel.id for tunnel in tunnels.list(limit=1)]
assert listed == [tunnel.id for tunnel in reversed(made)], listed

pem = pathlib.Path(os.environ["CA_FILE"]).read_text()
certificate = tunnels.certificates.create(first.id, ca_certificate_pem=pem)
assert certificate.type == "tunnel_certificate" and len(certificate.fingerprint) == 64, certificate
assert tunnels.certificates.retrieve(certificate.id, tunnel_id=first.id).fingerprint == certificate.fingerprint
assert [c.id for c in tunnels.certificates.list(first.id)] == [certificate.id]
try:
    tunnels.certificates.create(first.id, ca_certificate_pem="x")
    raise AssertionError("a certificate that is none was taken")
except anthropic.BadRequestError as error:
    assert "ca_certificate_pem: " in error.message and error.request_id.startswith("req_"), error
assert tunnels.certificates.archive(certificate.id, tunnel_id=first.id).archived_at is not None

revealed = tunnels.reveal_token(first.id)
rotated = tunnels.rotate_token(first.id, reason="a test")
assert revealed.id != rotated.id and revealed.tunnel_token != rotated.tunnel_token
assert tunnels.reveal_token(first.id).tunnel_token == rotated.tunnel_token

assert tunnels.archive(first.id).archived_at is not None
assert first.id not in [tunnel.id for tunnel in tunnels.list()]
assert first.id in [tunnel.id for tunnel in tunnels.list(include_archived=True)]
try:
    tunnels.retrieve("tnl_0")
    raise AssertionError("a tunnel that is none was found")
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body
print("done")
