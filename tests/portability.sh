#!/usr/bin/env bash
# Compiles the library with the oldest Rust that it supports, type-checks it for other systems and
# processors, and runs its tests there.
#
#   tests/portability.sh                     the oldest Rust and each type check, in two minutes
#   tests/portability.sh macos s390x         these type checks
#   tests/portability.sh run                 the tests here and on each other system, for hours
#   tests/portability.sh run exchange kv     those whose names contain "exchange" or "kv"
#   tests/portability.sh run-s390x exchange  those on s390x alone
#
# aarch64 and s390x (big-endian) run under an emulator, i686 natively, Windows under Wine. Debian has
# what they need: qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-s390x-linux-gnu
# libc6-dev-s390x-cross wine64 gcc-mingw-w64-x86-64 gcc-12-multilib (any number; gcc-multilib itself
# excludes the others).
#
# A row is skipped if a tool is not there or rustup cannot fetch what it needs. At the end, one line
# for each row says whether it passed, failed or was skipped. A row that fails does not keep the
# others from running. The exit status is 0 if none failed, and 2 if a row does not exist.
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
declare -A targets=(
    [macos]=x86_64-apple-darwin
    [freebsd]=x86_64-unknown-freebsd
    [windows]=x86_64-pc-windows-gnu
    [aarch64]=aarch64-unknown-linux-gnu
    [s390x]=s390x-unknown-linux-gnu
    [i686]=i686-unknown-linux-gnu
    [here]=$(rustc --version --verbose | sed -n 's/^host: //p')
)
systems=(here i686 windows aarch64 s390x)
rows="rust ${!targets[*]} ${systems[*]/#/run-}"

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
summary=""
failed=0

# The exit status of a row that cannot be tried on this machine.
skipped=77

skip() {
    echo "$1" >"$work/note"
    return "$skipped"
}

oldest_rust() {
    if rustup run "$oldest" cargo --version >/dev/null 2>&1 ||
        rustup toolchain install "$oldest" --profile minimal --no-self-update >/dev/null 2>&1; then
        cargo "+$oldest" check --lib --all-features --locked
    else
        skip "rustup cannot fetch Rust $oldest"
    fi
}

# Without zstd: its library is in C, and needs a C compiler for the other system.
type_check() {
    local target=${targets[$1]}
    if rustup target add "$target" >/dev/null 2>&1; then
        cargo check --lib --features sim,lz4 --locked --target "$target"
    else
        skip "rustup cannot fetch the target $target"
    fi
}

# Under an emulator, a process cannot start its own binary. There and under Wine, there is no cargo for
# the documentation, and no binary of an example.
needs_cargo=(documents:: kv::)
own_binary=(
    kill:: disk_full::
    a_file_with_a_reader_in_another_process_is_not_cut
    a_log_is_read_without_the_right_to_write_and_on_a_read_only_mount
    a_process_that_changes_its_root_goes_on_with_its_log
    a_second_opener_is_refused_at_once_and_the_lock_dies_with_its_process
    each_of_two_copies_made_of_hard_links_is_a_log_of_its_own
    in_the_default_mode_the_log_starts_no_thread
    on_the_real_disk_too_a_forked_child_only_forgets_the_log
    without_a_free_file_handle_calls_are_refused_and_nothing_is_poisoned
)

# The newest C compiler for 32 bits beside the one for 64.
compiler_for_32_bits() {
    local compiler
    for compiler in gcc $(compgen -c gcc- | grep -x 'gcc-[0-9]*' | sort -rV); do
        if echo 'int main(void) { return 0; }' | "$compiler" -m32 -x c -o /dev/null - 2>/dev/null; then
            echo "$compiler"
            return
        fi
    done
}

# Prints the command that runs a program of Windows, if there is one.
find_wine() {
    local program
    for program in wine64 /usr/lib/wine/wine64 wine; do
        if command -v "$program"; then
            return
        fi
    done
}

# Makes the place in which Wine keeps what belongs to one user, and the library that older ones lack.
prepare_wine() {
    local build=$1 runner=$2
    mkdir -p "$build/debug/deps" "$build/wine"
    WINEPREFIX=$(realpath "$build/wine")
    export WINEPREFIX WINEDEBUG=-all
    x86_64-w64-mingw32-gcc -shared -o "$build/debug/deps/bcryptprimitives.dll" \
        tests/bcryptprimitives.c -ladvapi32 &&
        "$runner" wineboot --init >/dev/null 2>&1
}

# Runs the unit and the integration tests on a system. The other arguments are filters.
run_tests() {
    local system=$1 target=${targets[$1]} compiler runner="" name without=() left_out=()
    case $system in
    here)
        compiler=cc
        ;;
    i686)
        compiler=$(compiler_for_32_bits)
        ;;
    windows)
        compiler=x86_64-w64-mingw32-gcc
        runner=$(find_wine)
        runner=${runner:-wine64}
        without=("${needs_cargo[@]}")
        ;;
    *)
        compiler=$system-linux-gnu-gcc
        runner="qemu-$system -L /usr/$system-linux-gnu"
        without=("${needs_cargo[@]}" "${own_binary[@]}")
        ;;
    esac
    if ! command -v "${compiler:-none}" >/dev/null; then
        skip "there is no C compiler for $system"
    elif [[ -n $runner ]] && ! command -v "${runner%% *}" >/dev/null; then
        skip "there is no ${runner%% *}"
    elif ! rustup target add "$target" >/dev/null 2>&1; then
        skip "rustup cannot fetch the target $target"
    elif [[ $system == windows ]] && ! prepare_wine "${CARGO_TARGET_DIR:-target}/$target" "$runner"; then
        skip "Wine does not start"
    else
        name=${target//-/_}
        export "CC_$name=$compiler" "CARGO_TARGET_${name^^}_LINKER=$compiler"
        if [[ -n $runner ]]; then
            export "CARGO_TARGET_${name^^}_RUNNER=$runner"
            # Each call takes longer, so the watchdogs of the tests wait for longer.
            export SEAWALL_WATCHDOG_FACTOR=${SEAWALL_WATCHDOG_FACTOR:-20}
        fi
        echo "left out, because what they need is not there: ${without[*]:-nothing}"
        for name in "${without[@]}"; do
            left_out+=(--skip "$name")
        done
        count_tests --target "$target" -- "${@:2}"
    fi
}

# Runs tests and counts them. The arguments are those of `cargo test`.
count_tests() {
    local command=(cargo test --no-fail-fast --lib --test it --locked "$@") all passed bad status=0
    if ! all=$("${command[@]}" --list | grep -c ': test$'); then
        echo "nothing was built, or no test has such a name" >"$work/note"
        return 1
    fi
    "${command[@]}" "${left_out[@]}" | tee "$work/tests" || status=$?
    passed=$(grep -c '^test .* \.\.\. ok$' "$work/tests")
    bad=$(grep -c '^test .* \.\.\. FAILED$' "$work/tests")
    # Not run: ignored or left out; after an abort, also those that would have been next.
    echo "$passed passed, $bad failed, $((all - passed - bad)) not run" >"$work/note"
    return "$status"
}

# Tries one row, and adds its line to the summary. A row of tests takes filters. What it exports ends
# with it.
try() {
    local line="$*" start=$SECONDS status=0
    echo "=== $line"
    rm -f "$work/note"
    (
        case $1 in
        rust) oldest_rust ;;
        run-*) run_tests "${1#run-}" "${@:2}" ;;
        *) type_check "$1" ;;
        esac
    ) || status=$?
    case $status in
    0) line+=": passed" ;;
    "$skipped") line+=": SKIPPED" ;;
    *)
        line+=": FAILED"
        failed=1
        ;;
    esac
    if [[ -e $work/note ]]; then
        line+=": $(<"$work/note")"
    fi
    line+=" ($((SECONDS - start)) s)"
    echo "--- $line"
    summary+="$line"$'\n'
}

must_exist() {
    if [[ " $rows " != *" $1 "* ]]; then
        echo "there is no row $1; there are: $rows run" >&2
        exit 2
    fi
}

case ${1:-} in
run)
    # One directory in which each system first writes its logs. So each then finds those of all
    # others.
    export SEAWALL_EXCHANGE=$work/exchange
    for system in "${systems[@]}"; do
        try "run-$system" exchange
    done
    for system in "${systems[@]}"; do
        try "run-$system" "${@:2}"
    done
    ;;
run-*)
    must_exist "$1"
    try "$@"
    ;;
*)
    if [[ $# == 0 ]]; then
        set -- rust macos freebsd windows aarch64 s390x i686
    fi
    for row in "$@"; do
        must_exist "$row"
    done
    for row in "$@"; do
        try "$row"
    done
    ;;
esac
printf '\n=== summary\n%s' "$summary"
exit "$failed"
