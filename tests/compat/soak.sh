# Sourced by scripts/compat: the test scheduler's soak test on three members of etcd, which all die in turn
# as schedulers and workers do.
# shellcheck shell=bash disable=SC2154

# So many seconds for the test itself: several times what it takes. Building it is not counted.
soak_seconds=420

# run_soak: $etcd is the server
run_soak() {
    local log=$work/soak.log cargo=(${CARGO:-cargo} test --locked)
    # With what the verb has built; the store is another server, so that the engine says nothing.
    # shellcheck disable=SC2206
    cargo+=(${COMPAT_CARGO_FLAGS:-} --test soak)
    if ! (cd "$root" && "${cargo[@]}" --no-run >"$log" 2>&1); then
        tail -n 20 "$log"
        return 1
    fi
    say "etcd: the test scheduler while schedulers, workers and members die (at most $soak_seconds s)"
    (cd "$root" && QUOIN_TEST_BINARY=$etcd timeout --kill-after 10 "$soak_seconds" \
        "${cargo[@]}" -- --exact all_die_in_turn_and_nothing_is_lost::memory >"$log" 2>&1) || {
        tail -n 40 "$log"
        return 1
    }
    # Nothing that was left out passes as done.
    grep -q '^test result: ok. 1 passed' "$log" || { cat "$log"; return 1; }
}
