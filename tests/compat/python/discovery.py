"""Service discovery: an instance is a key below its service's prefix, as long as its lease lives."""

import queue
import time

from checks import PATIENCE, check, equal, main, wait_until


class Directory:
    def __init__(self, client, prefix):
        self.client, self.prefix = client, prefix

    def key(self, service, address=""):
        # With the slash, the instances of "api" are not those of "api-gateway".
        return f"{self.prefix}/services/{service}/{address}"

    def register(self, service, address, ttl=60, load=0):
        lease = self.client.lease(ttl)
        self.client.put(self.key(service, address), str(load), lease)
        return lease

    def instances(self, service):
        start = len(self.key(service))
        found = self.client.get_prefix(self.key(service), sort_order="ascend", sort_target="key")
        return [meta.key.decode()[start:] for _, meta in found]


def instances_are_found_at_every_member(cluster):
    """what is registered at one member is found at all, by its service alone"""
    here = Directory(cluster.client(0), cluster.prefix)
    leases = [
        here.register("api", "10.0.0.1:80"),
        here.register("api", "10.0.0.2:80"),
        here.register("api-gateway", "10.0.0.9:443"),
    ]
    for member in range(len(cluster.addresses)):
        there = Directory(cluster.client(member), cluster.prefix)
        equal(there.instances("api"), ["10.0.0.1:80", "10.0.0.2:80"], f"member {member}: api")
        equal(there.instances("api-gateway"), ["10.0.0.9:443"], f"member {member}: api-gateway")
        equal(there.instances("nothing"), [], f"member {member}: a service without instances")
    equal([key.decode() for key in leases[0].keys], [here.key("api", "10.0.0.1:80")], "lease keys")
    for lease in leases:
        lease.revoke()
    equal(here.instances("api"), [], "api after all leases are revoked")


def a_silent_instance_disappears(cluster):
    """an instance that is not refreshed disappears, one that is stays"""
    directory = Directory(cluster.client(1), cluster.prefix)
    alive = directory.register("mixed", "alive", ttl=2)
    registered = time.monotonic()
    directory.register("mixed", "silent", ttl=2)

    def only_one_is_left():
        alive.refresh()
        return directory.instances("mixed") == ["alive"]

    equal(directory.instances("mixed"), ["alive", "silent"], "both instances at first")
    wait_until(only_one_is_left, "the silent instance to disappear")
    age = time.monotonic() - registered
    check(age >= 1.9, f"the silent instance disappeared after {age:.2f} s of its 2 s")
    alive.revoke()


def watchers_follow_the_instances(cluster):
    """a watcher at another member sees instances come, change, go and expire, in that order"""
    directory = Directory(cluster.client(0), cluster.prefix)
    events = queue.Queue()
    watcher = cluster.client(2)
    watch = watcher.add_watch_prefix_callback(directory.key("watched"), events.put)
    try:
        start = len(directory.key("watched"))
        seen = []

        def see(number):
            while len(seen) < number:
                answer = events.get(timeout=PATIENCE)
                check(hasattr(answer, "events"), f"the watch failed: {answer!r}")
                for event in answer.events:
                    name = event.key.decode()[start:]
                    seen.append((type(event).__name__, name, event.value.decode()))

        lease = directory.register("watched", "a", load=1)
        directory.client.put(directory.key("watched", "a"), "2", lease)
        directory.register("watched", "b", ttl=2)
        see(3)
        lease.revoke()
        see(5)
        expected = [
            ("PutEvent", "a", "1"),
            ("PutEvent", "a", "2"),
            ("PutEvent", "b", "0"),
            ("DeleteEvent", "a", ""),
            ("DeleteEvent", "b", ""),
        ]
        equal(seen, expected, "the events")
    finally:
        watcher.cancel_watch(watch)


def an_instance_that_moves_to_another_lease(cluster):
    """a key belongs to the lease of its last put, and survives the end of the one before"""
    client = cluster.client(1)
    directory = Directory(client, cluster.prefix)
    old = directory.register("moving", "x")
    new = directory.register("moving", "x", load=5)
    equal(list(old.keys), [], "the keys of the lease before")
    old.revoke()
    value, meta = client.get(directory.key("moving", "x"))
    equal((value, meta.lease_id, meta.version), (b"5", new.id, 2), "the instance")
    client.put(directory.key("moving", "x"), "6")
    new.revoke()
    value, meta = client.get(directory.key("moving", "x"))
    equal((value, meta.lease_id, meta.version), (b"6", 0, 3), "the instance without a lease")


if __name__ == "__main__":
    main(
        "discovery",
        instances_are_found_at_every_member,
        a_silent_instance_disappears,
        watchers_follow_the_instances,
        an_instance_that_moves_to_another_lease,
    )
