#!/usr/bin/env bash
# Tries schedules of the real code with loom (group commit) and shuttle (the whole log). `quick`,
# the default, is for the gate and takes half a minute besides compiling. `full` takes about half an
# hour. A number after it sets how many schedules shuttle tries of each history. `loom` and `shuttle`
# are the quick form of one tool alone.
#
# Both tools then run with planted bugs, from crates/crash/planted, and must catch them. Otherwise
# their silence would mean nothing. `quick` takes one bug for each tool: each is compiled by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-quick}
case "$mode" in
quick | loom | shuttle) export LOOM_MAX_PREEMPTIONS=2 SEAWALL_SCHEDULES="${2:-500}" ;;
full) export SEAWALL_SCHEDULES="${2:-70000}" ;;
*) echo "usage: $0 [quick|full|loom|shuttle] [schedules of each history]" >&2; exit 2 ;;
esac
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"

# Runs the tests of one tool. Builds without debug information, and optimises both tools, but not the
# crates that print loom's traces.
tests() {
    CARGO_PROFILE_TEST_DEBUG=false RUSTFLAGS="--cfg $1" \
        cargo test --locked --target-dir "${CARGO_TARGET_DIR:-target}/$1" -p seawall --lib \
        --config 'profile.test.package."*".opt-level=2' \
        --config 'profile.test.package.regex-automata.opt-level=0' \
        --config 'profile.test.package.regex-syntax.opt-level=0' \
        schedules -- --nocapture --test-threads 1
}

# Plants bugs, by their numbers, which the tests of one tool must catch.
catches() {
    cargo run --release --locked -p seawall-crash -- planted --by "$1" --only "$2"
}

case "$mode" in
loom | shuttle)
    tests "$mode"
    exit
    ;;
esac
tests loom
tests shuttle
if [[ $mode == quick ]]; then
    catches loom 12
    catches shuttle 14
else
    catches loom 12,13,15,31,32
    catches shuttle 12,13,14,31,32
fi
