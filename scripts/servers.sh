# Sourced by scripts that start servers: ports and readiness, with nothing but bash.
# shellcheck shell=bash

is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a port between 20000 and 29999 that nobody listens on.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        is_listening "$port" || { echo "$port"; return; }
    done
}

# Whether the member at this client port says that it is healthy: it has a leader and answers.
is_healthy() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf 'GET /health HTTP/1.0\r\n\r\n' >&3
        answer=$(timeout 2 cat <&3)
        [[ $answer =~ \"health\":\ *\"true\" ]]
    ) 2>/dev/null
}

# await_healthy PORT PID LOG: gives up when the process ends or after 30 s, showing its last words.
await_healthy() {
    local port=$1 pid=$2 log=$3 deadline=$((SECONDS + 30))
    until is_healthy "$port"; do
        if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
            echo "the server on port $port did not become healthy; the end of $log:" >&2
            tail -n 5 "$log" >&2
            return 1
        fi
        sleep 0.05
    done
}

# Ends processes that this script started, and waits for their end.
stop_processes() {
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || :; done
    for pid in "$@"; do wait "$pid" 2>/dev/null || :; done
}
