"""A lock made of one transaction and one lease: whoever creates the key holds the lock."""

import threading
import time

from checks import PATIENCE, Wrong, check, equal, main, wait_until


class LeaseLock:
    """Held while its key exists; the lease removes the key if the holder is gone."""

    def __init__(self, client, key, owner, ttl=60):
        self.client, self.key, self.owner, self.ttl = client, key, owner, ttl
        self.lease = None

    def try_acquire(self):
        """Gives nothing if the lock is ours now, otherwise the name of its holder."""
        lease = self.client.lease(self.ttl)
        transactions = self.client.transactions
        is_ours, answers = self.client.transaction(
            compare=[transactions.version(self.key) == 0],
            success=[transactions.put(self.key, self.owner, lease)],
            failure=[transactions.get(self.key)],
        )
        if is_ours:
            self.lease = lease
            return None
        lease.revoke()
        [found] = answers
        return found[0][0].decode() if found else ""

    def acquire(self):
        deadline = time.monotonic() + PATIENCE
        while self.try_acquire() is not None:
            check(time.monotonic() < deadline, f"{self.owner} never got the lock")
            events, cancel = self.client.watch(self.key)
            timer = threading.Timer(0.2, cancel)
            timer.start()
            for _ in events:
                break
            timer.cancel()
            cancel()

    def release(self):
        self.lease.revoke()
        self.lease = None


def one_holder_at_a_time(cluster):
    """the second client is told who holds the lock, and gets it after the release"""
    key = f"{cluster.prefix}/lock/plain"
    first = LeaseLock(cluster.client(0), key, "first")
    second = LeaseLock(cluster.client(1), key, "second")
    equal(first.try_acquire(), None, "the first attempt")
    equal(second.try_acquire(), "first", "the second attempt")
    equal(first.try_acquire(), "first", "another attempt of the holder itself")
    value, meta = second.client.get(key)
    equal(value, b"first", "the value of the lock")
    equal(meta.lease_id, first.lease.id, "the lease of the lock")
    equal(meta.version, 1, "the version of the lock")
    first.release()
    equal(second.client.get(key), (None, None), "the lock after its release, at another member")
    equal(second.try_acquire(), None, "the attempt after the release")
    second.release()


def nothing_is_left_of_a_failed_attempt(cluster):
    """a transaction that does not hold writes nothing, and its lease has no keys"""
    key = f"{cluster.prefix}/lock/failed"
    client = cluster.client(2)
    holder = LeaseLock(client, key, "holder")
    equal(holder.try_acquire(), None, "the holder's attempt")
    lease = client.lease(60)
    transactions = client.transactions
    succeeded, answers = client.transaction(
        compare=[transactions.create(key) == 0],
        success=[transactions.put(key, "intruder", lease)],
        failure=[],
    )
    equal((succeeded, answers), (False, []), "an attempt on a lock that is held")
    equal(list(lease.keys), [], "the keys of its lease")
    equal(client.get(key)[0], b"holder", "the holder")
    lease.revoke()
    equal(client.get(key)[0], b"holder", "the holder, after another lease is revoked")
    holder.release()


def a_dead_holder_loses_the_lock(cluster):
    """a lock whose holder is silent is free after its time to live, and not before"""
    key = f"{cluster.prefix}/lock/dead"
    dead = LeaseLock(cluster.client(0), key, "dead", ttl=2)
    heir = LeaseLock(cluster.client(1), key, "heir")
    equal(dead.try_acquire(), None, "the attempt of the one that dies")
    granted = time.monotonic()
    equal(dead.lease.granted_ttl, 2, "the time to live")
    wait_until(lambda: heir.try_acquire() is None, "the lock of a dead holder")
    waited = time.monotonic() - granted
    check(waited >= 1.9, f"the lock was free after {waited:.2f} s of its 2 s")
    # The lease is gone as well: etcd answers -1 for the time that remains.
    equal(dead.lease.remaining_ttl, -1, "the time that remains to the dead lease")
    heir.release()


def a_living_holder_keeps_the_lock(cluster):
    """a lock that is refreshed outlives its time to live"""
    key = f"{cluster.prefix}/lock/alive"
    alive = LeaseLock(cluster.client(0), key, "alive", ttl=2)
    other = LeaseLock(cluster.client(1), key, "other")
    equal(alive.try_acquire(), None, "the attempt")
    start = time.monotonic()
    while time.monotonic() - start < 5:
        [answer] = alive.lease.refresh()
        equal(answer.TTL, 2, "the time to live after a refresh")
        equal(other.try_acquire(), "alive", "another's attempt while it is refreshed")
        time.sleep(0.5)
    alive.release()


def no_two_threads_inside(cluster):
    """many threads on all members count under the lock, and no count is lost"""
    key, counter = f"{cluster.prefix}/lock/threads", f"{cluster.prefix}/counter"
    threads, rounds = 6, 5
    cluster.client().put(counter, "0")
    failures = []

    def work(number):
        try:
            client = cluster.client(number)
            for _ in range(rounds):
                lock = LeaseLock(client, key, f"thread {number}")
                lock.acquire()
                count = int(client.get(counter)[0])
                client.put(counter, str(count + 1))
                lock.release()
        except Exception as error:
            failures.append(f"thread {number}: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(3 * PATIENCE)
    if failures:
        raise Wrong("; ".join(failures))
    equal(int(cluster.client().get(counter)[0]), threads * rounds, "the count")


def the_library_s_own_lock(cluster):
    """the lock that the client library brings excludes as well"""
    name = f"{cluster.prefix}/lock/library"
    with cluster.client(0).lock(name, ttl=30) as held:
        check(held.is_acquired(), "the library's lock is not held")
        equal(cluster.client(1).lock(name, ttl=30).acquire(timeout=0.5), False, "a second holder")
    second = cluster.client(1).lock(name, ttl=30)
    equal(second.acquire(timeout=PATIENCE), True, "the lock after its release")
    equal(second.release(), True, "its release")


if __name__ == "__main__":
    main(
        "lock",
        one_holder_at_a_time,
        nothing_is_left_of_a_failed_attempt,
        a_dead_holder_loses_the_lock,
        a_living_holder_keeps_the_lock,
        no_two_threads_inside,
        the_library_s_own_lock,
    )
