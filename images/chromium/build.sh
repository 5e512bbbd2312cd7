#!/bin/sh
# Makes the root of browser cells: build.sh DIRECTORY
#
# Debian's packages are resolved as if nothing were installed, downloaded, and unpacked: no script of theirs runs, and
# nothing of this machine's own /usr gets in. What Chromium does not read is taken out again.
# $GUEST_TARGET_DIR keeps the downloads between builds.
set -eu
root=$1
cache=${GUEST_TARGET_DIR:?}
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$cache/archives/partial" "$cache/none/partial"
: > "$cache/status"
packages=$(sed 's/#.*//' "$here/packages")

packages_into() {
    directory=$1
    shift
    apt-get -qq -o Dir::State::status="$cache/status" -o Dir::Cache::archives="$cache/$directory" \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true install --yes --no-install-recommends "$@" $packages
}

# Lists as old as the machine may name files that are gone.
apt-get -qq update
packages_into archives --download-only >/dev/null
# As if nothing were downloaded: the names of all files, of these versions only.
names=$(packages_into none --print-uris | sed -n "s/^'[^']*' \([^ ]*\.deb\) .*/\1/p")

mkdir -p "$root"
for name in $names; do
    dpkg-deb --extract "$cache/archives/$name" "$root"
done
for file in "$cache"/archives/*.deb; do
    case " $(echo $names) " in *" ${file##*/} "*) ;; *) rm -f "$file" ;; esac
done

cd "$root"
# Not read by Chromium. Its own programs, the libraries, the fonts and their configuration stay.
rm -rf usr/share/doc usr/share/man usr/share/info usr/share/lintian usr/share/locale usr/share/bug usr/share/perl5 \
    usr/share/bash-completion usr/share/applications usr/share/icons usr/share/gcc usr/share/menu usr/share/pixmaps \
    var usr/sbin usr/games usr/include usr/src sbin
# Drivers of graphics cards, which no cell has, and the compiler that they bring; a second style of the largest fonts.
rm -rf usr/lib/x86_64-linux-gnu/dri usr/lib/x86_64-linux-gnu/libLLVM* usr/lib/x86_64-linux-gnu/libz3* \
    usr/lib/chromium/libVk* usr/share/fonts/opentype/noto/NotoSerif*
# Caches of fonts are written by the configured machine, and read by every cell.
mkdir -p proc dev tmp workspace home var/cache/fontconfig
ln -s /workspace home/user
chroot . /usr/bin/fc-cache --system-only --force >/dev/null
rm -rf bin usr/bin
chromium=usr/lib/chromium/chromium-headless-shell
[ -x "$chromium" ] || { echo "build.sh: no $chromium" >&2; exit 1; }

# Programs that look a user up find one.
mkdir -p etc
printf 'root:x:0:0:root:/:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nuser:x:1000:\n' > etc/group
printf '127.0.0.1 localhost\n' > etc/hosts
printf 'passwd: files\ngroup: files\nhosts: files\n' > etc/nsswitch.conf

# Nothing here runs with somebody else's rights, and nobody but root could change it.
find . -xdev -perm /6000 -exec chmod a-s {} +
chown -R 0:0 .
chmod -R go-w,a+rX .
