"""What the programs of this folder share: endpoints, clients, checks with a message.

A program takes one argument, the endpoints of a cluster separated by commas, and ends with status
0 if every answer was right, with status 1 and one line on standard error if one was not.
"""

import sys
import time
import urllib.parse
import uuid

import etcd3

# Seconds that anything may take which should happen at once.
PATIENCE = 20


class Wrong(Exception):
    """An answer that is not the right one."""


def check(condition, message):
    if not condition:
        raise Wrong(message)


def equal(found, expected, what):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


class Cluster:
    """The endpoints under test; clients are spread over them."""

    def __init__(self, endpoints):
        self.addresses = [urllib.parse.urlsplit(one) for one in endpoints.split(",")]
        for address in self.addresses:
            check(address.hostname and address.port, f"not an endpoint: {address.geturl()}")
        # Each run has keys of its own, so that a cluster can be used again.
        self.prefix = f"/compat-{uuid.uuid4().hex}"

    def client(self, member=0):
        address = self.addresses[member % len(self.addresses)]
        return etcd3.client(host=address.hostname, port=address.port, timeout=PATIENCE)


def wait_until(condition, what, patience=PATIENCE):
    """Asks again and again; what becomes true late is fine, what never does is wrong."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise Wrong(f"waited {patience} s in vain for {what}")


def main(program, *steps):
    """Runs the steps one after another, each with the cluster."""
    if len(sys.argv) != 2:
        print(f"usage: {program}.py http://host:port[,http://host:port...]", file=sys.stderr)
        sys.exit(2)
    try:
        cluster = Cluster(sys.argv[1])
        for step in steps:
            step(cluster)
            print(f"  {program}: {step.__doc__.strip().splitlines()[0]}")
        cluster.client().delete_prefix(cluster.prefix)
    except Wrong as wrong:
        print(f"{program}: {wrong}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # every other failure is the server's or the client's, and named
        print(f"{program}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
