# A SPIFFE Workload API on a Unix socket, from the published protocol definition (PyPI spiffe has it compiled), with
# grpcio as the server. Strict as SPIRE's agent is: no answer without the security header, nor for an unknown id.
#
# python workload_api.py SOCKET ISSUER: prints its keys as one line of JSON once the published client has got a token,
# and ends with its standard input.
import json
import sys
import time
import uuid
from concurrent import futures

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc

IDS = ["spiffe://example.org/keyward", "spiffe://example.org/other"]
socket, issuer = sys.argv[1:]
key = ec.generate_private_key(ec.SECP256R1())


class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def FetchJWTSVID(self, request, context):
        if dict(context.invocation_metadata()).get("workload.spiffe.io") != "true":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if not request.audience:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        ids = [request.spiffe_id] if request.spiffe_id else IDS
        if not set(ids) <= set(IDS):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        answer = workload_pb2.JWTSVIDResponse()
        for spiffe_id in ids:
            answer.svids.add(spiffe_id=spiffe_id, svid=token(spiffe_id, list(request.audience)), hint="internal")
        return answer


def token(spiffe_id, audience):
    now = int(time.time())
    claims = {"iss": issuer, "sub": spiffe_id, "aud": audience, "iat": now, "exp": now + 300, "jti": str(uuid.uuid4())}
    if issuer == "none":
        # As SPIRE without jwt_issuer.
        del claims["iss"]
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k"})


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(Agent(), server)
server.add_insecure_port(f"unix:{socket}")
server.start()
# Somebody else's client has to be content, or this is no Workload API.
with WorkloadApiClient(socket_path=f"unix:{socket}") as client:
    assert str(client.fetch_jwt_svid(audience={"a"}).spiffe_id) == IDS[0]
public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
print(json.dumps({"keys": [{**public, "kid": "k", "alg": "ES256", "use": "sig"}]}), flush=True)
sys.stdin.read()
server.stop(None)
