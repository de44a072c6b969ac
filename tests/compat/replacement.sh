# Sourced by scripts/compat: three members of a released etcd are replaced by Quoin and back, in
# the steps of docs/operations.md, with etcd's own tools on the way.
#
# It expects what scripts/compat has prepared. All keys, leases, users and roles, revisions and
# HashKV must be the same behind each step.
# shellcheck shell=bash disable=SC2154

# replace_etcd SERVER
replace_etcd() {
    local server=$1 ctl=$bin/etcdctl file=$work/replacement.db before after n
    say "$server takes the place of three members of etcd 3.7.1, and gives it back"
    start_cluster etcd || return 1
    for n in {1..40}; do
        "$ctl" --endpoints "$endpoints" put "replacement/$n" "value $n" >/dev/null || return 1
    done
    "$ctl" --endpoints "$endpoints" lease grant 5000 |
        sed -E 's/^lease ([0-9a-f]+) .*/\1/' >"$work/lease"
    "$ctl" --endpoints "$endpoints" put replacement/leased 1 --lease="$(cat "$work/lease")" >/dev/null
    "$ctl" --endpoints "$endpoints" del replacement/7 >/dev/null
    "$ctl" --endpoints "$endpoints" role add reader >/dev/null
    "$ctl" --endpoints "$endpoints" user add ann:secret >/dev/null
    "$ctl" --endpoints "$endpoints" user grant-role ann reader >/dev/null
    before=$(described) || return 1

    "$quoin" snapshot save "$file" --endpoints "${endpoints%%,*}" >/dev/null || return 1
    stop_cluster
    restore_each "$quoin" snapshot restore "$file" --engine "${server#quoin-}" || return 1
    keep_data=1 start_cluster "$server" || return 1
    after=$(described) || return 1
    same_description "$before" "$after" || return 1
    for n in {1..20}; do
        "$ctl" --endpoints "$endpoints" put "replacement/later/$n" "$n" >/dev/null || return 1
    done
    before=$(described) || return 1

    "$ctl" --endpoints "${endpoints%%,*}" snapshot save "$file" >/dev/null 2>&1 || return 1
    stop_cluster
    restore_each "$bin/etcdutl" snapshot restore "$file" || return 1
    keep_data=1 start_cluster etcd || return 1
    after=$(described) || return 1
    same_description "$before" "$after" || return 1
    say "$server: data, leases, users, members and HashKV are the same behind each step"
}

# restore_each COMMAND...: a folder for each member from the file that the command names
restore_each() {
    local i
    rm -rf "$work/data"
    mkdir -m 700 "$work/data"
    for i in 0 1 2; do
        "$@" --data-dir "$work/data/${names[$i]}" --name "${names[$i]}" --initial-cluster "$cluster" \
            --initial-advertise-peer-urls "http://127.0.0.1:${peer_ports[$i]}" \
            >"$work/restore.log" 2>&1 || { tail -n 3 "$work/restore.log"; return 1; }
    done
}

# What must stay: all keys with revisions, the lease's keys, rights, members, the hash at each member.
described() {
    local ctl=$bin/etcdctl revision answer deadline=$((SECONDS + 20))
    answer=$("$ctl" --endpoints "$endpoints" get '' --prefix -w json) || return 1
    revision=$(sed -E 's/.*"revision":([0-9]+).*/\1/' <<<"${answer%%\}*}")
    sed -E 's/"(cluster_id|member_id|raft_term)":[0-9]+,?//g' <<<"$answer"
    "$ctl" --endpoints "$endpoints" lease timetolive "$(cat "$work/lease")" --keys | sed -E 's/remaining\([0-9]+s\)//'
    "$ctl" --endpoints "$endpoints" user get ann
    "$ctl" --endpoints "$endpoints" role list
    # A member that has just joined may not have applied everything yet.
    until "$ctl" --endpoints "$endpoints" endpoint hashkv --rev "$revision" >"$work/hashes" 2>&1; do
        [ $SECONDS -lt $deadline ] || { cat "$work/hashes" >&2; return 1; }
        sleep 0.1
    done
    cut -d, -f2,3 "$work/hashes"
}

same_description() {
    [ "$1" = "$2" ] || diff -U 1 <(echo "$1") <(echo "$2")
}
