"""schemathesis against an edge on loopback: python openapi.py NAME ADDRESS PORT CA_FILE TOKEN_FILE [OPTION...]

NAME is the edge's API host, which no resolver here knows. Every connection comes from another address of loopback, and
carries one request, so that the edge's limits, which count by source, stay as they are and are not what is tested.
"""

import itertools
import pathlib
import socket
import sys

name, edge, port, ca, token_file, *options = sys.argv[1:]
resolve = socket.getaddrinfo
connect = socket.socket.connect
sources = (f"127.{a}.{b}.{c}" for a, b, c in itertools.product(range(1, 250), range(250), range(1, 250)))


def to_the_edge(host, *rest, **more):
    return resolve(edge if host == name else host, *rest, **more)


def from_anywhere(self, address):
    if self.family == socket.AF_INET and address[0] == edge:
        self.bind((next(sources), 0))
    return connect(self, address)


socket.getaddrinfo = to_the_edge
socket.socket.connect = from_anywhere

from schemathesis.cli import schemathesis  # noqa: E402  after the patches, which it must see

with open(token_file) as file:
    token = file.read().strip()
url = f"https://{name}:{port}"
schemathesis([
    "--config-file", str(pathlib.Path(__file__).with_name("schemathesis.toml")), "run", f"{url}/v1/openapi.yaml", "--url", url, "--tls-verify", ca, "--header", f"Authorization: Bearer {token}", "--header", "Connection: close",
    "--no-color", "--generation-deterministic", *options,
])
