#!/bin/sh
# Runs tests on the kernel of this Debian, in an emulated machine (QEMU, some twenty times slower): with control groups of
# v2 alone, with those of v1 alone, and without Landlock (`bare`).
#
#     kernels.sh CACHE IMAGES PROGRAM [TEST ...]
#
# PROGRAM is the one with the tests; beside it, or above, are those that it starts. The machine sees this one's files but
# cannot change them, and has no network. Packages come from the Debian archive. LAYOUTS="v2 v1 bare" says which; ACCEL=kvm
# is quicker where it works.
set -eu
cache=$1 images=$2 program=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
# What differs with the kernel: how cells are born, mounted, limited, counted, killed. All of it takes some twenty times as
# long, so nothing is among them that counts milliseconds.
[ $# -gt 0 ] || set -- kernels:: sessions::walls_are_reported native::walls:: unruly::processors_are_capped \
    limits::a_memory_bomb_ends_alone browser::files_go_in_and_out_by_the_workspace billing::
SECONDS_MAX=${SECONDS_MAX:-3600}

say() { echo "kernels: $*"; }
die() { say "$*" >&2; exit 1; }

missing=""
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v cpio >/dev/null || missing="$missing cpio"
if [ -n "$missing" ]; then
    say "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$kernel" ] || die "Debian names no kernel: apt-get update"
version=$(apt-cache policy "$kernel" | sed -n 's/ *Candidate: //p')
dir="$cache/kernels/$version"
if [ ! -e "$dir/ready" ]; then
    say "fetching $kernel $version"
    rm -rf "$dir" && mkdir -p "$dir/files"
    (cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root "$kernel" busybox-static)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir/files"; done
    rm "$dir"/*.deb
    : >"$dir/ready"
fi
release=${kernel#linux-image-}

# The first files of the machine: what reaches the others.
start=$(mktemp -d)
trap 'rm -rf "$start"' EXIT
modules="lib/modules/$release"
mkdir -p "$start/bin" "$start/$modules"
cp "$dir/files/bin/busybox" "$start/bin/"
install -m 755 "$here/init" "$start/init"
(cd "$dir/files/$modules/kernel" &&
    find fs/9p net/9p fs/netfs fs/fscache fs/overlayfs drivers/virtio drivers/char/virtio_console.ko -name '*.ko' |
    cpio --quiet -pdm "$start/$modules/kernel")
cp "$dir/files/$modules"/modules.builtin* "$dir/files/$modules/modules.order" "$start/$modules/"
"$start/bin/busybox" depmod -b "$start" "$release"
(cd "$start" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/start.gz"

# An emulated processor can do less than this one.
store="$cache/kernels/images"
mkdir -p "$store"
cp -aln "$images/trees" "$store/"
for one in code chromium; do
    rm -f "$store/$one.json"
    cp "$images/$one.json" "$store/"
done
"$here/../../images/build.sh" python-wasm javascript-wasm -- --store "$store" --any-processor

# So that the next build is not in its way.
programs="$cache/kernels/programs"
rm -rf "$programs" && mkdir -p "$programs/deps"
cp "$program" "$programs/deps/tests"
for one in "$(dirname "$program")"/../*; do
    if [ -f "$one" ] && [ -x "$one" ]; then cp "$one" "$programs/"; fi
done

write_run() {
    {
        echo "export HOME='$HOME' PATH=/usr/sbin:/usr/bin:/sbin:/bin ANCHORHOLD_IMAGE_DIR='$images' RUST_BACKTRACE=0"
        echo "cd '$here/..' && failed=0"
        echo "'$programs/anchorhold' doctor || failed=1"
        # What they load comes from far, and has its time: the first that ask for it do not count.
        for one in native::walls::nothing_random_is_anothers browser::files_go_in_and_out_by_the_workspace; do
            echo "'$programs/deps/tests' '$one' >/dev/null 2>&1"
        done
        for one; do
            echo "'$programs/deps/tests' --test-threads 1 --color never '$one' || failed=1"
        done
        echo "exit \$failed"
    } >"$cache/kernels/run"
}

failed=0
for layout in ${LAYOUTS:-v2 v1 bare}; do
    log="$cache/kernels/$layout.log"
    case "$layout" in
        bare) groups="v2 lsm=yama" && write_run kernels:: ;;
        *) groups="$layout" && write_run "$@" ;;
    esac
    timeout "$SECONDS_MAX" qemu-system-x86_64 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 8G \
        -nodefaults -display none -no-reboot -serial stdio \
        -kernel "$dir/files/boot/vmlinuz-$release" -initrd "$dir/start.gz" \
        -append "console=ttyS0 quiet panic=-1 layout=$groups run=$cache/kernels/run images=$images" \
        -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
        -virtfs local,path="$store",mount_tag=images,security_model=none,readonly=on \
        2>&1 | sed -u 's|\r||g' | tee "$log" | grep -a --line-buffered -v -e '^\[ *[0-9]*\.' -e SeaBIOS -e 'Booting from' || true
    grep -aq '^kernels: ended with 0$' "$log" || failed=1
done
[ "$failed" = 0 ] && say "passed: $release, ${LAYOUTS:-v2 v1 bare}" || die "failed"
