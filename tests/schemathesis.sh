#!/bin/sh
# Sends what the API's document allows, and what it does not, to a server of its own on loopback. Fails when an answer is
# a fault (see schemathesis.toml). Takes at most five minutes.
#
#     tests/schemathesis.sh [SECONDS]    # uses the programs that `make build` made
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/anchorhold
bin=${CARGO_TARGET_DIR:-$cache/target/host}/release
images=${ANCHORHOLD_IMAGE_DIR:-$cache/images}
seconds=${1:-240}

# One environment for each set of versions; made aside, so that half of one is never taken for whole.
venv=$cache/schemathesis-$(sha256sum "$here/schemathesis.txt" | cut -c1-16)
if [ ! -d "$venv" ]; then
    echo "fuzz: installing schemathesis"
    rm -rf "$venv.new"
    /usr/bin/python3 -m venv "$venv.new"
    "$venv.new/bin/python" -m pip install -q --disable-pip-version-check -r "$here/schemathesis.txt"
    mv "$venv.new" "$venv"
fi

work=$(mktemp -d)
# The service's user must be able to reach what is its own in there.
chmod 755 "$work"
"$bin/anchorhold" serve --listen 127.0.0.1:0 --data-dir "$work/data" --image-dir "$images" >"$work/log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

tries=0
until base=$(grep -o 'anchorhold is ready on http://[0-9.:]*' "$work/log"); do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] && kill -0 "$server" 2>/dev/null || { cat "$work/log"; echo "fuzz: no server" >&2; exit 1; }
    sleep 0.1
done
base=${base##* }

cd "$work"
status=0
# Scripts of an environment name the place where it was made, so the module is called.
"$venv/bin/python" -m schemathesis.cli --config-file "$here/schemathesis.toml" run "$base/openapi.json" \
    --header "Authorization: Bearer $(cat "$work/data/admin.key")" \
    --max-time "$seconds" --request-timeout 30 --workers 1 --continue-on-failure || status=$?

if grep -E 'ERROR|panicked' "$work/log"; then
    echo "fuzz: the server's log is not clean" >&2
    status=1
fi
exit "$status"
