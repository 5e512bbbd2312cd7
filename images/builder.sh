#!/bin/sh
# Builds the program that makes images, if its source changed, and prints where it is.
#
#     builder=$(images/builder.sh)
#
# Set CARGO to use another cargo for it. It is built in the directory of the service, which shares many crates with it.
set -eu
cd "$(dirname "$0")"
target="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/anchorhold/target/host}"
builder="$target/release/anchorhold-image"

# cargo itself needs half a second to find that nothing changed; a newer file finds it at once.
is_current() {
    [ -x "$builder" ] &&
        [ -z "$(find builder/src builder/Cargo.toml builder/Cargo.lock ../sandbox/cell/src/engine.rs -newer "$builder")" ]
}

if ! is_current; then
    mkdir -p "$target"
    # Whoever comes meanwhile finds it built.
    exec 9>"$target/builder.lock"
    flock 9
    if ! is_current; then
        # Two checkouts share the cache, and cargo remembers engine.rs, which is outside the package, by the
        # absolute path of the one that built last: tell it that something changed.
        touch builder/src/main.rs
        "${CARGO:-cargo}" build --release --locked --manifest-path builder/Cargo.toml --target-dir "$target" >&2
        touch "$builder"
    fi
fi
echo "$builder"
