# Sourced by scripts/compat: one long session with etcdctl, recorded as text.
#
# It expects `endpoints` and `client_ports`, and a cluster without keys or with those of an earlier
# session by another client. Each command is printed with what it answers and its exit status.
# What must differ between two runs is replaced: lease ids, terms, indexes, sizes, times.
# shellcheck shell=bash disable=SC2154

# record_session NAME ETCDCTL
record_session() {
    local client=$1 ctl=$2 endpoint=http://127.0.0.1:${client_ports[0]} lease= other=
    local session
    session=$(mktemp -d "$work/session.XXXXXX")
    session_keys
    session_transactions
    session_leases
    session_history
    session_watches
    session_limits
    session_cluster
    rm -rf "$session"
}

# e ARGUMENT...: one command against the first member; its input is this function's
e() { at "$endpoint" "$@"; }

# at ENDPOINTS ARGUMENT...: one command; long arguments are shortened in the record
at() {
    local where=$1 status=0
    shift
    printf '$ %s\n' "$*" | cut -c 1-200 | normalize
    timeout 20 "$ctl" --endpoints "$where" "$@" >"$session/output" 2>&1 || status=$?
    normalize <"$session/output"
    echo "= $status"
}

normalize() {
    sed -E \
        ${lease:+-e "s/\b$lease\b/<lease>/g" -e "s/\b$((16#$lease))\b/<lease>/g"} \
        ${other:+-e "s/\b$other\b/<other lease>/g" -e "s/\b$((16#$other))\b/<other lease>/g"} \
        -e 's/(raft_term"|raftTerm"|raftIndex"|raftAppliedIndex"|dbSize"|dbSizeInUse"|leader"):[0-9]+/\1:N/g' \
        -e 's/("(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Leader)" :) [0-9]+/\1 N/' \
        -e 's/"ts":"[^"]*"/"ts":T/; s/(took = |"took":")[0-9.]+[mµn]?s/\1T/' \
        -e 's/remaining\([0-9]+s\)/remaining(N)/; s/("ttl":)(5[0-9]|60)\b/\1N/' \
        -e 's/lease [0-9a-f]{16} granted/lease <id> granted/' \
        -e "s/client-[0-9a-f-]{36}/client-U/; s/0x[0-9a-f]+/0xP/; s/LocalAddr: '[^']*'/LocalAddr: A/" |
        sort_attached_keys
}

# The keys of a lease come in no order: etcd's are those of a hash map.
sort_attached_keys() {
    local line before keys
    while IFS= read -r line || [ -n "$line" ]; do
        if [[ $line == *"attached keys(["* ]]; then
            before=${line%%"attached keys(["*} keys=${line#*"attached keys(["}
            keys=$(tr ' ' '\n' <<<"${keys%"])"}" | sort | tr '\n' ' ')
            line="${before}attached keys([${keys% }])"
        fi
        printf '%s\n' "$line"
    done
}

session_keys() {
    local k=$client/kv
    e put "$k/a" 1
    e put "$k/b" 2 --prev-kv
    e put "$k/b" 3 --prev-kv
    e put "$k/c" 'ünïcode and spaces'
    printf 'from standard input\n' | e put "$k/d"
    e put "$k/e" ''
    e put -- "$k/-dash" -value
    e get "$k/a"
    e get "$k/a" -w json
    e get "$k/a" -w fields
    e get "$k/a" --hex
    e get "$k/nothing"
    e get "$k/" --prefix
    e get "$k/" --prefix --keys-only
    e get "$k/" --prefix --print-value-only
    e get "$k/" --prefix --limit 2 -w json
    e get "$k/" --prefix --order descend --sort-by value
    e get "$k/" --prefix --order ascend --sort-by modify
    e get "$k/" --prefix --order descend --sort-by version --limit 1
    e get "$k/" --prefix --order ascend --sort-by create
    e get "$k/b" "$k/d"
    e get "$k/d" "$k/b"
    e get "$k/d" --from-key --limit 2
    e get "$k/" --prefix --consistency s
    e get '' --prefix --keys-only
    e get '' --from-key --limit 1 -w json
    e get "$k/a" --consistency x
    at "$endpoints" get "$k/b"
    at "http://127.0.0.1:${client_ports[1]}" get "$k/b" -w json
    at "http://127.0.0.1:${client_ports[2]}" get "$k/" --prefix --keys-only
    e del "$k/a" --prev-kv
    e del "$k/a"
    e get "$k/a"
    e del "$k/c" "$k/e" --prev-kv
    e put "$k/a" again
    e get "$k/a" -w json
    at "http://127.0.0.1:${client_ports[1]}" del "$k/" --prefix -w json
    at "http://127.0.0.1:${client_ports[2]}" get "$k/" --prefix -w json
    e put '' value
    e get ''
    e del ''
    e put "$k/ignored" 1 --ignore-value
    e put "$k/f" 1
    e put "$k/f" --ignore-value
    e put "$k/f" 2 --ignore-lease
    e get "$k/f" -w fields
    e put "$k/f" value --ignore-value
}

session_transactions() {
    local k=$client/txn
    e put "$k/a" 1
    # Comparisons, what to do if all hold, what to do otherwise.
    e txn <<TXN
value("$k/a") = "1"
version("$k/a") > "0"

put $k/a 2
put $k/b 1
get $k/ --prefix

get $k/a

TXN
    e txn -w json <<TXN
value("$k/a") = "1"

put $k/a 3

get $k/a
get $k/b

TXN
    e txn <<TXN
create("$k/new") = "0"
mod("$k/b") < "1000000"
value("$k/b") != "2"

put $k/new created
del $k/b --prev-kv
get $k/b


TXN
    e txn <<TXN
version("$k/a") = "99"

get $k/a


TXN
    e txn <<TXN

put $k/a 1
put $k/a 2


TXN
    e txn <<TXN

del $k/ --prefix
put $k/a 2


TXN
    e txn <<TXN

del $k/b
get $k/b
get $k/a --rev 1


TXN
    e txn <<TXN
nonsense

TXN
    e get "$k/" --prefix -w json
}

session_leases() {
    local k=$client/lease
    lease=$("$ctl" --endpoints "$endpoint" lease grant 60 | sed -E 's/^lease ([0-9a-f]+) granted.*/\1/')
    other=$("$ctl" --endpoints "$endpoint" lease grant 60 | sed -E 's/^lease ([0-9a-f]+) granted.*/\1/')
    e put "$k/a" 1 --lease="$lease"
    e put "$k/b" 1 --lease="$lease"
    e get "$k/a" -w json
    e lease timetolive "$lease"
    e lease timetolive "$lease" --keys
    at "http://127.0.0.1:${client_ports[1]}" lease timetolive "$lease" --keys
    e lease keep-alive --once "$lease"
    at "http://127.0.0.1:${client_ports[2]}" lease keep-alive --once "$lease"
    e lease keep-alive --once 7777777
    e put "$k/b" 2 --ignore-lease
    e get "$k/b" -w fields
    e put "$k/b" 3 --lease="$other"
    e lease timetolive "$other" --keys
    e lease timetolive "$other" --keys -w json
    e put "$k/c" 1 --lease=123456
    e put "$k/c" 1 --lease=nonsense
    e get "$k/c"
    # Lists are in the order of ids, which are random: only their length is compared.
    "$ctl" --endpoints "$endpoint" lease list | grep -cE "^($lease|$other)$"
    e lease revoke "$lease"
    e lease revoke "$lease"
    at "http://127.0.0.1:${client_ports[1]}" get "$k/" --prefix
    e lease timetolive "$lease"
    at "http://127.0.0.1:${client_ports[1]}" lease revoke "$other"
    e get "$k/" --prefix -w json
    e lease grant 0
    e lease grant -- -1
    e lease grant 9000000001
    e lease grant many
    e lease timetolive nonsense
    lease= other=
}

# current_revision: the store's revision, as the client reads it
current_revision() {
    "$ctl" --endpoints "$endpoint" get nothing -w json | sed -E 's/.*"revision":([0-9]+).*/\1/'
}

session_history() {
    local k=$client/history revision value
    for value in 1 2 3 4 5; do e put "$k" "$value"; done
    revision=$(current_revision)
    e get "$k" --rev $((revision - 3))
    e get "$k" --rev "$revision" -w json
    e get "$k" --rev $((revision + 1))
    e compaction $((revision - 2))
    e compaction $((revision - 2))
    e compaction $((revision + 100))
    e get "$k" --rev $((revision - 3))
    e get "$k" --rev $((revision - 2))
    e get "$k"
    e compaction --physical $((revision - 1))
    at "http://127.0.0.1:${client_ports[2]}" get "$k" --rev $((revision - 2))
    at "http://127.0.0.1:${client_ports[2]}" get "$k" --rev $((revision - 1))
    e compaction 0
    e compaction nonsense
    e watch "$k" --rev $((revision - 3))
}

# watch_for LINES ARGUMENT...: a watch from a revision on, until it has printed so many lines
watch_for() {
    local lines=$1 pid deadline=$((SECONDS + 10))
    shift
    # Emptied here, not by the watch, which starts later than it is looked at.
    : >"$session/watch"
    printf '$ watch %s\n' "$*" | normalize
    "$ctl" --endpoints "$endpoint" watch "$@" >"$session/watch" 2>&1 &
    pid=$!
    until [ "$(wc -l <"$session/watch")" -ge "$lines" ] || [ $SECONDS -ge $deadline ]; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -TERM "$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
    normalize <"$session/watch"
}

session_watches() {
    local k=$client/watch revision late
    revision=$(($(current_revision) + 1))
    e put "$k/a" 1
    e put "$k/b" 1
    e put "$k/a" 2
    e del "$k/a"
    e put "$k/c" 1
    e txn <<TXN

put $k/d 1
del $k/b
put $k/e 1


TXN
    watch_for 12 "$k/a" --rev "$revision"
    watch_for 24 "$k/" --prefix --rev "$revision"
    watch_for 16 "$k/" --prefix --prev-kv --rev $((revision + 2))
    watch_for 4 "$k/a" "$k/c" --rev $((revision + 3)) --prev-kv
    watch_for 1 "$k/" --prefix --rev "$revision" -w json
    # From a revision that does not exist yet: nothing is lost however late the watch begins.
    revision=$(($(current_revision) + 1))
    (sleep 0.3 && "$ctl" --endpoints "${endpoints##*,}" put "$k/late" 1 >/dev/null) &
    late=$!
    watch_for 3 "$k/late" --rev "$revision"
    wait "$late"
    e del "$k/" --prefix
}

session_limits() {
    local k=$client/limits
    # 1.5 MiB is the largest request.
    head -c 1500000 /dev/zero | tr '\0' x | e put "$k/large"
    e get "$k/large" --print-value-only | tr -d x
    head -c 1600000 /dev/zero | tr '\0' x | e put "$k/too-large"
    e get "$k/too-large" -w json
    { echo; for n in {1..128}; do echo "put $k/$n 1"; done; echo; echo; } | e txn >"$session/most"
    tail -n 1 "$session/most"
    { echo; for n in {1..129}; do echo "put $k/$n 2"; done; echo; echo; } | e txn
    e get "$k/" --prefix --keys-only --limit 3 -w json
    e del "$k/" --prefix
}

session_cluster() {
    e member list
    e member list -w json
    e member list -w fields
    e member list -w table
    e endpoint health 2>&1 | sort
    e endpoint status -w json
    e endpoint status -w fields
    e lock "$client/lock" echo locked
    e get "$client/lock" --prefix --keys-only
}
