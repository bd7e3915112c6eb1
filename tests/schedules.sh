#!/usr/bin/env bash
# Tries schedules of the real code with loom (group commit) and shuttle (the whole log). `quick`,
# the default, is for the gate and takes half a minute besides compiling. `full` takes about half an
# hour. A number after it sets how many schedules shuttle tries of each history.
#
# Both then run again with planted bugs, and must catch them. Otherwise their silence would mean
# nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-quick}" in
quick) export LOOM_MAX_PREEMPTIONS=2 SEAWALL_SCHEDULES="${2:-500}" ;;
full) export SEAWALL_SCHEDULES="${2:-70000}" ;;
*) echo "usage: $0 [quick|full] [schedules of each history]" >&2; exit 2 ;;
esac
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"

# Runs the tests of one tool. Builds without debug information, and builds the crates that print
# loom's traces without optimisation: both halve the time to compile.
tests() {
    local tool=$1
    shift
    CARGO_PROFILE_TEST_DEBUG=false RUSTFLAGS="--cfg $tool --cfg seawall_planted" \
        cargo test --locked --target-dir "${CARGO_TARGET_DIR:-target}/$tool" -p seawall --lib \
        --config 'profile.test.package.regex-automata.opt-level=0' \
        --config 'profile.test.package.regex-syntax.opt-level=0' \
        schedules "$@" -- --nocapture --test-threads 1
}

# Runs them with a bug from `src/planted.rs`, by its number, which they must catch.
catches() {
    local tool=$1 bug=$2 log
    log=$(mktemp)
    if SEAWALL_BUG=$bug tests "$tool" >"$log" 2>&1 || ! grep -q '^test result: FAILED' "$log"; then
        cat "$log"
        echo "$tool does not catch bug $bug" >&2
        return 1
    fi
    rm "$log"
    echo "$tool catches bug $bug"
}

tests loom
tests shuttle
export LOOM_MAX_PREEMPTIONS=2 SEAWALL_SCHEDULES=500
for bug in 12 13 15 31 32; do catches loom "$bug"; done
for bug in 12 13 14 31 32; do catches shuttle "$bug"; done
