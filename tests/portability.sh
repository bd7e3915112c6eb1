#!/usr/bin/env bash
# Compiles the library with the oldest Rust that it supports, type-checks it for other systems and
# processors, and runs its tests there.
#
#   tests/portability.sh                     the oldest Rust and each type check, in two minutes
#   tests/portability.sh macos s390x         these type checks
#   tests/portability.sh run                 the tests on each other system, for hours
#   tests/portability.sh run-s390x exchange  those on s390x whose names contain "exchange"
#
# aarch64 and s390x (big-endian) run under an emulator, i686 natively, Windows under Wine. Debian has
# what they need: qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-s390x-linux-gnu
# libc6-dev-s390x-cross wine64 gcc-mingw-w64-x86-64 gcc-12-multilib (any number; gcc-multilib itself
# excludes the others).
#
# A row is skipped, with a message, if a tool is not there or rustup cannot fetch what it needs.
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
)

skip() {
    echo "skipped: $1: $2" >&2
}

oldest_rust() {
    if rustup toolchain install "$oldest" --profile minimal --no-self-update >/dev/null 2>&1; then
        cargo "+$oldest" check --lib --all-features --locked
    else
        skip rust "rustup cannot fetch Rust $oldest"
    fi
}

# Without zstd: its library is in C, and needs a C compiler for the other system.
type_check() {
    if rustup target add "$2" >/dev/null 2>&1; then
        cargo check --lib --features sim,lz4 --locked --target "$2"
    else
        skip "$1" "rustup cannot fetch the target $2"
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

# Runs the unit and the integration tests on another system. The arguments are filters.
run_tests() {
    local row=$1 system=${1#run-} compiler runner="" without=()
    local target=${targets[$system]}
    shift
    case $system in
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
    if [[ -n $runner ]]; then
        # Each call takes longer, so the watchdogs of the tests wait for longer.
        export SEAWALL_WATCHDOG_FACTOR=20
    fi
    if ! command -v "${compiler:-none}" >/dev/null; then
        skip "$row" "there is no C compiler for $system"
    elif [[ -n $runner ]] && ! command -v "${runner%% *}" >/dev/null; then
        skip "$row" "there is no ${runner%% *}"
    elif ! rustup target add "$target" >/dev/null 2>&1; then
        skip "$row" "rustup cannot fetch the target $target"
    elif [[ $system == windows ]] && ! prepare_wine "${CARGO_TARGET_DIR:-target}/$target" "$runner"; then
        skip "$row" "Wine does not start"
    else
        local name=${target//-/_} skipped=() test
        export "CC_$name=$compiler" "CARGO_TARGET_${name^^}_LINKER=$compiler"
        if [[ -n $runner ]]; then
            export "CARGO_TARGET_${name^^}_RUNNER=$runner"
            for test in "${without[@]}"; do
                skipped+=(--skip "$test")
            done
            echo "skipped: $row: tests that need what is not there: ${without[*]}" >&2
        fi
        cargo test --lib --test it --locked --target "$target" -- "$@" "${skipped[@]}"
    fi
}

# One directory in which each system writes its logs, and reads those of all others. This one begins
# and ends. A row that fails does not keep the others from running.
run_all() {
    local row failed=()
    SEAWALL_EXCHANGE=$(mktemp -d)
    export SEAWALL_EXCHANGE
    cargo test --test it --locked -- exchange
    for row in run-i686 run-windows run-aarch64 run-s390x; do
        echo "=== $row"
        tests/portability.sh "$row" || failed+=("$row")
    done
    echo "=== exchange"
    cargo test --test it --locked -- exchange --nocapture || failed+=(exchange)
    rm -r "$SEAWALL_EXCHANGE"
    if ((${#failed[@]})); then
        echo "failed: ${failed[*]}" >&2
        return 1
    fi
}

case ${1:-} in
run)
    run_all
    exit
    ;;
run-aarch64 | run-s390x | run-i686 | run-windows)
    run_tests "$@"
    exit
    ;;
esac

if [[ $# == 0 ]]; then
    set -- rust macos freebsd windows aarch64 s390x i686
fi
for row in "$@"; do
    echo "=== $row"
    if [[ $row == rust ]]; then
        oldest_rust
    elif [[ -n ${targets[$row]:-} ]]; then
        type_check "$row" "${targets[$row]}"
    else
        echo "there is no row $row; there are: rust ${!targets[*]} run run-aarch64 run-s390x run-i686 run-windows" >&2
        exit 2
    fi
done
