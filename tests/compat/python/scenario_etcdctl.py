"""Runs the steps of scenario.json with etcdctl, which the variable ETCDCTL names.

What etcdctl prints as JSON is the outcome, with ids, terms, sizes and times taken out.
"""

import base64
import json
import os
import re
import signal
import subprocess
import time

from scenario import PATIENCE, SHORT_PATIENCE, Skipped, Steps, left_of, main

# Differ from run to run, or say who answered.
VARYING = {"cluster_id", "member_id", "raft_term", "ID", "memberID"}


class Refused(Exception):
    """etcdctl ended with an error; the text is its own."""


class Etcdctl(Steps):
    name = "etcdctl"

    def start(self):
        self.base = self.current()

    def read_with(self, tls, key):
        command = [os.environ["ETCDCTL"], "--endpoints", self.endpoints[0]]
        command += [f"--dial-timeout={SHORT_PATIENCE}s", f"--command-timeout={SHORT_PATIENCE}s"]
        for flag, file in zip(("--cacert", "--cert", "--key"), tls):
            command += [flag, file] if file else []
        subprocess.run([*command, "get", key], capture_output=True, timeout=PATIENCE, check=True)

    def command(self, step, *arguments, endpoints=None):
        command = [os.environ["ETCDCTL"], "--endpoints", endpoints or self.endpoints[0]]
        if self.tls:
            command += ["--cacert", self.tls[0], "--cert", self.tls[1], "--key", self.tls[2]]
        if step.get("as"):
            command += ["--user", step["as"]]
        return command + [str(argument) for argument in arguments]

    def run(self, step, *arguments, endpoints=None, text=""):
        command = self.command(step, *arguments, endpoints=endpoints)
        ran = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if ran.returncode != 0:
            raise Refused(f"status {ran.returncode} {refusal(ran.stderr)}")
        return ran.stdout

    def json(self, step, *arguments, **more):
        return self.plain(json.loads(self.run(step, "-w", "json", *arguments, **more)))

    def plain(self, part):
        """The same without what varies: revisions relative, leases by name, bytes as text."""
        if isinstance(part, list):
            return [self.plain(one) for one in part]
        if not isinstance(part, dict):
            return part
        result = {}
        for key, value in part.items():
            if key in VARYING:
                continue
            if key in ("revision", "create_revision", "mod_revision", "compact_revision"):
                value = self.revision(value)
            elif key == "lease":
                value = self.lease(value)
            elif key in ("key", "value", "range_end") and isinstance(value, str):
                value = base64.b64decode(value).decode()
            result[key] = self.plain(value)
        return result

    def answer(self, *arguments, **more):
        return json.dumps(self.json(*arguments, **more), ensure_ascii=False, sort_keys=True)

    def current(self):
        text = self.run({}, "-w", "json", "get", "nothing")
        return json.loads(text)["header"]["revision"]

    # ---- keys

    def put(self, step):
        options = []
        if "lease" in step:
            options += [f"--lease={self.id_of(step['lease']):x}"]
        options += ["--prev-kv"] * step.get("prev", False)
        options += ["--ignore-value"] * step.get("ignore_value", False)
        options += ["--ignore-lease"] * step.get("ignore_lease", False)
        value = [] if step.get("ignore_value") else [step["value"]]
        return self.answer(step, "put", *options, "--", step["key"], *value)

    def get(self, step):
        options = []
        for flag in ("prefix", "keys_only", "count_only"):
            options += [f"--{flag.replace('_', '-')}"] * step.get(flag, False)
        for flag in ("min_mod", "max_mod"):
            if flag in step:
                options.append(f"--{flag.replace('_', '-')}-rev={self.absolute(step[flag])}")
        if "limit" in step:
            options.append(f"--limit={step['limit']}")
        if "rev" in step:
            options.append(f"--rev={self.absolute(step['rev'])}")
        if step.get("serializable"):
            options.append("--consistency=s")
        if "sort" in step:
            target = {"mod": "modify"}.get(step["sort"][0], step["sort"][0])
            options += [f"--sort-by={target}", f"--order={step['sort'][1]}"]
        end = [step["end"]] if "end" in step else []
        if step.get("count_only"):
            said = self.run(step, "-w", "fields", "get", *options, "--", step["key"], *end)
            return re.findall(r'"Count" : \d+', said)[0]
        return self.answer(step, "get", *options, "--", step["key"], *end)

    def delete(self, step):
        options = ["--prefix"] * step.get("prefix", False) + ["--prev-kv"] * step.get("prev", False)
        end = [step["end"]] if "end" in step else []
        return self.answer(step, "del", *options, "--", step["key"], *end)

    def compact(self, step):
        physical = ["--physical"] * step.get("physical", False)
        return self.run(step, "compaction", *physical, self.absolute(step["rev"])).replace(
            str(self.absolute(step["rev"])), "R"
        )

    def txn(self, step):
        names = {"version": "version", "create": "create", "mod": "mod", "value": "value"}
        lines = [f'{names[w]}("{k}") {op} "{v}"' for k, w, op, v in step["if"]] + [""]
        for branch in (step["then"], step["else"]):
            for part in branch:
                (verb, what), = part.items()
                lines.append(f"{verb} {' '.join(what) if verb == 'put' else what}")
            lines.append("")
        return self.answer(step, "txn", text="\n".join(lines) + "\n")

    def watch(self, step):
        options = ["--prefix"] * step.get("prefix", False) + ["--prev-kv"] * step.get("prev", False)
        keys = [step["key"], *([step["end"]] if "end" in step else [])]
        if "filter" in step:
            raise Skipped("etcdctl has no filters for watches")
        # Nothing is lost however late the watch begins, if it begins at the next revision.
        first = self.absolute(step["rev"]) if "rev" in step else self.current() + 1
        command = self.command(step, "-w", "json", "watch", *options, f"--rev={first}", *keys)
        events = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            try:
                for key, value in step.get("puts", []):
                    self.run({}, "put", key, value)
                while True:
                    line = child.stdout.readline()
                    if not line:
                        return f"{events} ended: {refusal(child.stderr.read())}"
                    answer = self.plain(json.loads(line))
                    if answer.get("Canceled"):
                        return f"{events} canceled at {self.revision(answer['CompactRevision'])}"
                    for event in answer.get("Events") or []:
                        events.append(event)
                        if step["until"] == [event["kv"]["key"], event["kv"].get("value", "")]:
                            return json.dumps(events, ensure_ascii=False, sort_keys=True)
            finally:
                child.kill()

    # ---- leases, locks, elections

    def lease_grant(self, step):
        if "number" in step:
            raise Skipped("etcdctl takes no id for a lease")
        text = self.run(step, "-w", "json", "lease", "grant", step["ttl"])
        answer = json.loads(text)
        self.leases[step["id"]] = int(answer["ID"])
        return f"granted {answer['TTL']}"

    def lease_ttl(self, step):
        keys = ["--keys"] * step.get("keys", False)
        lease = f"{self.id_of(step['lease']):x}"
        answer = json.loads(self.run(step, "-w", "json", "lease", "timetolive", lease, *keys))
        attached = sorted(base64.b64decode(key).decode() for key in answer.get("keys") or [])
        granted = int(answer["granted-ttl"])
        return f"left {left_of(int(answer['ttl']), granted)} granted {granted} {attached}"

    def lease_keepalive(self, step):
        return self.run(step, "lease", "keep-alive", "--once", f"{self.id_of(step['lease']):x}")

    def lease_list(self, step):
        _, *ids = self.run(step, "lease", "list").split("\n")
        return self.known_leases(int(one, 16) for one in ids if one)

    def lease_revoke(self, step):
        return self.run(step, "lease", "revoke", f"{self.id_of(step['lease']):x}")

    def lock_cycle(self, step):
        key = self.run(step, "lock", step["name"], "--", "sh", "-c", 'echo "$ETCD_LOCK_KEY"')
        return re.sub(r"/[0-9a-f]+$", "/<session>", key.strip())

    def election_leader(self, step):
        raise Skipped("etcdctl waits for a leader when there is none")

    def election_cycle(self, step):
        candidate = subprocess.Popen(
            self.command(step, "elect", step["name"], step["value"]),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        with candidate:
            elected = [candidate.stdout.readline(), candidate.stdout.readline()]
            observer = subprocess.Popen(
                self.command(step, "elect", "--listen", step["name"]),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            with observer:
                observed = [observer.stdout.readline(), observer.stdout.readline()]
                observer.kill()
            candidate.send_signal(signal.SIGINT)
            candidate.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while "vote" in self.run(step, "get", step["name"], "--prefix"):
            if time.monotonic() > deadline:
                return "did not resign"
            time.sleep(0.02)
        return re.sub(r"/[0-9a-f]+(?=\\n)", "/<session>", f"{elected} {observed}")

    # ---- auth

    def auth_status(self, step):
        return self.run(step, "auth", "status").splitlines()[0]

    def auth_enable(self, step):
        # Without --user etcdctl makes root first; with one it asks for the call alone.
        return self.run(step, "auth", "enable", "--user", "root:rootpass")

    def auth_disable(self, step):
        return self.run(step, "auth", "disable")

    def role_add(self, step):
        return self.run(step, "role", "add", step["name"])

    def role_delete(self, step):
        return self.run(step, "role", "delete", step["name"])

    def role_grant(self, step):
        options = ["--prefix=true"] if step.get("prefix") else []
        return self.run(
            step, "role", "grant-permission", *options, step["name"], step["perm"], step["key"]
        )

    def role_revoke(self, step):
        return self.run(step, "role", "revoke-permission", step["name"], step["key"])

    def role_get(self, step):
        return self.run(step, "role", "get", step["name"])

    def role_list(self, step):
        return self.run(step, "role", "list").split()

    def user_add(self, step):
        return self.run(step, "user", "add", f"{step['name']}:{step['password']}")

    def user_delete(self, step):
        return self.run(step, "user", "delete", step["name"])

    def user_passwd(self, step):
        text = f"{step['password']}\n"
        return self.run(step, "user", "passwd", "--interactive=false", step["name"], text=text)

    def user_grant(self, step):
        return self.run(step, "user", "grant-role", step["name"], step["role"])

    def user_revoke(self, step):
        return self.run(step, "user", "revoke-role", step["name"], step["role"])

    def user_get(self, step):
        return self.run(step, "user", "get", step["name"])

    def user_list(self, step):
        return self.run(step, "user", "list").split()

    # ---- members, maintenance

    def member_list(self, step):
        members = self.json(step, "member", "list")["members"]
        return json.dumps(sorted(members, key=lambda one: one["peerURLs"]), sort_keys=True)

    def member_add(self, step):
        peer = f"--peer-urls={step['peer']}"
        answer = json.loads(
            self.run(step, "-w", "json", "member", "add", step["id"], "--learner", peer)
        )
        self.members[step["id"]] = answer["member"]["ID"]
        return json.dumps(self.plain(answer["member"]), sort_keys=True)

    def on_member(self, step, *arguments):
        member = f"{self.members[step['id']]:x}"
        said = self.run(step, "member", arguments[0], member, *arguments[1:])
        return re.sub(r" +[0-9a-f]{12,16}", " <id>", said)

    def member_update(self, step):
        return self.on_member(step, "update", f"--peer-urls={step['peer']}")

    def member_promote(self, step):
        return self.on_member(step, "promote")

    def member_remove(self, step):
        return self.on_member(step, "remove")

    def status(self, step):
        every = ",".join(self.endpoints)
        answers = json.loads(self.run(step, "-w", "json", "endpoint", "status", endpoints=every))
        parts = []
        for one in sorted(answers, key=lambda one: one["Endpoint"]):
            status = self.plain(one["Status"])
            for field in ("dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex", "leader"):
                status[field] = status[field] > 0
            status["header"] = None
            status["raftTerm"] = None
            parts.append(status)
        return json.dumps(parts, sort_keys=True)

    def hashkv(self, step):
        every = ",".join(self.endpoints)
        revision = f"--rev={self.current()}"
        answers = json.loads(self.until_applied(
            lambda: self.run(step, "-w", "json", "endpoint", "hashkv", revision, endpoints=every)
        ))
        hashes = {one["HashKV"]["hash"] for one in answers}
        compacted = self.revision(answers[0]["HashKV"]["compact_revision"])
        return f"{len(hashes)} hash of {len(answers)} members, compacted {compacted}"

    def alarm_list(self, step):
        return self.run(step, "alarm", "list")

    def alarm_disarm(self, step):
        return self.run(step, "alarm", "disarm")

    def defragment(self, step):
        said = self.run(step, "defrag")
        return re.sub(r"took [0-9.]+.*s", "took T", said)

    def move_leader(self, step):
        every = ",".join(self.endpoints)
        answers = json.loads(self.run(step, "-w", "json", "endpoint", "status", endpoints=every))
        leader = answers[0]["Status"]["leader"]
        ids = [one["Status"]["header"]["member_id"] for one in answers]
        other = next(one for one in ids if one != leader)
        said = self.run(step, "move-leader", f"{other:x}", endpoints=every)
        return re.sub(r"[0-9a-f]{12,16}", "<id>", said)

    def snapshot(self, step):
        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"scenario-{os.getpid()}.db")
        try:
            said = self.run(step, "snapshot", "save", path)
            size = os.path.getsize(path)
        finally:
            if os.path.exists(path):
                os.remove(path)
        version = re.findall(r"Server version .*", said)
        return f"whole {size % 512 == 32} {version}"

    def downgrade_validate(self, step):
        return self.run(step, "downgrade", "validate", step["version"])

    def downgrade_cancel(self, step):
        return self.run(step, "downgrade", "cancel")


# The name of the step is a word of the language.
setattr(Etcdctl, "del", Etcdctl.delete)


def refusal(said):
    """The last line of what etcdctl says on its standard error, without times and addresses."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith('{"level"')]
    text = (errors or lines or [""])[-1]
    text = re.sub(r"\{address: [^}]*\}", "", text)
    return re.sub(r"\b[0-9a-f]{15,16}\b", "<id>", text)


if __name__ == "__main__":
    main(Etcdctl, lambda error: f"{type(error).__name__} {error}")
