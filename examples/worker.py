#!/usr/bin/env python3
"""A worker of the test scheduler that knows nothing but PyPI's etcd3: commands, one at a time. HOST:PORT NAME"""
import contextlib, etcd3, json, os, signal, subprocess, sys, threading, time

(host, port), name, T = sys.argv[1].split("//")[-1].rsplit(":", 1), sys.argv[2], "/tcss/v1/"
store, canceled, children = etcd3.client(host, port), set(), {}
own, claims, orders, txn = f"{T}worker/{name}", f"{T}claim/{name}/", f"{T}cmd/{name}/", store.transactions
info, lease = {"labels": {"language": "python"}, "max_task_num": 1, "prefetch": 0}, store.lease(5)
# It is there while this lives, and nobody else has its name.
store.transaction([txn.create(own) == 0], [txn.put(own, json.dumps(info), lease)], [])[0] or sys.exit(f"{name} is there already")
registration = store.get(own)[1].create_revision

def kill(*claims):
    [os.killpg(children[claim].pid, signal.SIGKILL) for claim in claims if claim in children]

def stay_alive(alive):
    while (asked := time.monotonic()) < alive + 3.5:  # seconds before others take it for dead
        with contextlib.suppress(etcd3.exceptions.Etcd3Exception):  # its member may come back in time
            alive = asked if lease.refresh()[0].TTL > 0 else alive
        time.sleep(1)
    kill(*children), os._exit(1)

def obey(event):
    order = json.loads(event.value) if isinstance(event, etcd3.events.PutEvent) else {}
    if "cancel" in order:
        canceled.add(claims + order["cancel"]["claim"]), kill(claims + order["cancel"]["claim"])
    elif order == "drain":
        threading.Thread(target=leave).start()

def leave():  # takes nothing more, and goes when it has nothing left
    store.put(own, json.dumps({**info, "draining": True}), lease)
    while list(store.get_prefix(claims)):
        time.sleep(0.1)
    lease.revoke(), os._exit(0)

def attempt(run, claim, fence, lane, ordinal, number):
    start, status, detail = time.time(), "04", {}
    packs = (json.loads(value) for value, _ in store.get_prefix(f"{T}run/{run}/def/"))
    cases = [{**pack.get("base", {}), **case} for pack in packs for case in pack["cases"]]
    case = cases[lane % len(cases)]
    try:
        if case.get("kind") != "command" or "{{" in json.dumps(case):
            raise OSError("this worker runs commands only, and fills nothing in")
        if claim not in canceled:
            children[claim] = child = subprocess.Popen(case["command"], -1, None, *[subprocess.PIPE] * 3, text=True,
                errors="replace", start_new_session=True, cwd=case.get("folder"),
                env={**os.environ, **(case.get("variables") or {}), "TCSS_FENCE": str(fence)})
            output, errors = child.communicate(case.get("input"), timeout=case["timeout_ms"] / 1000)
            is_good = child.returncode == 0 and case.get("output") in (None, output)
            status, detail = "02" if is_good else "03", {"output": output[-4000:], "stderr": errors[-4000:]}
    except (OSError, subprocess.TimeoutExpired) as error:
        status, detail = "07" if isinstance(error, subprocess.TimeoutExpired) else "04", {"message": str(error)}
        kill(claim)
    children.pop(claim, None)
    return [lane, ordinal, number, "05" if claim in canceled else status, int(start * 1e3), int((time.time() - start) * 1e6), detail]

threading.Thread(target=stay_alive, args=[time.monotonic()], daemon=True).start()
store.add_watch_prefix_callback(orders, lambda answer: [obey(event) for event in answer.events])
print("registered as a worker", flush=True)
for event in store.watch_prefix(claims, start_revision=registration)[0]:
    claim = json.loads(event.value) if isinstance(event, etcd3.events.PutEvent) else {}
    if claim.get("registration") != registration:
        continue
    key = event.key.decode()
    rows = [attempt(claim["run"], key, event.create_revision, lane, ordinal, number)
            for lane, first, end, number in claim["items"] for ordinal in range(first, end)]
    # Only if nobody has changed the claim meanwhile: each result is recorded once, or not at all.
    store.transaction([txn.mod(key) == event.mod_revision], [
        txn.put(f"{T}rseg/{claim['run']}/{name}-{key[len(claims):]}-0",
                json.dumps({"claim": event.create_revision, "rows": rows})), txn.delete(key),
        *[txn.delete(f"{T}tag/{tag}") for tag in claim.get("tags", [])]], [])
