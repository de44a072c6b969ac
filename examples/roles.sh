#!/bin/sh
# Makes roles for those who use the test scheduler, in a store with users. Flags go to quoin:
#
#   examples/roles.sh --endpoints 127.0.0.1:2379 --user root:secret
#   quoin user grant-role eve runner
#
# viewer     sees everything
# runner     also submits, pauses and cancels runs
# tester     as a runner, and gives verdicts on manual cases
# author     as a runner, and changes cases and environments
# worker     what the user of `quoin worker` must have
# scheduler  what the user of `quoin scheduler` must have; calls that show no user act as this one
# admin      everything below these prefixes, also queues and tags
set -eu
quoin=${QUOIN:-quoin}
flags="$*"

# may ROLE TYPE PREFIX...
may() {
    role=$1 type=$2
    shift 2
    for prefix in "$@"; do
        # Flags are words.
        # shellcheck disable=SC2086
        "$quoin" role grant-permission "$role" "$type" "$prefix" --prefix $flags >/dev/null
    done
}

for role in viewer runner tester author worker scheduler admin; do
    # shellcheck disable=SC2086
    "$quoin" role add "$role" $flags
done

teams="/testcases/ /environments/"
records="/results/ /reports/ /services/"
own=/tcss/v1/

for role in viewer runner tester author; do
    # shellcheck disable=SC2086
    may $role read $teams $records $own
done
for role in runner tester author; do
    may $role readwrite ${own}run/ ${own}open/ ${own}req/
done
may tester readwrite ${own}claim/@people/ ${own}rseg/ ${own}tag/
# shellcheck disable=SC2086
may author readwrite $teams ${own}recheck/

may worker read ${own}run/ ${own}rseg/
may worker readwrite ${own}worker/ ${own}beat/ ${own}claim/ ${own}tag/ ${own}rseg/ ${own}cmd/ ${own}late/ ${own}instance/ /services/

for role in scheduler admin; do
    # shellcheck disable=SC2086
    may $role readwrite $teams $records $own
done
