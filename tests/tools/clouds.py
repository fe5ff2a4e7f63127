# What Google, Azure and AWS put beside a machine, on one loopback port, as they document it: strict about paths, headers,
# queries and forms, so that whatever is asked otherwise is refused here, too. STS checks signatures with botocore, AWS's
# own library, and parameters with its model of the service. Before anything else botocore's own clients have to be content.
#
# python clouds.py [ADDRESS PORT]: prints {"port", "jwks"} as one line of JSON, and ends with its standard input.
import json
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, urlsplit

import botocore.session
import jwt
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.utils import ContainerMetadataFetcher, InstanceMetadataFetcher
from botocore.validate import ParamValidator
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "https://clouds.test"
RIGHT = "right-of-this-workload"
KEYS = {"AKIDOWN": ("own/secret+1", None), "ASIAROLE": ("role/secret", "role-session"),
        "ASIAAGENT": ("agent/secret", "agent-session"), "ASIAMACHINE": ("machine/secret", "machine-session")}
key = ec.generate_private_key(ec.SECP256R1())
session = botocore.session.get_session()
model = session.get_service_model("sts")
kept = {}
imds = set()


def token(subject, audience, life=300, **more):
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": subject, "aud": audience, "iat": now, "exp": now + life, **more}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k"})


class Refuse(Exception):
    def __init__(self, status, body="", headers=None):
        self.status, self.body, self.headers = status, body, headers or {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, verb):
        url = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.query = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
        headers = {}
        try:
            # A request that came through a proxy names a host in its first line.
            if url.netloc or self.headers.get("x-forwarded-for"):
                raise Refuse(403, "through a proxy")
            status, body, headers = 200, *self.route(verb, url.path)
        except Refuse as refuse:
            status, body, headers = refuse.status, refuse.body, refuse.headers
        body = body if isinstance(body, str) else json.dumps(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def route(self, verb, path):
        parts = path.strip("/").split("/")
        if verb == "GET" and parts[0] == "computeMetadata":
            return google(self, parts), {"metadata-flavor": "Google"}
        if verb == "GET" and path == "/metadata/identity/oauth2/token":
            return azure_machine(self), {}
        if verb == "GET" and path == "/msi/token":
            return azure_service(self), {}
        if verb == "POST" and path.endswith("/oauth2/v2.0/token"):
            return entra(self, parts), {}
        if path.startswith("/latest/"):
            return amazon_machine(self, verb, path), {}
        if verb == "GET" and path == "/v1/credentials":
            if self.headers.get("authorization") != RIGHT:
                raise Refuse(401, {"code": "Unauthorized", "message": "no right"})
            return amazon_keys("ASIAAGENT"), {}
        if verb == "POST" and path == "/":
            return sts(self), {"content-type": "text/xml"}
        raise Refuse(404, "no such path")

    def only(self, needed, allowed=()):
        if not set(needed) <= set(self.query) <= {*needed, *allowed}:
            raise Refuse(400, {"error": "invalid_request", "error_description": f"query {sorted(self.query)}"})


def google(request, parts):
    flavor = {"metadata-flavor": "Google"}
    if request.headers.get("metadata-flavor") != "Google":
        raise Refuse(403, "<html>Missing required header</html>", flavor)
    accounts = ["default", "keyward@project.iam.gserviceaccount.com"]
    if parts[:4] != ["computeMetadata", "v1", "instance", "service-accounts"] or parts[5:] != ["identity"]:
        raise Refuse(404, "<html>404</html>", flavor)
    if parts[4] not in accounts:
        raise Refuse(404, "<html>404</html>", flavor)
    if not set(request.query) <= {"audience", "format", "licenses"} or not request.query.get("audience"):
        raise Refuse(400, "non-empty audience parameter required", flavor)
    more = {"email": accounts[1], "email_verified": True} if request.query.get("format") == "full" else {}
    return token("113", request.query["audience"], 3600, azp="113", **more)


def azure_machine(request):
    if request.headers.get("metadata") != "true":
        raise Refuse(400, {"error": "invalid_request", "error_description": "Required metadata header not specified"})
    request.only(["api-version", "resource"], ["client_id"])
    if request.query["api-version"] != "2018-02-01":
        raise Refuse(400, {"error": "invalid_request", "error_description": "unknown api-version"})
    if request.query.get("client_id") not in (None, "client"):
        raise Refuse(400, {"error": "invalid_request", "error_description": "Identity not found"})
    # The same for as long as it lives.
    resource = request.query["resource"]
    given = kept.setdefault(resource, token("machine", resource, 3000, uti=str(uuid.uuid4())))
    return {"access_token": given, "expires_in": "3000", "resource": resource, "token_type": "Bearer"}


def azure_service(request):
    if request.headers.get("x-identity-header") != RIGHT:
        raise Refuse(401, {"statusCode": 401, "message": "no right"})
    request.only(["api-version", "resource"], ["client_id"])
    if request.query["api-version"] != "2019-08-01":
        raise Refuse(400, {"statusCode": 400, "message": "unknown api-version"})
    return {"access_token": token("service", request.query["resource"]), "token_type": "Bearer"}


def entra(request, parts):
    def refuse(number, text, status=400):
        body = {"error": "invalid_client", "error_description": f"AADSTS{number}: {text} Trace ID: 0", "error_codes": [number]}
        raise Refuse(status, body)

    if request.headers.get("content-type") != "application/x-www-form-urlencoded":
        refuse(900144, "The request body must be a form.")
    form = dict(parse_qsl(request.body.decode(), strict_parsing=True))
    wanted = {"grant_type", "client_id", "scope", "client_assertion_type", "client_assertion"}
    if set(form) != wanted or form["grant_type"] != "client_credentials":
        refuse(900144, f"The request body has {sorted(form)}.")
    if form["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
        refuse(900144, "client_assertion_type")
    if parts[0] != "tenant":
        refuse(90002, f"Tenant '{parts[0]}' not found.")
    if form["client_id"] != "client":
        refuse(700016, f"Application with identifier '{form['client_id']}' was not found.")
    claims = jwt.decode(form["client_assertion"], options={"verify_signature": False})
    if claims.get("aud") != "api://AzureADTokenExchange":
        refuse(700212, "No matching federated identity record found for presented assertion audience.", 401)
    if claims["exp"] < time.time():
        refuse(700024, "Client assertion is not within its valid time range.", 401)
    resource, _, default = form["scope"].rpartition("/")
    if default != ".default" or not resource.startswith("api://"):
        refuse(500011, "The resource principal was not found in the tenant.")
    return {"access_token": token("workload", resource, 3600), "token_type": "Bearer", "expires_in": 3599}


def amazon_keys(name):
    secret, session_token = KEYS[name]
    return {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": name, "SecretAccessKey": secret,
            "Token": session_token, "Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z"}


def amazon_machine(request, verb, path):
    if path == "/latest/api/token" and verb == "PUT":
        if not 1 <= int(request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", 0)) <= 21600:
            raise Refuse(400)
        imds.add(fresh := str(uuid.uuid4()))
        return fresh
    if verb != "GET" or request.headers.get("x-aws-ec2-metadata-token") not in imds:
        raise Refuse(401)
    if path == "/latest/meta-data/iam/security-credentials/":
        return "a-role"
    if path == "/latest/meta-data/iam/security-credentials/a-role":
        return amazon_keys("ASIAMACHINE")
    raise Refuse(404)


def sts(request):
    def refuse(status, code, text):
        raise Refuse(status, '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
                     f"<Code>{code}</Code><Message>{text}</Message></Error><RequestId>1</RequestId></ErrorResponse>")

    form = {name: values[0] for name, values in parse_qs(request.body.decode(), strict_parsing=True).items()}
    action = form.pop("Action", "")
    if form.pop("Version", "") != "2011-06-15" or action not in ("GetWebIdentityToken", "AssumeRoleWithWebIdentity"):
        refuse(400, "InvalidAction", "Could not find operation")
    asked = {}
    for name, value in form.items():
        if name.startswith("Audience.member."):
            asked.setdefault("Audience", []).append(value)
        else:
            asked[name] = int(value) if name == "DurationSeconds" else value
    shape = model.operation_model(action).input_shape
    report = ParamValidator().validate(asked, shape)
    if report.has_errors() or not set(asked) <= set(shape.members):
        refuse(400, "ValidationError", report.generate_report().replace("\n", " "))
    if action == "AssumeRoleWithWebIdentity":
        if asked["WebIdentityToken"] != RIGHT:
            refuse(400, "InvalidIdentityToken", "no OpenIDConnect provider found")
        secret, session_token = KEYS["ASIAROLE"]
        return (f"<R><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>{secret}"
                f"</SecretAccessKey><SessionToken>{session_token}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
                "</Credentials></AssumeRoleWithWebIdentityResult></R>")
    region = signed(request, refuse)
    if region == "us-fault-1":
        refuse(403, "OutboundWebIdentityFederationDisabledException", "The feature is not enabled for this account")
    given = token("arn:aws:iam::1:role/r", asked["Audience"][0], asked.get("DurationSeconds", 300), jti=str(uuid.uuid4()))
    return (f"<R><GetWebIdentityTokenResult><WebIdentityToken>{given}</WebIdentityToken>"
            "<Expiration>2099-01-01T00:00:00Z</Expiration></GetWebIdentityTokenResult></R>")


# The region for which the request is signed, as AWS's own library would have signed it.
def signed(request, refuse):
    head = request.headers.get("authorization", "")
    if not head.startswith("AWS4-HMAC-SHA256 "):
        refuse(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
    parts = dict(part.strip().split("=", 1) for part in head.split(" ", 1)[1].split(","))
    name, day, region, service, _ = parts["Credential"].split("/")
    if name not in KEYS:
        refuse(403, "InvalidClientTokenId", "The security token included in the request is invalid")
    secret, session_token = KEYS[name]
    if request.headers.get("x-amz-security-token") != session_token:
        refuse(403, "InvalidClientTokenId", "The security token included in the request is invalid")
    when = request.headers["x-amz-date"]
    age = datetime.now(timezone.utc) - datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    if abs(age.total_seconds()) > 300 or when[:8] != day:
        refuse(403, "SignatureDoesNotMatch", f"Signature expired: {when}")
    names = parts["SignedHeaders"].split(";")
    if not {"host", "x-amz-date"} <= set(names) or (session_token and "x-amz-security-token" not in names):
        refuse(403, "IncompleteSignature", "a header is not signed")
    again = AWSRequest("POST", f"http://{request.headers['host']}/", {n: request.headers[n] for n in names}, request.body)
    again.context["timestamp"] = when
    own = SigV4Auth(Credentials(name, secret, session_token), service, region)
    wanted = own.signature(own.string_to_sign(again, own.canonical_request(again)), again)
    if parts["Signature"] != wanted or service != "sts":
        refuse(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
    return region


address, port = sys.argv[1:] or ("127.0.0.1", 0)
server = ThreadingHTTPServer((address, int(port)), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
url = f"http://127.0.0.1:{port}"
for name in ("AKIDOWN", "ASIAAGENT"):
    client = session.create_client("sts", "eu-central-1", endpoint_url=url, aws_access_key_id=name,
                                   aws_secret_access_key=KEYS[name][0], aws_session_token=KEYS[name][1],
                                   config=Config(retries={"max_attempts": 0}))
    assert client.get_web_identity_token(Audience=["a", "b"], SigningAlgorithm="ES384")["WebIdentityToken"]
assert InstanceMetadataFetcher(base_url=f"{url}/").retrieve_iam_role_credentials()["access_key"] == "ASIAMACHINE"
agent = ContainerMetadataFetcher().retrieve_full_uri(f"{url}/v1/credentials", {"Authorization": RIGHT})
assert agent["AccessKeyId"] == "ASIAAGENT"
public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
print(json.dumps({"port": port, "jwks": {"keys": [{**public, "kid": "k", "alg": "ES256", "use": "sig"}]}}), flush=True)
sys.stdin.read()
