# shellcheck shell=bash
# Where scripts/install puts things and scripts/uninstall finds them. Needs say.sh.
# shellcheck disable=SC2034  # the places are for the scripts that read this file

prefix=${PREFIX-/usr/local} DESTDIR=${DESTDIR-}
binary=${BINARY-target/release/farspan}
bin=$prefix/bin share=$prefix/share
man=$share/man/man1 doc=$share/doc/farspan
etc=${SYSCONFDIR-/etc}/farspan
# Below /usr is the distribution's place, everything else is the administrator's.
case $prefix in
/usr) units=${UNITDIR-/lib/systemd/system} sysusers=/usr/lib/sysusers.d ;;
*) units=${UNITDIR-/etc/systemd/system} sysusers=/etc/sysusers.d ;;
esac
changed=0

# generate PROGRAM WHERE: what the program itself writes: its manual pages, completions, a configuration to start from.
generate() {
    local program=$1 where=$2 shell
    mkdir -p "$where/man" "$where/completions"
    "$program" generate man --directory "$where/man"
    for shell in bash zsh fish; do "$program" generate completions "$shell" >"$where/completions/$shell"; done
    # Nothing of it is meant yet: what is mirrored where, only the operator knows.
    "$program" generate config | sed -E 's/^([^#].*)$/# \1/' >"$where/farspan.toml"
}

# place MODE FROM TO: a file, unless it is there already with that content and mode.
place() {
    local mode=$1 from=$2 to=$DESTDIR$3
    if cmp -s "$from" "$to" && [[ $(stat -c %a "$to") == "$mode" ]]; then return; fi
    # In one step: a program that runs, or a shell that reads, keeps the old one.
    install -D -m "$mode" "$from" "$to.new"
    mv -f "$to.new" "$to"
    changed=1
}

# folder MODE WHERE
folder() {
    [[ -d $DESTDIR$2 ]] && return
    install -d -m "$1" "$DESTDIR$2"
    changed=1
}

# remove WHERE…: files and folders, as far as they are there.
remove() {
    local place
    for place in "$@"; do
        [[ -e $DESTDIR$place ]] || continue
        # Each place has a fixed name of ours in it, so that this is never a root.
        rm -rf -- "$DESTDIR${place:?}"
        changed=1
    done
}

has_systemd() { [[ -d /run/systemd/system ]]; }

# The user, and what systemd knows: on the running system only, never in another root.
settle() {
    if ! getent passwd farspan >/dev/null; then
        if command -v systemd-sysusers >/dev/null; then
            systemd-sysusers "$sysusers/farspan.conf"
        else
            useradd --system --home-dir /var/lib/farspan --no-create-home --shell /usr/sbin/nologin farspan
        fi
        changed=1
    fi
    if ((changed)) && has_systemd; then systemctl daemon-reload; fi
}
