#!/usr/bin/env bash
# Tries what a release does, and publishes nothing.
#
#   tests/publish.sh                    every row
#   tests/publish.sh packages deny      these rows
#
#   packages   each crate for users is packaged, built from its package, and not uploaded
#   oldest     each of them compiles with the oldest Rust that its manifest names
#   deny       licences, bans, sources and advisories of all dependencies: deny.toml
#
# A row is skipped, with a message, if what it needs is not there and cannot be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}

skip() {
    echo "skipped: $1: $2" >&2
}

# The manifests of the crates that are published.
published() {
    grep -L '^publish = false$' Cargo.toml crates/*/Cargo.toml
}

# The value of a key at the beginning of a line.
value() {
    sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" "$2" | head -n 1
}

packages() {
    local minor
    minor=$(cargo --version | cut -d . -f 2)
    if ((minor < 90)); then
        skip packages "cargo 1.90 or later packages a workspace, and this is $(cargo --version)"
        return
    fi
    local dirty=()
    if [[ -n $(git status --porcelain 2>/dev/null) ]]; then
        echo "the tree has changes that are not committed: a release refuses them" >&2
        dirty=(--allow-dirty)
    fi
    cargo publish --workspace --dry-run --locked "${dirty[@]}"
}

oldest() {
    local common manifest name version
    common=$(value rust-version Cargo.toml)
    for manifest in $(published); do
        name=$(value name "$manifest")
        version=$(value rust-version "$manifest")
        version=${version:-$common}
        if rustup toolchain install "$version" --profile minimal --no-self-update >/dev/null 2>&1; then
            echo "--- $name with Rust $version"
            cargo "+$version" check -p "$name" --all-features --locked --target-dir "$target/oldest"
        else
            skip "$name" "rustup cannot fetch Rust $version"
        fi
    done
}

deny() {
    local tool
    if cargo deny --version >/dev/null 2>&1; then
        tool=(cargo deny)
    else
        # Beside the build, and not among the user's programs.
        if [[ ! -x $target/tools/bin/cargo-deny ]] &&
            ! cargo install cargo-deny --version '^0.20' --locked --root "$target/tools"; then
            skip deny "cargo-deny is not there, and cannot be installed"
            return
        fi
        tool=("$target/tools/bin/cargo-deny")
    fi
    "${tool[@]}" --workspace --locked check licenses bans sources
    if "${tool[@]}" fetch db >/dev/null 2>&1; then
        "${tool[@]}" --workspace --locked check advisories
    else
        skip advisories "their database cannot be fetched"
    fi
}

if [[ $# == 0 ]]; then
    set -- packages oldest deny
fi
for row in "$@"; do
    echo "=== $row"
    case $row in
    packages | oldest | deny) "$row" ;;
    *)
        echo "there is no row $row; there are: packages oldest deny" >&2
        exit 2
        ;;
    esac
done
