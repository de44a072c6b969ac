"""The steps of scenario.json, for a client in Python: reading them, names for ids, one line each.

A client is a class with a method for each kind of step, named after it. It returns what came of
the step; a step without a method is skipped by name. Revisions are written as their distance from
the one at the beginning, leases and members by the names that the scenario gives them.
"""

import json
import re
import sys
import time

# Seconds that a call may take; all of them answer at once from a healthy cluster.
PATIENCE = 20
# The same for a client whom no server may answer.
SHORT_PATIENCE = 4


class Skipped(Exception):
    """The client has no call for the step."""


class Steps:
    def __init__(self, endpoints, tls):
        self.endpoints, self.tls = endpoints, tls
        self.base = 0
        # One name stands for a lease that nobody granted.
        self.leases = {"nonexistent": 0x7ABC}
        self.members = {}
        self.held = {}

    def until_applied(self, call):
        """What a call gives once it is not refused: a follower may be a moment behind."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return call()
            except Exception:  # each client refuses in its own way
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def dial(self, step):
        """Whether a client is served that may lack trust or a certificate; how each of them says
        that it is not depends on when it hears of it."""
        authority, certificate, key = self.tls
        trusted = authority if step["trusts"] else None
        shown = (certificate, key) if step["shows"] else (None, None)
        try:
            self.read_with((trusted, *shown), step["key"])
        except Skipped:
            raise
        except Exception:
            return "refused"
        return "served"

    def only(self, step, *known):
        """Skips a step with an argument that the client's call does not take."""
        for argument in step:
            if argument not in ("do", "as", *known):
                raise Skipped(f"{self.name} takes no {argument} for it")

    def revision(self, revision):
        revision = int(revision)
        return "0" if revision == 0 else f"{revision - self.base:+d}"

    def absolute(self, revision):
        return self.base + revision if revision else 0

    def id_of(self, lease):
        if lease not in self.leases:
            raise Skipped(f"{self.name} has no lease {lease}")
        return self.leases[lease]

    def known_leases(self, numbers):
        """Those of this run: clients that ran before may have left some."""
        known = self.leases.values()
        return sorted(self.lease(number) for number in numbers if int(number) in known)

    def lease(self, number):
        for name, known in self.leases.items():
            if known == int(number):
                return f"<{name}>"
        return str(number)

    def named(self, text):
        """Leases as they stand in keys and messages, in either notation, by name.

        Only whole words: a short id may stand within a longer one.
        """
        for name, number in self.leases.items():
            text = re.sub(rf"\b({number:016x}|{number:x}|{number})\b", f"<{name}>", text)
        return text

    def pair(self, key, value, create, mod, version, lease):
        text = f"{key}={value!r} c{self.revision(create)} m{self.revision(mod)} v{int(version)}"
        return text + (f" lease {self.lease(lease)}" if int(lease) else "")


def prefix_end(key):
    """The first key behind all that start with this one, which ends in ASCII."""
    return key[:-1] + chr(ord(key[-1]) + 1)


def left_of(ttl, granted):
    return "near" if max(granted - 60, 0) < ttl <= granted else str(ttl)


def main(client_class, describe):
    if len(sys.argv) not in (3, 6):
        usage = f"{sys.argv[0]} SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]"
        print(f"usage: {usage}", file=sys.stderr)
        sys.exit(2)
    with open(sys.argv[1], encoding="utf-8") as file:
        steps = json.load(file)["steps"]
    client = client_class(sys.argv[2].split(","), sys.argv[3:] or None)
    client.start()
    for number, step in enumerate(steps, 1):
        method = getattr(client, step["do"], None)
        try:
            if method is None:
                raise Skipped(f"{client_class.name} has no call for it")
            outcome = str(method(step))
        except Skipped as skipped:
            outcome = f"SKIPPED {skipped}"
        except Exception as error:  # whatever the client makes of a refusal is its outcome
            outcome = describe(error)
        outcome = " / ".join(client.named(outcome).strip().splitlines())
        print(f"{number} {step['do']}: {outcome}", flush=True)
