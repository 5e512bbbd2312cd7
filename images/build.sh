#!/bin/sh
# Builds every image whose recipe changed: what `make images` calls.
#
#     images/build.sh              all folders that hold an image.toml
#     images/build.sh python-wasm  only these
#
# Arguments after `--` go to `anchorhold-image` (for instance `-- --store DIR`).
# With nothing changed it takes a fraction of a second. Set CARGO to use another cargo for the builder.
set -eu
cd "$(dirname "$0")"

names=
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    names="$names $1"
    shift
done
[ $# -eq 0 ] || shift
if [ -z "$names" ]; then
    for recipe in */image.toml; do
        names="$names $(dirname "$recipe")"
    done
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/anchorhold"
builder="$cache/target/builder/release/anchorhold-image"

# cargo itself needs half a second to find that nothing changed; a newer file finds it at once.
builder_is_current() {
    [ -x "$builder" ] &&
        [ -z "$(find builder/src builder/Cargo.toml builder/Cargo.lock ../sandbox/cell/src/engine.rs -newer "$builder")" ]
}

# With no builder yet there is no image either. Then all guests are compiled beside the builder: both have long
# stretches that use one core, so the one with the most crates goes first. The builder finds them compiled, in the
# directory that it would use.
if [ ! -x "$builder" ]; then
    for lock in $(ls -S */Cargo.lock); do
        name=$(dirname "$lock")
        case " $names " in *" $name "*) ;; *) continue ;; esac
        GUEST_TARGET_DIR="$cache/target/guests" sh "$name/build.sh" /dev/null || exit
    done </dev/null &
    guests=$!
fi
if ! builder_is_current; then
    # Two checkouts share the cache, and cargo remembers engine.rs, which is outside the package, by the
    # absolute path of the one that built last: tell it that something changed.
    touch builder/src/main.rs
    "${CARGO:-cargo}" build --release --locked --manifest-path builder/Cargo.toml --target-dir "$cache/target/builder"
    touch "$builder"
fi
[ -z "${guests:-}" ] || wait "$guests"
for name in $names; do
    "$builder" build "$name" "$@"
done
