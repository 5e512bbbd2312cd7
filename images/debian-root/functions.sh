# Functions for the recipes of roots that are made of Debian's packages. To be read by `.`, in a shell with `set -eu`.
# $GUEST_TARGET_DIR keeps the downloads between builds.

# unpack ROOT FILE: the packages that FILE names, with all that they depend on. They are resolved as if nothing were
# installed, downloaded, checked by apt, and unpacked: no script of theirs runs, and nothing of this machine's own /usr
# gets in.
unpack() {
    cache=${GUEST_TARGET_DIR:?}
    mkdir -p "$cache/archives/partial" "$cache/none/partial"
    : > "$cache/status"
    packages=$(sed 's/#.*//' "$2")
    # Lists as old as the machine may name files that are gone.
    apt-get -qq update
    resolve archives --download-only >/dev/null
    # As if nothing were downloaded: the names of all files, of these versions only.
    names=$(resolve none --print-uris | sed -n "s/^'[^']*' \([^ ]*\.deb\) .*/\1/p")
    mkdir -p "$1"
    for name in $names; do
        dpkg-deb --extract "$cache/archives/$name" "$1"
    done
    for file in "$cache"/archives/*.deb; do
        case " $(echo $names) " in *" ${file##*/} "*) ;; *) rm -f "$file" ;; esac
    done
}

resolve() {
    directory=$1
    shift
    apt-get -qq -o Dir::State::status="$cache/status" -o Dir::Cache::archives="$cache/$directory" \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true install --yes --no-install-recommends "$@" $packages
}

# merge ROOT: `/bin`, `/sbin` and `/lib` become names of what is below `/usr`, as on an installed Debian.
merge() {
    for name in bin sbin lib lib64; do
        mkdir -p "$1/usr/$name"
        [ ! -d "$1/$name" ] || cp -a "$1/$name/." "$1/usr/$name/"
        rm -rf "${1:?}/$name"
        ln -s "usr/$name" "$1/$name"
    done
}

# undocument ROOT: takes out what people read and programs do not.
undocument() {
    (cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/info usr/share/lintian usr/share/locale usr/share/bug \
        usr/share/bash-completion usr/share/applications usr/share/icons usr/share/gcc usr/share/menu \
        usr/share/pixmaps usr/games usr/include usr/src)
}

# mountpoints ROOT: the empty directories that a cell mounts over.
mountpoints() {
    (cd "$1" && mkdir -p proc dev tmp workspace home && ln -s /workspace home/user)
}

# fonts ROOT: the caches of fonts are written by the configured machine, and read by every cell.
fonts() {
    mkdir -p "$1/var/cache/fontconfig"
    chroot "$1" /usr/bin/fc-cache --system-only --force >/dev/null
}

# finish ROOT: who is who, for programs that look a user up; nothing runs with somebody else's rights, and nobody but
# root could change it.
finish() {
    mkdir -p "$1/etc"
    printf 'root:x:0:0:root:/:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/sh\n' > "$1/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' > "$1/etc/group"
    printf '127.0.0.1 localhost\n' > "$1/etc/hosts"
    printf 'passwd: files\ngroup: files\nhosts: files\n' > "$1/etc/nsswitch.conf"
    find "$1" -xdev -perm /6000 -exec chmod a-s {} +
    chown -R 0:0 "$1"
    chmod -R go-w,a+rX "$1"
}
