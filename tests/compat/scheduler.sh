# The test scheduler on the cluster in hand, with a worker in Python beside one of ours: order and tags
# hold, and both have run something.

# run_scheduler SERVER: $endpoints are its addresses
run_scheduler() {
    local server=$1 log=$work/$1-scheduler own=() status=0 run
    say "$server: a scheduler with a worker in Python"
    "$quoin" scheduler --endpoints "$endpoints" 2>"$log.log" &
    own+=($!)
    "$quoin" worker --name rust --capacity 1 --allow-command --artifacts "$work/$server-artifacts" \
        --endpoints "$endpoints" 2>"$log-rust.log" &
    own+=($!)
    "$python" -B "$root/examples/worker.py" "${endpoints%%,*}" python >"$log-python.log" 2>&1 &
    own+=($!)
    cat >"$work/plan.yaml" <<'PLAN'
cases:
  - {id: first, kind: command, command: [sh, -c, 'sleep 0.02; echo ok'], output: "ok\n"}
  - {id: second, kind: command, command: [sleep, 0.02], case_pre: first, mutual_tag: printer}
  - {id: other, kind: command, command: [sleep, 0.02], case_pre: first, requires: {language: python}}
  - {id: wrong, kind: command, command: ["false"]}
run: {cases: [{case: first}, {case: second}, {case: other}, {case: wrong, repeats: 2}], repeats: 10}
PLAN
    if run=$(timeout 120 "$quoin" run submit "$work/plan.yaml" --endpoints "$endpoints"); then
        timeout 120 "$quoin" run watch "$run" --endpoints "$endpoints" >"$log-run.log" || status=$?
        grep -q '32 of 32 ended, 30 passed, 2 failed in' "$log-run.log" && [ "$status" -eq 1 ] || status=9
        "$quoin" run verify "$run" --endpoints "$endpoints" >"$log-audit.log" || status=9
        "$quoin" result ls "$run" --json --endpoints "$endpoints" >"$log-results.json" || status=9
        grep -q '"worker": "python"' "$log-results.json" || status=9
    else
        status=9
    fi
    stop_processes "${own[@]}"
    [ "$status" -eq 1 ] || { cat "$log"*; return 1; }
}
