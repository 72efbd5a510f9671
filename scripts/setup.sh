#!/bin/sh
# Everything Hutch needs on a Debian 12 machine; may be run again at any time, and is quick when nothing is missing.
#
#   scripts/setup.sh             all of it (root)
#   scripts/setup.sh python      only the locked Python environment in .venv (any user)
#   scripts/setup.sh templates   only the built templates (root)
set -eu
cd "$(dirname "$0")/.."

RUNSC_MINIMUM=0.0~20240101 # the first releases with the systrap platform that Hutch boots on
TEMPLATES=${TEMPLATES:-standard claude-code codex code-interpreter}

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "this needs root: run it again as root (\`make test-fast\` does not need it)"; }

# --- system packages -------------------------------------------------------------------------------------------------

missing_packages() {
    for package; do
        version=$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null) || version=absent
        case $version in
            installed\ *) [ "$package" != runsc ] || new_enough "${version#* }" || echo "$package" ;;
            *) echo "$package" ;;
        esac
    done
}

new_enough() { dpkg --compare-versions "$1" ge "$RUNSC_MINIMUM"; }

# The newest runsc that apt could install, from whatever release.
best_runsc() { apt-cache madison runsc | awk -F' *[|] *' 'NR == 1 { print $2 }'; }

# A backports source beside the machine's own, from the same mirror.
add_backports() {
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v suite="$codename" '$2 == suite { print $1; exit }')
    [ -n "$mirror" ] || die "apt has no source for Debian $codename on this machine: add one to /etc/apt"
    say "Adding $codename-backports from $mirror"
    echo "deb $mirror $codename-backports main" >/etc/apt/sources.list.d/hutch-backports.list
    apt-get update -q
}

install_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    need_root
    export DEBIAN_FRONTEND=noninteractive
    say "Installing from Debian:" $missing
    apt-get update -q
    case " "$(echo $missing)" " in
        *" runsc "*)
            version=$(best_runsc)
            { [ -n "$version" ] && new_enough "$version"; } || add_backports
            version=$(best_runsc)
            { [ -n "$version" ] && new_enough "$version"; } || die "no runsc from $RUNSC_MINIMUM on is in apt's sources"
            missing="$(echo "$missing" | grep -vx runsc || true) runsc=$version"
            ;;
    esac
    apt-get install -y -q --no-install-recommends $missing
}

make_user() {
    id -u hutch >/dev/null 2>&1 && return 0
    need_root
    say "Adding the system user hutch"
    useradd --system --user-group --home-dir /var/lib/hutch --no-create-home --shell /usr/sbin/nologin hutch
}

# --- Python ----------------------------------------------------------------------------------------------------------

# uv from the PATH, or else from a private environment: Debian 12 lets no one install into its own Python.
find_uv() {
    UV=$(command -v uv || true)
    [ -n "$UV" ] && return 0
    home=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hutch/uv
    UV=$home/bin/uv
    [ -x "$UV" ] && return 0
    say "Installing uv into $home"
    rm -rf "$home"
    /usr/bin/python3 -m venv "$home" || die "python3-venv is missing: \`apt-get install python3 python3-venv\`"
    "$home/bin/python" -m pip install -q --disable-pip-version-check uv
}

sync_python() {
    find_uv
    UV_PYTHON_DOWNLOADS=never "$UV" sync -q --frozen --compile-bytecode --python /usr/bin/python3
}

# --- templates -------------------------------------------------------------------------------------------------------

build_templates() {
    need_root
    .venv/bin/python -m hutch.images build $TEMPLATES
}

case ${1:-all} in
    all)
        install_packages $(sed 's/#.*//' scripts/apt-packages.txt)
        make_user
        sync_python
        build_templates
        ;;
    python)
        [ "$(id -u)" != 0 ] || install_packages python3 python3-venv ca-certificates
        sync_python
        ;;
    templates) build_templates ;;
    *) die "unknown part '$1': all, python or templates" ;;
esac
