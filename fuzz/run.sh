#!/usr/bin/env bash
# Builds all fuzz targets, and runs each for some seconds, two at once. Prints how many times each
# was executed.
#
#   fuzz/run.sh SECONDS [TARGET…]
#
# New inputs of interest go to fuzz/corpus, and failing ones to fuzz/artifacts. Neither is
# committed; fuzz/seeds is. FUZZ_JOBS sets how many targets run at once, and CARGO_TARGET_DIR sets
# where they are built.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET…]}
shift
targets=("$@")
[[ $# -gt 0 ]] || targets=(scan frame decode_frame open_dir edit operations)
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
# A stable compiler accepts the flags of cargo-fuzz only with RUSTC_BOOTSTRAP. The address sanitizer
# is off, because there is no unsafe code.
RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir "$PWD" --sanitizer none --target-dir "$target_dir"
host=$(rustc -vV | sed -n 's/^host: //p')

# Runs one target. Its output goes to its log.
run() {
    local target=$1 binary="$target_dir/$host/release/$1"
    mkdir -p "corpus/$target" "artifacts/$target"
    "$binary" "corpus/$target" "seeds/$target" -dict="dictionaries/$target.dict" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >"$logs/$target" 2>&1 ||
        echo "$?" >"$logs/$target.failed"
}

for target in "${targets[@]}"; do
    while (($(jobs -rp | wc -l) >= ${FUZZ_JOBS:-2})); do
        wait -n
    done
    run "$target" &
done
wait

status=0
printf '\n%-12s %12s %10s %8s %8s  %s\n' target executions 'a second' edges corpus result
for target in "${targets[@]}"; do
    log="$logs/$target"
    figure() { sed -n "s/^stat::$1: *//p" "$log"; }
    last=$(grep -a ' cov: ' "$log" | tail -n 1 || true)
    edges=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' <<<"$last")
    corpus=$(sed -n 's/.* corp: \([0-9]*\).*/\1/p' <<<"$last")
    result=ok
    if [[ -e $log.failed ]]; then
        result="FAILED, see artifacts/$target"
        status=1
        grep -av '^#[0-9]' "$log" | tail -n 60 >&2
    fi
    printf '%-12s %12s %10s %8s %8s  %s\n' "$target" "$(figure number_of_executed_units)" \
        "$(figure average_exec_per_sec)" "$edges" "$corpus" "$result"
done
exit "$status"
