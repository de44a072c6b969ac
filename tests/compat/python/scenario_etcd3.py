"""Runs the steps of scenario.json with PyPI's etcd3, the client over gRPC.

Its own calls where it has one; for users and roles, of which it has none, the stub that it ships.
"""

import queue
import tempfile
import urllib.parse

import etcd3
import grpc
from etcd3 import etcdrpc

from scenario import PATIENCE, SHORT_PATIENCE, Skipped, Steps, left_of, main, prefix_end


class Etcd3(Steps):
    name = "etcd3"

    def start(self):
        self.client = self.connect()
        self.base = self.client.get_response("nothing").header.revision

    def connect(self, endpoint=None, user=None, password=None):
        address = urllib.parse.urlsplit(endpoint or self.endpoints[0])
        authority, certificate, key = self.tls or (None, None, None)
        return etcd3.client(
            host=address.hostname, port=address.port, timeout=PATIENCE,
            ca_cert=authority, cert_cert=certificate, cert_key=key, user=user, password=password,
        )

    def read_with(self, tls, key):
        authority, certificate, private = tls
        if not authority:
            raise Skipped("etcd3 speaks no TLS unless an authority is named")
        address = urllib.parse.urlsplit(self.endpoints[0])
        client = etcd3.client(
            host=address.hostname, port=address.port, timeout=SHORT_PATIENCE,
            ca_cert=authority, cert_cert=certificate, cert_key=private,
        )
        client.get(key)

    def at(self, step):
        """The client for a step: a new one for a user, with today's rights."""
        if "as" not in step:
            return self.client
        return self.connect(None, *step["as"].split(":"))

    def kv(self, kv):
        return self.pair(
            kv.key.decode(), kv.value.decode(),
            kv.create_revision, kv.mod_revision, kv.version, kv.lease,
        )

    def kvs(self, kvs):
        return "[" + "; ".join(self.kv(kv) for kv in kvs) + "]"

    # ---- keys

    def put(self, step):
        self.only(step, "key", "value", "prev", "lease")
        lease = self.id_of(step["lease"]) if "lease" in step else None
        answer = self.at(step).put(step["key"], step["value"], lease, step.get("prev", False))
        prev = self.kv(answer.prev_kv) if answer.HasField("prev_kv") else "none"
        return f"{self.revision(answer.header.revision)} prev {prev}"

    def get(self, step):
        client = self.at(step)
        if "prefix" not in step and "end" not in step:
            self.only(step, "key", "serializable")
            answer = client.get_response(step["key"], serializable=step.get("serializable", False))
        else:
            self.only(step, "key", "prefix", "end", "sort", "keys_only")
            target, order = step.get("sort", (None, None))
            more = {"sort_order": order, "sort_target": target}
            if step.get("prefix"):
                more["keys_only"] = step.get("keys_only", False)
                answer = client.get_prefix_response(step["key"], **more)
            else:
                answer = client.get_range_response(step["key"], step["end"], **more)
        revision = self.revision(answer.header.revision)
        return f"{revision} count {answer.count} more {answer.more} {self.kvs(answer.kvs)}"

    def delete(self, step):
        if "prefix" in step:
            answer = self.at(step).delete_prefix(step["key"])
        else:
            self.only(step, "key", "prev")
            answer = self.at(step).delete(
                step["key"], prev_kv=step.get("prev", False), return_response=True
            )
        revision = self.revision(answer.header.revision)
        return f"{revision} deleted {answer.deleted} prev {self.kvs(answer.prev_kvs)}"

    def compact(self, step):
        self.at(step).compact(self.absolute(step["rev"]), physical=step.get("physical", False))
        return "compacted"

    def txn(self, step):
        client = self.at(step)
        make = client.transactions
        conditions = []
        for key, what, operator, value in step["if"]:
            column = getattr(make, what)(key)
            conditions.append({
                "=": lambda: column == value, ">": lambda: column > value,
                "<": lambda: column < value, "!=": lambda: column != value,
            }[operator]())
        succeeded, answers = client.transaction(
            conditions, self.operations(make, step["then"]), self.operations(make, step["else"])
        )
        texts = []
        for answer in answers:
            if isinstance(answer, list):
                metas = [(value.decode(), meta) for value, meta in answer]
                texts.append([
                    self.pair(m.key.decode(), value, m.create_revision, m.mod_revision, m.version,
                              m.lease_id) for value, m in metas
                ])
            else:
                texts.append(answer if answer is None else answer.WhichOneof("response"))
        return f"succeeded {succeeded} {texts}"

    def operations(self, make, parts):
        for part in parts:
            (verb, what), = part.items()
            if verb == "put":
                yield make.put(*what)
            else:
                yield make.get(what) if verb == "get" else make.delete(what)

    def watch(self, step):
        self.only(step, "key", "prefix", "rev", "prev", "puts", "until", "end")
        client, answers = self.connect(), queue.Queue()
        more = {"prev_kv": step.get("prev", False)}
        if "rev" in step:
            more["start_revision"] = self.absolute(step["rev"])
        if step.get("prefix"):
            more["range_end"] = prefix_end(step["key"])
        if "end" in step:
            more["range_end"] = step["end"]
        watch = client.add_watch_callback(step["key"], answers.put, **more)
        events = []
        for key, value in step.get("puts", []):
            self.client.put(key, value)
        while True:
            answer = answers.get(timeout=PATIENCE)
            if isinstance(answer, Exception):
                at = self.revision(getattr(answer, "compacted_revision", 0))
                return f"{events} {type(answer).__name__} {at}"
            for event in answer.events:
                prev = event._event.prev_kv
                prev = f" prev {self.kv(prev)}" if event._event.HasField("prev_kv") else ""
                events.append(f"{type(event).__name__} {self.kv(event._event.kv)}{prev}")
                if step["until"] == [event.key.decode(), event.value.decode()]:
                    client.cancel_watch(watch)
                    return events

    # ---- leases, locks

    def lease_grant(self, step):
        lease = self.client.lease(step["ttl"], step.get("number"))
        self.leases[step["id"]] = lease.id
        return f"granted {lease.ttl}"

    def lease_ttl(self, step):
        info = self.client.get_lease_info(self.id_of(step["lease"]))
        keys = sorted(key.decode() for key in info.keys)
        return f"left {left_of(info.TTL, info.grantedTTL)} granted {info.grantedTTL} keys {keys}"

    def lease_keepalive(self, step):
        answers = list(self.client.refresh_lease(self.id_of(step["lease"])))
        return [(self.lease(answer.ID), answer.TTL) for answer in answers]

    def lease_revoke(self, step):
        self.client.revoke_lease(self.id_of(step["lease"]))
        return "revoked"

    def lock_cycle(self, step):
        lock, other = self.client.lock(step["name"], 60), self.client.lock(step["name"], 60)
        held = [lock.acquire(PATIENCE), other.acquire(timeout=0), lock.is_acquired()]
        return [*held, lock.release(), lock.is_acquired()]

    # ---- auth

    def auth(self, step, call, request):
        client = self.at(step)
        stub = etcdrpc.AuthStub(client.channel)
        return getattr(stub, call)(request, PATIENCE, metadata=client.metadata)

    def auth_enable(self, step):
        return self.auth(step, "AuthEnable", etcdrpc.AuthEnableRequest()) and "ok"

    def auth_disable(self, step):
        return self.auth(step, "AuthDisable", etcdrpc.AuthDisableRequest()) and "ok"

    def role_add(self, step):
        return self.auth(step, "RoleAdd", etcdrpc.AuthRoleAddRequest(name=step["name"])) and "ok"

    def role_delete(self, step):
        request = etcdrpc.AuthRoleDeleteRequest(role=step["name"])
        return self.auth(step, "RoleDelete", request) and "ok"

    def role_grant(self, step):
        request = etcdrpc.AuthRoleGrantPermissionRequest(name=step["name"])
        request.perm.permType = {"read": 0, "write": 1, "readwrite": 2}[step["perm"]]
        request.perm.key = step["key"].encode()
        request.perm.range_end = prefix_end(step["key"]).encode() if "prefix" in step else b""
        return self.auth(step, "RoleGrantPermission", request) and "ok"

    def role_revoke(self, step):
        # This client is of a time when the key was a string; on the wire that is the same.
        request = etcdrpc.AuthRoleRevokePermissionRequest(role=step["name"], key=step["key"])
        return self.auth(step, "RoleRevokePermission", request) and "ok"

    def role_get(self, step):
        answer = self.auth(step, "RoleGet", etcdrpc.AuthRoleGetRequest(role=step["name"]))
        return [(perm.permType, perm.key, perm.range_end) for perm in answer.perm]

    def role_list(self, step):
        return list(self.auth(step, "RoleList", etcdrpc.AuthRoleListRequest()).roles)

    def user_add(self, step):
        request = etcdrpc.AuthUserAddRequest(name=step["name"], password=step["password"])
        return self.auth(step, "UserAdd", request) and "ok"

    def user_delete(self, step):
        request = etcdrpc.AuthUserDeleteRequest(name=step["name"])
        return self.auth(step, "UserDelete", request) and "ok"

    def user_passwd(self, step):
        request = etcdrpc.AuthUserChangePasswordRequest(
            name=step["name"], password=step["password"]
        )
        return self.auth(step, "UserChangePassword", request) and "ok"

    def user_grant(self, step):
        request = etcdrpc.AuthUserGrantRoleRequest(user=step["name"], role=step["role"])
        return self.auth(step, "UserGrantRole", request) and "ok"

    def user_revoke(self, step):
        request = etcdrpc.AuthUserRevokeRoleRequest(name=step["name"], role=step["role"])
        return self.auth(step, "UserRevokeRole", request) and "ok"

    def user_get(self, step):
        answer = self.auth(step, "UserGet", etcdrpc.AuthUserGetRequest(name=step["name"]))
        return list(answer.roles)

    def user_list(self, step):
        return list(self.auth(step, "UserList", etcdrpc.AuthUserListRequest()).users)

    # ---- members, maintenance

    def member_list(self, step):
        members = self.client.members
        return sorted((m.name, list(m.peer_urls), list(m.client_urls)) for m in members)

    def member_add(self, step):
        raise Skipped("etcd3 cannot add a learner, and a voter that nobody starts is in the way")

    def member_remove(self, step):
        self.client.remove_member(self.member_of(step))
        return "removed"

    def member_update(self, step):
        self.client.update_member(self.member_of(step), [step["peer"]])
        return "updated"

    def member_of(self, step):
        if step["id"] not in self.members:
            raise Skipped(f"{self.name} has no member {step['id']}")
        return self.members[step["id"]]

    def status(self, step):
        status = self.client.status()
        known = bool(status.leader) and status.db_size > 0 and status.raft_index > 0
        return f"version {status.version} all there {known}"

    def hashkv(self, step):
        raise Skipped("etcd3 has the hash of the whole database only, which is each server's own")

    def alarm_list(self, step):
        return [alarm.alarm_type for alarm in self.client.list_alarms()]

    def alarm_disarm(self, step):
        return [alarm.alarm_type for alarm in self.client.disarm_alarm()]

    def defragment(self, step):
        self.client.defragment()
        return "ok"

    def snapshot(self, step):
        with tempfile.TemporaryFile() as file:
            self.client.snapshot(file)
            return f"whole {file.tell() % 512 == 32}"


# The name of the step is a word of the language.
setattr(Etcd3, "del", Etcd3.delete)


def describe(error):
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__} {error}"


if __name__ == "__main__":
    main(Etcd3, describe)
