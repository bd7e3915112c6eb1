#!/bin/sh
# Three nodes of seawalld on loopback, each a process of its own, to try a group out.
#
#   three-nodes.sh start DIR          starts the nodes that do not run, and waits until all are ready
#   three-nodes.sh status DIR         says what each node does; ends with 1 if one is not ready
#   three-nodes.sh restart DIR [ID]   ends and starts one node after the other: the group goes on
#   three-nodes.sh stop DIR [ID]      ends the nodes in order
#
# DIR/node-1 to DIR/node-3 have the data, DIR/node-1.log what the node writes, and DIR/node-1.pid its
# process. The nodes listen on PORT and the two ports after it; their status pages are 100 above.
#
# Variables: PORT (default 7000), SEAWALLD (the program; default `seawalld`), and SEAWALLD_* for
# settings of all nodes, as in SEAWALLD_RETENTION_AGE=1d. It needs `curl` and `ps`.

set -eu

PORT=${PORT:-7000}
SEAWALLD=${SEAWALLD:-seawalld}
NODES='1 2 3'
START_WAIT=60
STOP_WAIT=45

fail() {
    echo "three-nodes.sh: $1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

addr() { echo "127.0.0.1:$((PORT + $1 - 1))"; }
page() { echo "127.0.0.1:$((PORT + 99 + $1))"; }

# Whether the process of a node runs. Another process may have its number by now.
runs() {
    [ -s "$dir/node-$1.pid" ] || return 1
    ps -o args= -p "$(cat "$dir/node-$1.pid")" 2>/dev/null | grep -qF -- "--dir $dir/node-$1 "
}

ready() { curl -fs -m 2 -o /dev/null "http://$(page "$1")/readyz"; }

start_node() {
    seeds="$(addr 1),$(addr 2),$(addr 3)"
    nohup "$SEAWALLD" run --dir "$dir/node-$1" \
        --listen "$(addr "$1")" --metrics-listen "$(page "$1")" \
        --set "node_id=$1" --set bootstrap_expect=3 --set "seeds=$seeds" \
        >>"$dir/node-$1.log" 2>&1 &
    echo $! >"$dir/node-$1.pid"
}

# Waits until all nodes are ready.
wait_ready() {
    seconds=0
    for id in $NODES; do
        until ready "$id"; do
            if ! runs "$id"; then
                tail -n 1 "$dir/node-$id.log" >&2
                fail "node $id has ended: see $dir/node-$id.log. The others run: end them with stop"
            fi
            [ "$seconds" -lt "$START_WAIT" ] || fail "node $id is not ready: see $dir/node-$id.log"
            sleep 1
            seconds=$((seconds + 1))
        done
    done
}

start() {
    for id in $NODES; do
        runs "$id" || start_node "$id"
    done
    wait_ready
    status
}

restart() {
    for id in $chosen; do
        end "$id"
        await_end "$id"
        start_node "$id"
        wait_ready
    done
    status
}

status() {
    code=0
    for id in $NODES; do
        if ! runs "$id"; then
            echo "node $id  does not run"
            code=1
            continue
        fi
        if ready "$id"; then is=ready; else is='not ready' code=1; fi
        leader=$(curl -fs -m 2 "http://$(page "$id")/status.json" |
            sed -n 's/.*"leader_id":\([0-9]*\).*/, node \1 leads/p') || leader=
        echo "node $id  process $(cat "$dir/node-$id.pid"), $is$leader:" \
            "http://$(addr "$id"), status page http://$(page "$id")/"
    done
    return "$code"
}

end() {
    if runs "$1"; then kill -s TERM "$(cat "$dir/node-$1.pid")"; fi
}

await_end() {
    seconds=0
    while runs "$1"; do
        [ "$seconds" -lt "$STOP_WAIT" ] || fail "node $1 does not end: see $dir/node-$1.log"
        sleep 1
        seconds=$((seconds + 1))
    done
    rm -f "$dir/node-$1.pid"
}

stop() {
    for id in $chosen; do end "$id"; done
    for id in $chosen; do await_end "$id"; done
    echo "ended: $chosen; the data is in $dir"
}

[ $# -eq 2 ] || [ $# -eq 3 ] || usage
[ "$1" != start ] || mkdir -p "$2"
# Absolute: a process is known by its directory.
dir=$(CDPATH='' cd -- "$2" && pwd) || exit 2
chosen=${3:-$NODES}
case $1:$chosen in
    restart:[123] | stop:[123] | *:"$NODES") ;;
    *) usage ;;
esac
case $1 in
    start | status | restart | stop) "$1" ;;
    *) usage ;;
esac
