# Sourced by scripts/compat: a set-up of etcd as operators have it, in which the program named etcd
# becomes a link to Quoin: three members with configuration files, certificates on all ports, and
# users.
#
# The files are written once, without a word of Quoin in them. The released etcd starts with them
# first; what etcdctl, the scenario of tls.json and a raw TLS client get to see must be equal then.
# It expects what scripts/compat has prepared.
# shellcheck shell=bash disable=SC2154

# prepare_linked: certificates, and a configuration file for each member
prepare_linked() {
    local i n
    linked=$work/linked tls=$work/linked/tls
    mkdir -p "$linked"
    install openssl openssl && new_authority "$tls" "example CA" &&
        new_authority "$tls/other" "example CA" || return 1
    for n in "${names[@]}"; do
        issue "$tls" "$n" /CN=member "IP:127.0.0.1,DNS:localhost" || return 1
    done
    # One client without a name of its own, for those who log in; others named after users.
    issue "$tls" client "/O=example" && issue "$tls" ann /CN=ann && issue "$tls" root /CN=root &&
        issue "$tls" stranger /CN=stranger && issue "$tls/other" client "/O=example" || return 1
    metrics_ports=("$(free_port)" "$(free_port)" "$(free_port)")
    linked_endpoints=${endpoints//http:/https:}
    for i in 0 1 2; do
        configuration "$i" >"$linked/${names[$i]}.yml"
    done
    sha256sum "$linked"/*.yml >"$linked/sums"
}

# configuration INDEX: with the keys that etcd's sample has, and some more
configuration() {
    local i=$1 name=${names[$1]} host=https://127.0.0.1
    cat <<YAML
# This is the configuration of the etcd server $name.
name: '$name'
data-dir: $work/data/$name
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: $host:${peer_ports[$i]}
listen-client-urls: $host:${client_ports[$i]}
listen-metrics-urls: http://127.0.0.1:${metrics_ports[$i]}
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: $host:${peer_ports[$i]}
advertise-client-urls: $host:${client_ports[$i]}
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster: ${cluster//http:/https:}
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: true
enable-pprof: false
proxy: 'off'
proxy-failure-wait: 5000
proxy-refresh-interval: 30000
client-transport-security:
  cert-file: $tls/$name.pem
  key-file: $tls/$name.key
  client-cert-auth: true
  trusted-ca-file: $tls/ca.pem
  auto-tls: false
peer-transport-security:
  cert-file: $tls/$name.pem
  key-file: $tls/$name.key
  client-cert-auth: true
  trusted-ca-file: $tls/ca.pem
  auto-tls: false
  allowed-cn: [member]
  allowed-hostname:
self-signed-cert-validity: 1
log-level: info
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: "1"
cipher-suites: [
  TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
grpc-keepalive-interval: 7200000000000
YAML
}

# linked_member SERVER INDEX: starts one through the link
linked_member() {
    local variables=()
    [ "$1" = etcd ] || variables=(QUOIN_ENGINE="${1#quoin-}")
    env "${variables[@]}" "$linked/etcd" --config-file "$linked/${names[$2]}.yml" \
        >>"$work/$1-linked-${names[$2]}.log" 2>&1 &
    pids[$2]=$!
}

# await_linked SERVER INDEX
await_linked() {
    await_healthy "${metrics_ports[$2]}" "${pids[$2]}" "$work/$1-linked-${names[$2]}.log"
}

# run_linked SERVER: all that is recorded, into $work/SERVER.linked
run_linked() {
    local server=$1 i
    say "$server: linked as etcd, with configuration files, TLS and users"
    case $server in
        etcd) ln -sfn "$etcd" "$linked/etcd" ;;
        *) ln -sfn "$quoin" "$linked/etcd" ;;
    esac
    rm -rf "$work/data"
    mkdir -m 700 "$work/data"
    pids=()
    started=$SECONDS
    for i in 0 1 2; do linked_member "$server" "$i"; done
    for i in 0 1 2; do await_linked "$server" "$i" || return 1; done
    run_steps "$server" tls "$linked_endpoints" "$tls/ca.pem" "$tls/client.pem" "$tls/client.key" ||
        return 1
    record_linked "$server" >"$work/$server.linked" || return 1
    stop_cluster
    sha256sum --quiet -c "$linked/sums" || return 1
    if [ "$server" != etcd ] && grep -hE '"level":"(error|[a-z]*panic|fatal)"' "$work/$server-linked-"*.log; then
        say "$server: the log has errors"
        return 1
    fi
}

# by CERTIFICATE ARGUMENT...: etcdctl with a certificate, against the first member; its input is
# this function's
by() { through "${linked_endpoints%%,*}" "$@"; }

# through ENDPOINTS CERTIFICATE ARGUMENT...
through() {
    local endpoints=$1 who=$2 status=0
    shift 2
    echo "\$ $who: $*"
    # Time for a busy machine: a login is to be slow.
    timeout 40 "$bin/etcdctl" --dial-timeout 15s --command-timeout 20s --endpoints "$endpoints" \
        --cacert "$tls/ca.pem" --cert "$tls/$who.pem" --key "$tls/$who.key" "$@" \
        >"$linked/output" 2>&1 || status=$?
    sed -E 's/took [0-9.]+[mµ]?s/took T/' "$linked/output" | normalize
    echo "= $status"
}

# same_hashes CERTIFICATE FLAG...: how many hashes the members have of their data; each is of one run
# only, since ids of leases are a part of it
same_hashes() {
    local who=$1
    shift
    local deadline=$((SECONDS + 20))
    # A follower may not have applied the last change yet.
    until [ "$(hashes "$who" "$@")" = 1 ] || [ $SECONDS -ge $deadline ]; do :; done
    echo "hashes: $(hashes "$who" "$@")"
}

hashes() {
    local who=$1
    shift
    "$bin/etcdctl" --endpoints "$linked_endpoints" --cacert "$tls/ca.pem" --cert "$tls/$who.pem" \
        --key "$tls/$who.key" "$@" endpoint hashkv 2>&1 | cut -d, -f2- | sort -u | wc -l
}

# refused WHAT FLAG...: what a stranger cannot do. How a client says it depends on when it hears of
# it, so only the failure counts.
refused() {
    local what=$1
    shift
    if timeout 20 "$bin/etcdctl" --dial-timeout 2s --command-timeout 3s "$@" get app/1 >"$linked/output" 2>&1
    then
        echo "$what: served"
        cat "$linked/output"
    else
        echo "$what: refused"
    fi
}

# raw CERTIFICATE FLAG...: version and suite that are agreed upon with a client that can choose them,
# and what it is answered to the request that comes in
raw() {
    local who=$1 output=$linked/output
    shift
    echo "\$ openssl as $who: $*"
    timeout 10 openssl s_client -brief -ign_eof -connect "127.0.0.1:${client_ports[0]}" \
        -CAfile "$tls/ca.pem" -verify_return_error -cert "$tls/$who.pem" -key "$tls/$who.key" "$@" \
        >"$output" 2>"$linked/agreed" || :
    # Of TLS 1.3 nobody chooses the suite.
    sed -n '/^Protocol version/p; /^Ciphersuite: TLS_/!{/^Ciphersuite/p}' "$linked/agreed"
    # Without what each server says in headers of its own, and etcd's spaces, which come and go.
    tr -d '\r' <"$output" | sed -nE '1p; /^[[{]/{s/([:,]) /\1/g;p}' | normalize
    echo
}

record_linked() {
    local lease='' other=''
    linked_data
    linked_users
    linked_strangers
    linked_wire
    linked_restart "$1"
}

linked_data() {
    through "$linked_endpoints" client member list
    by client member list -w json
    through "$linked_endpoints" client endpoint health | sort
    through "$linked_endpoints" client endpoint status -w json
    by client put app/1 one
    by client put app/2 two
    by client put other/1 secret
    by client get app/ --prefix
    by client get app/1 -w json
    by client txn <<TXN
value("app/1") = "one"

put app/1 won
get app/2

put app/1 lost

TXN
    through "${linked_endpoints##*,}" client get app/1
    same_hashes client
}

linked_users() {
    local root=(--user root:rootpw) ann=(--user ann:annpw)
    by client user add root:rootpw
    by client user add ann:annpw
    by client role add app
    by client role grant-permission app --prefix=true readwrite app/
    by client user grant-role root root
    by client user grant-role ann app
    by client auth enable
    by client "${root[@]}" auth status
    by client "${root[@]}" user list
    by client "${root[@]}" user get ann --detail
    by client "${root[@]}" role list
    by client "${root[@]}" role get app
    by client "${ann[@]}" put app/3 three
    by client "${ann[@]}" get app/ --prefix
    by client "${ann[@]}" put other/1 mine
    by client "${ann[@]}" get other/1
    by client "${ann[@]}" get '' --prefix
    by client "${ann[@]}" del app/3 --prev-kv
    by client "${ann[@]}" user list
    by client "${ann[@]}" defrag
    by client --user ann:wrong get app/1
    by client get app/1
    # Whom a certificate names needs no password.
    by ann put app/4 four
    by ann get app/4
    by ann put other/1 mine
    by ann role add another
    by root get other/1
    by root user list
    by stranger get app/1
    # A login goes before.
    by stranger "${ann[@]}" get app/4
    by ann "${root[@]}" get other/1
    through "$linked_endpoints" client "${root[@]}" endpoint health | sort
    through "$linked_endpoints" client "${ann[@]}" endpoint health | sort
    through "$linked_endpoints" client "${root[@]}" endpoint status -w json
    same_hashes client "${root[@]}"
    by client "${root[@]}" alarm list
    by client "${root[@]}" compact 5
    by client "${root[@]}" snapshot save "$linked/backup.db" | grep -v '"level":"info"'
    rm -f "$linked/backup.db"
}

linked_strangers() {
    local at=(--endpoints "${linked_endpoints%%,*}") own=(--cert "$tls/client.pem" --key "$tls/client.key")
    local root=(--user root:rootpw)
    refused "with a certificate" "${at[@]}" "${root[@]}" --cacert "$tls/ca.pem" "${own[@]}"
    refused "without a certificate" "${at[@]}" "${root[@]}" --cacert "$tls/ca.pem"
    refused "without trust" "${at[@]}" "${root[@]}" "${own[@]}"
    refused "with trust in another authority" "${at[@]}" "${root[@]}" --cacert "$tls/other/ca.pem" "${own[@]}"
    refused "with a certificate of another authority" "${at[@]}" "${root[@]}" --cacert "$tls/ca.pem" \
        --cert "$tls/other/client.pem" --key "$tls/other/client.key"
    refused "without TLS" --endpoints "${endpoints%%,*}" "${root[@]}"
}

linked_wire() {
    local range
    # Without Accept, etcd takes its own certificate's common name for the caller's; not so Quoin.
    range='POST /v3/kv/range HTTP/1.0\r\nAccept: */*\r\nContent-Length: 18\r\n\r\n{"key":"YXBwLzE="}'
    printf 'GET /version HTTP/1.0\r\n\r\n' | raw client -tls1_3
    printf 'GET /version HTTP/1.0\r\n\r\n' | raw client -tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256
    printf 'GET /version HTTP/1.0\r\n\r\n' | raw client -tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305
    printf 'GET /version HTTP/1.0\r\n\r\n' | raw client -tls1_1 -cipher DEFAULT@SECLEVEL=0
    printf 'GET /health HTTP/1.0\r\n\r\n' | raw client
    # As JSON no certificate names anybody.
    printf "$range" | raw client
    printf "$range" | raw ann
}

# A member is stopped by a signal, misses writes and comes back through the same file.
linked_restart() {
    local status=0 third=${linked_endpoints##*,}
    kill -TERM "${pids[2]}"
    wait "${pids[2]}" || status=$?
    echo "stopped: $status"
    through "${linked_endpoints%,*}" ann put app/5 five
    linked_member "$1" 2
    await_linked "$1" 2 || return 1
    through "$third" ann get app/5
    through "$third" ann put other/2 mine
    through "$third" root get '' --prefix --keys-only
    same_hashes root
}

# compare_linked: what was recorded is equal for all servers
compare_linked() {
    local server
    for server in $servers; do
        [ "$server" != etcd ] && [ -e "$work/$server.linked" ] || continue
        if diff -U 2 --label etcd --label "$server" "$work/etcd.linked" "$work/$server.linked"; then
            say "$server: $(grep -c '^\$' "$work/$server.linked") commands against a link named etcd answer as etcd"
        else
            failures+=("$server: linked as etcd, it differs from etcd")
        fi
    done
}
