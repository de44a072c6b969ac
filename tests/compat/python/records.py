"""Test cases, environments and results kept as JSON records below one prefix each."""

import json
import threading

from checks import Wrong, check, equal, main


class Records:
    """One kind of record, such as test cases."""

    def __init__(self, client, prefix, kind):
        self.client, self.prefix = client, f"{prefix}/{kind}/"

    def put(self, name, record):
        self.client.put(self.prefix + name, json.dumps(record))

    def create(self, name, record):
        """Whether there was no such record before."""
        return self.client.put_if_not_exists(self.prefix + name, json.dumps(record))

    def get(self, name):
        value, meta = self.client.get(self.prefix + name)
        return (None, None) if value is None else (json.loads(value), meta)

    def names(self):
        found = self.client.get_prefix(self.prefix, sort_order="ascend", sort_target="key")
        return [meta.key.decode()[len(self.prefix) :] for _, meta in found]

    def update(self, name, change):
        """Changes a record that nobody else changed meanwhile; tries until that holds."""
        while True:
            record, meta = self.get(name)
            change(record)
            transactions = self.client.transactions
            is_done, _ = self.client.transaction(
                compare=[transactions.mod(self.prefix + name) == meta.mod_revision],
                success=[transactions.put(self.prefix + name, json.dumps(record))],
                failure=[],
            )
            if is_done:
                return record


def records_are_stored_and_listed(cluster):
    """records come back as they were written, from every member and in order"""
    cases = Records(cluster.client(0), cluster.prefix, "testcases")
    environments = Records(cluster.client(0), cluster.prefix, "environments")
    login = {"steps": ["open", "type the name", "Größe prüfen ✓"], "expected_result": "welcome"}
    cases.put("login", login)
    cases.put("logout", {"steps": [], "expected_result": None})
    cases.put("logout/twice", {"steps": ["again"], "expected_result": "refused"})
    environments.put("linux", {"image": "bookworm", "processors": 2})
    for member in range(len(cluster.addresses)):
        there = Records(cluster.client(member), cluster.prefix, "testcases")
        equal(there.get("login")[0], login, f"member {member}: the test case")
        equal(there.names(), ["login", "logout", "logout/twice"], f"member {member}: all test cases")
        equal(there.get("nothing"), (None, None), f"member {member}: a test case that is not there")
    equal(environments.names(), ["linux"], "all environments")


def versions_count_the_changes(cluster):
    """each change raises version and revision by one; deleting starts the version anew"""
    cases = Records(cluster.client(1), cluster.prefix, "versions")
    check(cases.create("case", {"edit": 0}), "a new record was refused")
    check(not cases.create("case", {"edit": 99}), "a record was created twice")
    _, first = cases.get("case")
    for edit in (1, 2, 3):
        cases.put("case", {"edit": edit})
    record, last = cases.get("case")
    equal(record, {"edit": 3}, "the record")
    equal((first.version, last.version), (1, 4), "the versions")
    equal(last.mod_revision - first.mod_revision, 3, "the distance of the revisions")
    equal(last.create_revision, first.mod_revision, "the revision of the creation")
    check(cases.client.delete(cases.prefix + "case"), "the record was not there to be deleted")
    check(not cases.client.delete(cases.prefix + "case"), "the record was deleted twice")
    equal(cases.get("case"), (None, None), "the record after it was deleted")
    check(cases.create("case", {}), "a deleted record cannot be created again")
    equal(cases.get("case")[1].version, 1, "the version of a record that was created again")


def editors_do_not_overwrite_each_other(cluster):
    """editors at all members add to one record, and nothing that one added is lost"""
    cases = Records(cluster.client(0), cluster.prefix, "edited")
    cases.put("shared", {"tags": []})
    editors, edits = 4, 6
    failures = []

    def edit(number):
        try:
            own = Records(cluster.client(number), cluster.prefix, "edited")
            for turn in range(edits):
                own.update("shared", lambda record: record["tags"].append(f"{number}.{turn}"))
        except Exception as error:
            failures.append(f"editor {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=edit, args=(number,), daemon=True) for number in range(editors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise Wrong("; ".join(failures))
    record, meta = cases.get("shared")
    expected = {f"{number}.{turn}" for number in range(editors) for turn in range(edits)}
    equal(set(record["tags"]), expected, "the tags")
    equal(len(record["tags"]), len(expected), "the number of tags")
    equal(meta.version, 1 + len(expected), "the version")


def a_result_is_recorded_once(cluster):
    """a result and the state of its case change together, and only the first time"""
    client = cluster.client(2)
    case, result = f"{cluster.prefix}/once/case", f"{cluster.prefix}/once/results/case/linux"
    client.put(case, "running")
    transactions = client.transactions

    def record(status):
        return client.transaction(
            compare=[transactions.value(case) == "running", transactions.create(result) == 0],
            success=[transactions.put(result, status), transactions.put(case, "done")],
            failure=[transactions.get(result)],
        )

    succeeded, _ = record("passed")
    check(succeeded, "the first result was refused")
    succeeded, answers = record("failed")
    check(not succeeded, "a second result was accepted")
    [[(value, meta)]] = answers
    equal((value, meta.key.decode()), (b"passed", result), "the result that the second one found")
    # Both puts of a transaction have one revision.
    equal(client.get(case)[1].mod_revision, meta.mod_revision, "the revision of both changes")
    equal(client.get(case)[0], b"done", "the state of the case")


def a_report_of_many_results(cluster):
    """results are counted, sorted by value and by age, paged through and removed together"""
    client = cluster.client(1)
    prefix = f"{cluster.prefix}/many/"
    for number in range(50):
        client.put(f"{prefix}{number:03}", f"{(number * 7) % 50:03}")
    by_value = [value for value, _ in client.get_prefix(prefix, sort_order="descend", sort_target="value")]
    equal(by_value, [f"{number:03}".encode() for number in reversed(range(50))], "results by value")
    by_age = [meta.key for _, meta in client.get_prefix(prefix, sort_order="ascend", sort_target="mod")]
    equal(by_age, [f"{prefix}{number:03}".encode() for number in range(50)], "results by age")
    middle = [meta.key for _, meta in client.get_range(f"{prefix}010", f"{prefix}020")]
    equal(middle, [f"{prefix}{number:03}".encode() for number in range(10, 20)], "a page of results")
    only = list(client.get_prefix(prefix, keys_only=True))
    equal([value for value, _ in only], [b""] * 50, "values that were not asked for")
    check(client.replace(f"{prefix}000", "000", "changed"), "a replacement that holds was refused")
    check(not client.replace(f"{prefix}000", "000", "again"), "a replacement that does not hold")
    equal(client.delete_prefix(prefix).deleted, 50, "the number of removed results")
    equal(list(client.get_prefix(prefix)), [], "results after they were removed")


if __name__ == "__main__":
    main(
        "records",
        records_are_stored_and_listed,
        versions_count_the_changes,
        editors_do_not_overwrite_each_other,
        a_result_is_recorded_once,
        a_report_of_many_results,
    )
