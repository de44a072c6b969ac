#!/usr/bin/env python3
"""A worker of the test scheduler that knows nothing but PyPI's etcd3: commands, one at a time.

usage: worker.py HOST:PORT NAME
"""
import json, os, subprocess, sys, threading, time
import etcd3

address, name = sys.argv[1].split("//")[-1], sys.argv[2]
store = etcd3.client(*address.rsplit(":", 1))
T, claims, STATUS = "/tcss/v1/", f"/tcss/v1/claim/{name}/", {0: "02"}

# It is there while its lease lives; nobody else has its name.
lease = store.lease(5)
own, info = f"{T}worker/{name}", {"labels": {"language": "python"}, "max_task_num": 1, "prefetch": 0}
registered, _ = store.transaction(
    compare=[store.transactions.create(own) == 0],
    success=[store.transactions.put(own, json.dumps(info), lease)], failure=[])
if not registered:
    sys.exit(f"there is a worker {name} already")
registration = store.get(own)[1].create_revision


def stay_alive():
    alive = time.monotonic()
    while time.monotonic() < alive + 3.5:  # seconds before others take it for dead
        asked = time.monotonic()
        if lease.refresh()[0].TTL > 0:
            alive = asked
        time.sleep(1)
    os._exit(1)


def find_case(run, lane):
    packs = [json.loads(value) for value, _ in store.get_prefix(f"{T}run/{run}/def/")]
    number = lane % packs[0]["total"]
    pack = next(p for p in packs if number - p["first"] in range(len(p["cases"])))
    case = {**pack.get("base", {}), **pack["cases"][number - pack["first"]]}
    return {field: value for field, value in case.items() if value is not None}


def attempt(run, fence, lane, ordinal, number):
    case, start = find_case(run, lane), time.time()
    variables = {**os.environ, **case.get("variables", {}), "TCSS_FENCE": str(fence)}
    try:
        done = subprocess.run(case["command"], input=case.get("input"), env=variables, cwd=case.get("folder"),
                              capture_output=True, text=True, timeout=case["timeout_ms"] / 1000)
        status, detail = STATUS.get(done.returncode, "03"), {"output": done.stdout[-4000:], "stderr": done.stderr[-4000:]}
        if status == "03":
            detail["message"] = f"exit code {done.returncode}"
        if status == "02" and case.get("output", done.stdout) != done.stdout:
            status, detail["message"] = "03", "the output differs"
    except subprocess.TimeoutExpired:
        status, detail = "07", {"message": "it took too long"}
    except (OSError, KeyError) as error:
        status, detail = "04", {"message": str(error)}
    return [lane, ordinal, number, status, int(start * 1e3), int((time.time() - start) * 1e6), detail]


threading.Thread(target=stay_alive, daemon=True).start()
events, _ = store.watch_prefix(claims, start_revision=registration)
print("registered as a worker", flush=True)
for event in events:
    if not isinstance(event, etcd3.events.PutEvent):
        continue
    key, claim = event.key.decode(), json.loads(event.value)
    if claim["registration"] != registration:
        continue
    rows = [attempt(claim["run"], event.create_revision, lane, ordinal, number)
            for lane, first, end, number in claim["items"] for ordinal in range(first, end)]
    segment = f"{T}rseg/{claim['run']}/{name}-{key[len(claims):]}-0"
    # Only if nobody has changed the claim meanwhile: each result is recorded once, or not at all.
    store.transaction(
        compare=[store.transactions.mod(key) == event.mod_revision],
        success=[store.transactions.put(segment, json.dumps({"claim": event.create_revision, "rows": rows})),
                 store.transactions.delete(key)]
        + [store.transactions.delete(f"{T}tag/{tag}") for tag in claim.get("tags", [])], failure=[])
