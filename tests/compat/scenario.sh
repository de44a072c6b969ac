# Sourced by scripts/compat: the steps of a scenario, done by each client on each server.
#
# scenario.json and tls.json hold the steps; a scenario is named after its file. It expects what
# scripts/compat has prepared: `root`, `cache`, `work`, `endpoints`, `servers`,
# `failures`, `skipped`, `say`, retry, start_cluster and stop_cluster. A client writes one line for each
# step; the lines of one client must be the same for all servers.
# shellcheck shell=bash disable=SC2154

# Names of the clients that can run here.
scenario_clients=()

# prepare_scenario ETCDCTL PYTHON: finds or builds the clients; empty arguments are missing tools
prepare_scenario() {
    local etcdctl=$1 python=$2
    if [ -n "$python" ] && [ -n "$etcdctl" ]; then
        scenario_clients+=(etcdctl)
        export ETCDCTL=$etcdctl
    else
        skipped+=("the scenario with etcdctl 3.7.1: it or Python is missing")
    fi
    [ -z "$python" ] || scenario_clients+=(etcd3 etcd3gw)
    [ -n "$python" ] || skipped+=("the scenario with etcd3 and etcd3gw: Python is missing")
    prepare_go
    prepare_rust
    prepare_node
}

prepare_go() {
    if ! command -v go >/dev/null; then
        skipped+=("the scenario with Go's clientv3: Go is not installed")
    elif (cd "$root/tests/compat/go" && retry go mod download &&
        CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$cache/compat/go-scenario" .)
    then
        scenario_clients+=(clientv3)
    else
        failures+=("Go is there, but the client on clientv3 could not be built")
    fi
}

prepare_rust() {
    rust_scenario=${SCENARIO_BIN:-$(dirname "$quoin")/examples/scenario}
    if [ ! -x "$rust_scenario" ]; then
        local profile=()
        [[ $quoin != */release/* ]] || profile=(--release)
        say "building the client on etcd-client"
        (cd "$root" && cargo build --quiet --locked "${profile[@]}" --example scenario) || :
    fi
    if [ -x "$rust_scenario" ]; then
        scenario_clients+=(etcd-client)
    else
        failures+=("the client on etcd-client is not at $rust_scenario")
    fi
}

prepare_node() {
    local from=$root/tests/compat/node to=$cache/compat/node
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        skipped+=("the scenario with Node's etcd3: Node or npm is not installed")
        return
    fi
    mkdir -p "$to"
    if ! cmp -s "$from/package-lock.json" "$to/installed-lock.json"; then
        say "installing Node's etcd3"
        cp "$from/package.json" "$from/package-lock.json" "$to/"
        if ! (cd "$to" && retry npm ci --ignore-scripts --no-fund --no-audit >npm.log 2>&1); then
            tail -n 5 "$to/npm.log"
            failures+=("Node is there, but its etcd3 could not be installed")
            return
        fi
        cp "$from/package-lock.json" "$to/installed-lock.json"
    fi
    scenario_clients+=(node-etcd3)
}

# scenario_command CLIENT: what runs it, one word a line
scenario_command() {
    case $1 in
        etcdctl | etcd3 | etcd3gw)
            printf '%s\n' "$python" -B "$root/tests/compat/python/scenario_$1.py" ;;
        clientv3) echo "$cache/compat/go-scenario" ;;
        etcd-client) echo "$rust_scenario" ;;
        node-etcd3)
            cp "$root/tests/compat/node/scenario.js" "$cache/compat/node/"
            printf '%s\n' node "$cache/compat/node/scenario.js" ;;
    esac
}

# run_scenario SERVER: all clients, one after the other
run_scenario() {
    local server=$1 client
    [ ${#scenario_clients[@]} -gt 0 ] || return 0
    # No member is added before the others have been connected for five seconds.
    until [ $((SECONDS - started)) -ge 7 ]; do sleep 0.2; done
    for client in "${scenario_clients[@]}"; do
        if ! run_client "$server" "$client" scenario "$endpoints"; then
            # What it left half done must not be the next one's.
            stop_cluster
            start_cluster "$server" || return 1
        fi
    done
}

# run_steps SERVER SCENARIO ENDPOINTS CA CERT KEY: all clients; it ends where one breaks off
run_steps() {
    local server=$1 client
    shift
    for client in "${scenario_clients[@]}"; do
        run_client "$server" "$client" "$@" || return 1
    done
}

# run_client SERVER CLIENT SCENARIO ARGUMENT...: one line a step into SERVER.CLIENT.SCENARIO
run_client() {
    local server=$1 client=$2 scenario=$3 command
    shift 3
    mapfile -t command < <(scenario_command "$client")
    say "$server: $scenario.json with $client"
    # Authorities of the machine would take the place of those that a client is given.
    if ! env -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE TMPDIR="$work" \
        timeout 240 "${command[@]}" "$root/tests/compat/$scenario.json" "$@" \
        >"$work/$server.$client.$scenario" 2>"$work/$server.$client.$scenario.errors"
    then
        tail -n 5 "$work/$server.$client.$scenario.errors"
        failures+=("$server: $scenario.json with $client broke off")
        return 1
    fi
}

# compare_scenario SCENARIO: one table of all clients, and one of the steps that differ
compare_scenario() {
    local scenario=$1 server client cell steps
    local differing=$work/differing
    say "$scenario.json against each server:"
    : >"$differing"
    printf 'compat: %-12s %6s %8s' client steps skipped
    for server in $servers; do [ "$server" = etcd ] || printf ' %14s' "$server"; done
    echo
    for client in "${scenario_clients[@]}"; do
        steps=$work/etcd.$client.$scenario
        printf 'compat: %-12s %6d %8d' "$client" "$(wc -l <"$steps")" "$(grep -c ': SKIPPED' "$steps")"
        for server in $servers; do
            [ "$server" != etcd ] || continue
            cell=equal
            if ! cmp -s "$steps" "$work/$server.$client.$scenario"; then
                cell=$(differing_steps "$client" "$server" | tee -a "$differing" | grep -c "^$client ")
                cell="$cell differ"
                failures+=("$server: $scenario.json with $client differs from etcd's")
            fi
            printf ' %14s' "$cell"
        done
        echo
    done
    [ ! -s "$differing" ] || cat "$differing"
    for client in "${scenario_clients[@]}"; do
        { grep ': SKIPPED' "$work/etcd.$client.$scenario" || :; } | sed -E "s/^([0-9]+) ([^:]+): SKIPPED (.*)/\2: \3/" |
            sort | uniq -c | sed "s/^/compat: $client left out /"
    done
}

# differing_steps CLIENT SERVER, of the scenario that is compared: each step that differs, and both outcomes
differing_steps() {
    local number expected found
    while IFS=$'\t' read -r number expected found; do
        printf '%s %s step %s\n    etcd:  %s\n    quoin: %s\n' "$1" "$2" "$number" "$expected" "$found"
    done < <(paste -d '\t' "$work/etcd.$1.$scenario" "$work/$2.$1.$scenario" |
        awk -F '\t' '$1 != $2 { n = $1 == "" ? $2 : $1; sub(/ .*/, "", n); print n "\t" ($1 == "" ? "-" : $1) "\t" ($2 == "" ? "-" : $2) }')
}
