#!/usr/bin/env bash
# Compiles the library with the oldest Rust that it supports, and type-checks it for other systems
# and processors. Runs nothing of it there.
#
#   tests/portability.sh               every row
#   tests/portability.sh macos s390x   these rows
#
# A row is skipped, with a message, if rustup cannot fetch what it needs.
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
    echo "skipped: $1: rustup cannot fetch $2" >&2
}

oldest_rust() {
    if rustup toolchain install "$oldest" --profile minimal --no-self-update >/dev/null 2>&1; then
        cargo "+$oldest" check --lib --all-features --locked
    else
        skip rust "Rust $oldest"
    fi
}

# Without zstd: its library is in C, and needs a C compiler for the other system.
type_check() {
    if rustup target add "$2" >/dev/null 2>&1; then
        cargo check --lib --features sim,lz4 --locked --target "$2"
    else
        skip "$1" "the target $2"
    fi
}

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
        echo "there is no row $row; there are: rust ${!targets[*]}" >&2
        exit 2
    fi
done
