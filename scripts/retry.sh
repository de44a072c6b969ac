# Sourced by scripts that fetch things: registries and networks have bad moments.
# shellcheck shell=bash

# retry COMMAND...: up to four times, with pauses in between
retry() {
    local pause
    for pause in 2 8 20; do
        "$@" && return 0
        echo "retry: $1 ${2:-} failed; again in $pause s" >&2
        sleep "$pause"
    done
    "$@"
}
