"""Runs the steps of scenario.json with PyPI's etcd3gw, the client over JSON.

Its own calls for the settings that they take; for the rest its post, with the gateway's paths.
"""

import base64
import json
import urllib.parse

import etcd3gw
import requests

from scenario import PATIENCE, SHORT_PATIENCE, Skipped, Steps, left_of, main, prefix_end


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def decoded(text):
    return base64.b64decode(text or "").decode()


class Gateway(Steps):
    name = "etcd3gw"

    def start(self):
        self.client = self.connect()
        self.base = int(self.post({}, "/kv/range", {"key": encoded("nothing")})["header"]["revision"])

    def connect(self, endpoint=None):
        address = urllib.parse.urlsplit(endpoint or self.endpoints[0])
        authority, certificate, key = self.tls or (None, None, None)
        return etcd3gw.client(
            host=address.hostname, port=address.port, protocol=address.scheme, timeout=PATIENCE,
            ca_cert=authority, cert_cert=certificate, cert_key=key,
        )

    def read_with(self, tls, key):
        address = urllib.parse.urlsplit(self.endpoints[0])
        client = etcd3gw.client(
            host=address.hostname, port=address.port, protocol=address.scheme,
            timeout=SHORT_PATIENCE, ca_cert=tls[0], cert_cert=tls[1], cert_key=tls[2],
        )
        client.get(key)

    def post(self, step, path, body, client=None):
        headers = {}
        if "as" in step:
            name, password = step["as"].split(":")
            credentials = {"name": name, "password": password}
            headers["Authorization"] = self.post({}, "/auth/authenticate", credentials)["token"]
        client = client or self.client
        return client.post(client.get_url(path), json=body, headers=headers)

    def kv(self, kv):
        number = lambda field: int(kv.get(field, 0))
        return self.pair(
            decoded(kv.get("key")), decoded(kv.get("value")), number("create_revision"),
            number("mod_revision"), number("version"), number("lease"),
        )

    def kvs(self, kvs):
        return "[" + "; ".join(self.kv(kv) for kv in kvs) + "]"

    def within(self, step):
        end = prefix_end(step["key"]) if step.get("prefix") else step.get("end", "")
        return {"key": encoded(step["key"]), "range_end": encoded(end)}

    # ---- keys

    def put(self, step):
        body = {"key": encoded(step["key"]), "value": encoded(step.get("value", ""))}
        for name, field in (("prev", "prev_kv"), ("ignore_value",) * 2, ("ignore_lease",) * 2):
            if step.get(name):
                body[field] = True
        if "lease" in step:
            body["lease"] = self.id_of(step["lease"])
        answer = self.post(step, "/kv/put", body)
        prev = self.kv(answer["prev_kv"]) if "prev_kv" in answer else "none"
        return f"{self.revision(answer['header']['revision'])} prev {prev}"

    def get(self, step):
        body = self.within(step)
        for field in ("limit", "keys_only", "count_only", "serializable"):
            if field in step:
                body[field] = step[field]
        for name, field in (
            ("rev", "revision"), ("min_mod", "min_mod_revision"), ("max_mod", "max_mod_revision")
        ):
            if name in step:
                body[field] = self.absolute(step[name])
        if "sort" in step:
            body["sort_target"], body["sort_order"] = (word.upper() for word in step["sort"])
        answer = self.post(step, "/kv/range", body)
        revision = self.revision(answer["header"]["revision"])
        count, more = answer.get("count", 0), answer.get("more", False)
        return f"{revision} count {count} more {more} {self.kvs(answer.get('kvs', []))}"

    def delete(self, step):
        body = {**self.within(step), "prev_kv": step.get("prev", False)}
        answer = self.post(step, "/kv/deleterange", body)
        revision = self.revision(answer["header"]["revision"])
        prev = self.kvs(answer.get("prev_kvs", []))
        return f"{revision} deleted {answer.get('deleted', 0)} prev {prev}"

    def compact(self, step):
        body = {"revision": self.absolute(step["rev"]), "physical": step.get("physical", False)}
        return self.revision(self.post(step, "/kv/compaction", body)["header"]["revision"])

    def txn(self, step):
        results = {"=": "EQUAL", ">": "GREATER", "<": "LESS", "!=": "NOT_EQUAL"}
        compare = []
        for key, what, operator, value in step["if"]:
            field = {"create": "create_revision", "mod": "mod_revision"}.get(what, what)
            compare.append({
                "key": encoded(key), "target": what.upper(), "result": results[operator],
                field: encoded(value) if what == "value" else value,
            })
        if "as" in step:
            raise Skipped("etcd3gw's transaction takes no token")
        answer = self.client.transaction({
            "compare": compare,
            "success": [self.operation(part) for part in step["then"]],
            "failure": [self.operation(part) for part in step["else"]],
        })
        parts = []
        for part in answer.get("responses", []):
            (kind, what), = part.items()
            revision = self.revision(what["header"]["revision"])
            parts.append(f"{kind} {revision} {what.get('deleted', '')} {self.kvs(what.get('kvs', []))}")
        revision = self.revision(answer["header"]["revision"])
        return f"{revision} succeeded {answer.get('succeeded', False)} {parts}"

    def operation(self, part):
        (verb, what), = part.items()
        if verb == "put":
            return {"request_put": {"key": encoded(what[0]), "value": encoded(what[1])}}
        kind = {"get": "request_range", "del": "request_delete_range"}[verb]
        return {kind: {"key": encoded(what)}}

    def watch(self, step):
        create = {**self.within(step), "prev_kv": step.get("prev", False)}
        if "rev" in step:
            create["start_revision"] = self.absolute(step["rev"])
        if "filter" in step:
            create["filters"] = [{"put": "NOPUT", "delete": "NODELETE"}[step["filter"]]]
        events = []
        with self.client.session.post(
            self.client.get_url("/watch"), json={"create_request": create}, stream=True,
            timeout=PATIENCE,
        ) as answers:
            for line in answers.iter_lines():
                if not line:
                    continue
                answer = json.loads(line)["result"]
                if answer.get("created"):
                    for key, value in step.get("puts", []):
                        self.client.put(key, value)
                if answer.get("canceled"):
                    return f"{events} canceled at {self.revision(answer['compact_revision'])}"
                for event in answer.get("events", []):
                    prev = f" prev {self.kv(event['prev_kv'])}" if "prev_kv" in event else ""
                    kv = event["kv"]
                    events.append(f"{event.get('type', 'PUT')} {self.kv(kv)}{prev}")
                    if step["until"] == [decoded(kv["key"]), decoded(kv.get("value"))]:
                        return events
        return f"{events} ended"

    # ---- leases, locks, elections

    def lease_grant(self, step):
        body = {"TTL": step["ttl"], "ID": step.get("number", 0)}
        answer = self.post(step, "/lease/grant", body)
        self.leases[step["id"]] = int(answer["ID"])
        return f"granted {answer['TTL']}"

    def of_lease(self, step):
        return {"ID": self.id_of(step["lease"])}

    def lease_ttl(self, step):
        body = {**self.of_lease(step), "keys": step.get("keys", False)}
        answer = self.post(step, "/lease/timetolive", body)
        keys = sorted(decoded(key) for key in answer.get("keys", []))
        granted = int(answer.get("grantedTTL", 0))
        return f"left {left_of(int(answer['TTL']), granted)} granted {granted} keys {keys}"

    def lease_keepalive(self, step):
        answer = self.post(step, "/lease/keepalive", self.of_lease(step))["result"]
        return f"{self.lease(answer['ID'])} {answer.get('TTL', 0)}"

    def lease_list(self, step):
        leases = self.post(step, "/lease/leases", {}).get("leases", [])
        return self.known_leases(lease["ID"] for lease in leases)

    def lease_revoke(self, step):
        return self.revision(
            self.post(step, "/lease/revoke", self.of_lease(step))["header"]["revision"]
        )

    def lock(self, step):
        body = {"name": encoded(step["name"]), "lease": self.id_of(step["lease"])}
        answer = self.post(step, "/lock/lock", body)
        self.held[step["id"]] = answer["key"]
        return f"locked {decoded(answer['key'])}"

    def lock_cycle(self, step):
        lock, other = self.client.lock(step["name"], 60), self.client.lock(step["name"], 60)
        held = [lock.acquire(), other.acquire(), lock.is_acquired()]
        return [*held, lock.release(), lock.is_acquired()]

    def election_campaign(self, step):
        answer = self.post(step, "/election/campaign", {
            "name": encoded(step["name"]), "value": encoded(step["value"]),
            "lease": self.id_of(step["lease"]),
        })
        self.held[step["id"]] = answer["leader"]
        leader = answer["leader"]
        return f"elected {decoded(leader['key'])} {self.revision(leader['rev'])}"

    def election_leader(self, step):
        return self.kv(self.post(step, "/election/leader", {"name": encoded(step["name"])})["kv"])

    def election_proclaim(self, step):
        body = {"leader": self.held[step["id"]], "value": encoded(step["value"])}
        return self.revision(self.post(step, "/election/proclaim", body)["header"]["revision"])

    def election_observe(self, step):
        with self.client.session.post(
            self.client.get_url("/election/observe"), json={"name": encoded(step["name"])},
            stream=True, timeout=PATIENCE,
        ) as answers:
            return self.kv(json.loads(next(answers.iter_lines()))["result"]["kv"])

    def election_resign(self, step):
        body = {"leader": self.held[step["id"]]}
        return self.revision(self.post(step, "/election/resign", body)["header"]["revision"])

    # ---- auth

    def auth_status(self, step):
        return f"enabled {self.post(step, '/auth/status', {}).get('enabled', False)}"

    def quietly(self, step, path, body):
        answer = self.post(step, path, body)
        answer.pop("header")
        return answer or "ok"

    def auth_enable(self, step):
        return self.quietly(step, "/auth/enable", {})

    def auth_disable(self, step):
        return self.quietly(step, "/auth/disable", {})

    def role_add(self, step):
        return self.quietly(step, "/auth/role/add", {"name": step["name"]})

    def role_delete(self, step):
        return self.quietly(step, "/auth/role/delete", {"role": step["name"]})

    def role_grant(self, step):
        perm = {"permType": step["perm"].upper(), **self.within(step)}
        return self.quietly(step, "/auth/role/grant", {"name": step["name"], "perm": perm})

    def role_revoke(self, step):
        body = {"role": step["name"], "key": encoded(step["key"])}
        return self.quietly(step, "/auth/role/revoke", body)

    def role_get(self, step):
        return self.quietly(step, "/auth/role/get", {"role": step["name"]})

    def role_list(self, step):
        return self.quietly(step, "/auth/role/list", {})

    def user_add(self, step):
        body = {"name": step["name"], "password": step["password"]}
        return self.quietly(step, "/auth/user/add", body)

    def user_delete(self, step):
        return self.quietly(step, "/auth/user/delete", {"name": step["name"]})

    def user_passwd(self, step):
        body = {"name": step["name"], "password": step["password"]}
        return self.quietly(step, "/auth/user/changepw", body)

    def user_grant(self, step):
        body = {"user": step["name"], "role": step["role"]}
        return self.quietly(step, "/auth/user/grant", body)

    def user_revoke(self, step):
        body = {"name": step["name"], "role": step["role"]}
        return self.quietly(step, "/auth/user/revoke", body)

    def user_get(self, step):
        return self.quietly(step, "/auth/user/get", {"name": step["name"]})

    def user_list(self, step):
        return self.quietly(step, "/auth/user/list", {})

    # ---- members, maintenance

    def listed(self, answer):
        for member in answer["members"]:
            member.pop("ID")
        return json.dumps(sorted(answer["members"], key=lambda m: m["peerURLs"]))

    def member_list(self, step):
        return self.listed({"members": self.client.members()})

    def member_add(self, step):
        body = {"peerURLs": step["peer"].split(","), "isLearner": True}
        answer = self.post(step, "/cluster/member/add", body)
        self.members[step["id"]] = answer["member"]["ID"]
        return self.listed(answer)

    def on_member(self, step, call, **more):
        body = {"ID": self.members[step["id"]], **more}
        return self.listed(self.post(step, f"/cluster/member/{call}", body))

    def member_update(self, step):
        return self.on_member(step, "update", peerURLs=[step["peer"]])

    def member_promote(self, step):
        return self.on_member(step, "promote")

    def member_remove(self, step):
        return self.on_member(step, "remove")

    def status(self, step):
        status = self.client.status()
        status.pop("header")
        for field in ("dbSize", "dbSizeInUse", "leader", "raftIndex", "raftTerm", "raftAppliedIndex"):
            status[field] = int(status[field]) > 0
        return json.dumps(status, sort_keys=True)

    def hashkv(self, step):
        now = self.post({}, "/kv/range", {"key": encoded("nothing")})["header"]["revision"]
        clients = [self.connect(endpoint) for endpoint in self.endpoints]
        answers = [
            self.until_applied(lambda: self.post({}, "/maintenance/hashkv", {"revision": now}, one))
            for one in clients
        ]
        hashes = {answer["hash"] for answer in answers}
        return f"{len(hashes)} hash, compacted {self.revision(answers[0]['compact_revision'])}"

    def alarm_list(self, step):
        return self.quietly(step, "/maintenance/alarm", {"action": "GET"})

    def alarm_disarm(self, step):
        return self.quietly(step, "/maintenance/alarm", {"action": "DEACTIVATE"})

    def defragment(self, step):
        return self.post(step, "/maintenance/defragment", {})

    def move_leader(self, step):
        leader, other = None, None
        for endpoint in self.endpoints:
            client = self.connect(endpoint)
            status = client.status()
            if status["leader"] == status["header"]["member_id"]:
                leader = client
            else:
                other = status["header"]["member_id"]
        return self.post(step, "/maintenance/transfer-leadership", {"targetID": other}, leader)

    def snapshot(self, step):
        size, version = 0, None
        with self.client.session.post(
            self.client.get_url("/maintenance/snapshot"), json={}, stream=True, timeout=PATIENCE
        ) as answers:
            for line in answers.iter_lines():
                part = json.loads(line)["result"]
                size += len(base64.b64decode(part.get("blob", "")))
                version = part.get("version")
        return f"version {version} whole {size % 512 == 32}"

    def downgrade_validate(self, step):
        body = {"action": "VALIDATE", "version": step["version"]}
        return self.quietly(step, "/maintenance/downgrade", body)

    def downgrade_cancel(self, step):
        return self.quietly(step, "/maintenance/downgrade", {"action": "CANCEL"})


# The name of the step is a word of the language.
setattr(Gateway, "del", Gateway.delete)


def describe(error):
    if isinstance(error, requests.HTTPError):
        return f"{error.response.status_code} {error.response.text.strip()}"
    try:
        # Whether spaces follow commas changes between two runs of the same etcd.
        detail = json.dumps(json.loads(error.detail_text))
    except (AttributeError, ValueError, TypeError):
        detail = str(error)
    return f"{type(error).__name__} {detail}"


if __name__ == "__main__":
    main(Gateway, describe)
