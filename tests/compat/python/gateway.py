"""The JSON gateway, as the client library etcd3gw uses it: keys, transactions, leases, watches."""

import json
import threading

import etcd3gw
import requests

from checks import PATIENCE, check, equal, main, wait_until


def client(cluster, member=0):
    address = cluster.addresses[member % len(cluster.addresses)]
    return etcd3gw.client(host=address.hostname, port=address.port, timeout=PATIENCE)


def keys_of_all_kinds(cluster):
    """what is put over JSON is read over JSON and over gRPC, in any order"""
    json_client, prefix = client(cluster), f"{cluster.prefix}/gateway/kv/"
    values = {f"{prefix}{n}": bytes([n, 255 - n, 0, 10]) for n in range(10)}
    for key, value in values.items():
        equal(json_client.put(key, value), True, "a put")
    for key, value in values.items():
        equal(client(cluster, 1).get(key), [value], "the value at another member")
        equal(cluster.client(2).get(key)[0], value, "the value over gRPC")
    found = json_client.get_prefix(prefix, sort_order="descend", sort_target="key")
    equal([value for value, _ in found], list(reversed(values.values())), "the values, last first")
    for _, pair in found:
        equal(pair["version"], "1", "a version")
        equal(pair["create_revision"], pair["mod_revision"], "the revisions of a new key")
    equal(json_client.get(f"{prefix}none"), [], "a key that is not there")
    equal(json_client.delete(f"{prefix}0"), True, "a delete")
    equal(json_client.delete(f"{prefix}0"), False, "a second delete")
    equal(json_client.delete_prefix(prefix), True, "a delete of all")
    equal(json_client.get_prefix(prefix), [], "what is left")


def transactions(cluster):
    """keys are created once, and replaced only if they are what they should be"""
    json_client, key = client(cluster), f"{cluster.prefix}/gateway/txn"
    equal(json_client.create(key, "first"), True, "a create")
    equal(json_client.create(key, "second"), False, "a second create")
    equal(json_client.replace(key, "other", "third"), False, "a replace of another value")
    equal(json_client.replace(key, "first", "third"), True, "a replace")
    equal(json_client.get(key), [b"third"], "the value")


def leases_and_locks(cluster):
    """a lease has its keys, lives as long as it is refreshed, and takes its keys with it"""
    json_client, key = client(cluster), f"{cluster.prefix}/gateway/lease"
    lease = json_client.lease(ttl=60)
    json_client.put(key, "value", lease)
    equal(lease.keys(), [key.encode()], "the keys of a lease")
    check(50 <= lease.ttl() <= 60, "the time to live")
    equal(lease.refresh(), 60, "the time to live after a refresh")
    equal(lease.revoke(), True, "a revoke")
    equal(json_client.get(key), [], "the key after it")
    equal((lease.ttl(), lease.refresh()), (-1, -1), "the time to live of a lease that is gone")
    name = f"{cluster.prefix}/lock"
    with json_client.lock(name, ttl=30) as held:
        check(held.is_acquired(), "the lock is not held")
        equal(client(cluster, 1).lock(name, ttl=30).acquire(), False, "a second holder")
        equal(held.refresh(), 30, "the time to live of the lock")
    check(not held.is_acquired(), "the lock is held after its release")


def watches(cluster):
    """a watch tells each change in order, from the past on, and ends when it is cancelled"""
    json_client, prefix = client(cluster), f"{cluster.prefix}/gateway/watch/"
    json_client.put(f"{prefix}a", "0")
    [(_, first)] = json_client.get(f"{prefix}a", metadata=True)
    start = int(first["mod_revision"])
    events, cancel = client(cluster, 1).watch_prefix(prefix, start_revision=start)
    timer = threading.Timer(PATIENCE, cancel)
    timer.start()
    for n in range(1, 5):
        json_client.put(f"{prefix}a", str(n))
    json_client.delete(f"{prefix}a")
    seen = []
    for event in events:
        seen.append(event.get("type", event["kv"].get("value")))
        if len(seen) == 6:
            break
    timer.cancel()
    cancel()
    equal(seen, [b"0", b"1", b"2", b"3", b"4", "DELETE"], "the events")


def members_and_status(cluster):
    """every member is listed, and says of itself what it is"""
    members = wait_until(
        lambda: [m for m in client(cluster).members() if m.get("clientURLs")],
        "members with their addresses",
    )
    equal(len(members), len(cluster.addresses), "the number of members")
    leaders = {client(cluster, n).status()["leader"] for n in range(len(cluster.addresses))}
    check(len(leaders) == 1, f"several leaders: {leaders}")
    check(leaders.pop() in {member["ID"] for member in members}, "the leader is no member")


def requests_without_a_library(cluster):
    """the answers to bare requests are JSON to the letter"""
    address = cluster.addresses[0].geturl()

    def post(path, body):
        answer = requests.post(f"{address}/v3/{path}", data=body, timeout=PATIENCE)
        return answer.status_code, answer.json()

    equal(post("kv/range", "{}")[1], {"code": 3, "message": "etcdserver: key is not provided"}, "no key")
    equal(post("kv/nothing", "{}"), (404, {"code": 5, "message": "Not Found"}), "a wrong path")
    status, answer = post("lease/grant", json.dumps({"TTL": "60", "no such member": [1]}))
    equal((status, answer["TTL"]), (200, "60"), "a grant")
    check(isinstance(answer["ID"], str) and int(answer["ID"]) > 0, "a lease's id is no string")
    equal(post("lease/revoke", json.dumps({"ID": answer["ID"]}))[0], 200, "a revoke")
    equal(post("lease/revoke", json.dumps({"ID": answer["ID"]}))[0], 404, "a second revoke")


if __name__ == "__main__":
    main(
        "gateway",
        keys_of_all_kinds,
        transactions,
        leases_and_locks,
        watches,
        members_and_status,
        requests_without_a_library,
    )
