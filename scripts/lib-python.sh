# shellcheck shell=bash
# Sourced by scripts/quickstart and scripts/test: says things, finds a Python, keeps a virtual environment up to date.
# Expects ROOT (the checkout) to be set.

STARTED=$(date +%s)

say() { printf '[%3ds] %s\n' "$(($(date +%s) - STARTED))" "$*"; }

give_up() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

# The first Python that is new enough: $PYTHON when it is given, else the usual names. Within an active environment,
# which may be the one that is about to be made anew, it is the Python that this was made with.
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$name" -c 'import sys; print(sys._base_executable)'
            return
        fi
    done
    give_up "no Python 3.10 or newer is on PATH; install one ('apt-get install python3 python3-venv', 'dnf install python3.11') or set PYTHON to it" 4
}

# Where the environment $1 goes: into the checkout, or into the user's cache when the checkout is not the user's to write.
venv_place() {
    local folder="$ROOT/$1"
    if [ -w "$folder" ] || { [ ! -e "$folder" ] && [ -w "$ROOT" ]; }; then
        printf '%s\n' "$folder"
    else
        printf '%s/trtdist/%s-%s\n' "${XDG_CACHE_HOME:-${HOME:-/tmp/trtdist-$(id -u)}/.cache}" "${1#.}" \
            "$(printf '%s' "$ROOT" | cksum | cut -d' ' -f1)"
    fi
}

# make_venv FOLDER EXTRA: an environment with trtdist[EXTRA], installed again only when what it depends on changed.
make_venv() {
    local folder=$1 extra=$2 python stamp
    python=$(find_python) || exit
    stamp="$("$python" -c 'import sys; print(sys.executable, *sys.version_info[:3])') $extra $folder $ROOT $(cksum <"$ROOT/pyproject.toml")"
    if "$folder/bin/python" -c '' 2>/dev/null && [ "$(cat "$folder/trtdist-stamp" 2>/dev/null)" = "$stamp" ]; then
        say "the environment $folder is up to date"
        return
    fi
    # An environment that somebody else made is added to; one of ours that is out of date is made anew.
    if [ -e "$folder/trtdist-stamp" ] || ! "$folder/bin/python" -c '' 2>/dev/null; then
        [ ! -e "$folder/trtdist-stamp" ] || say "$(why_anew "$folder" "$stamp")"
        new_venv "$python" "$folder"
    fi
    say "installing trtdist[$extra] from wheels into it (the first time takes about a minute)"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
        --editable "${ROOT}[$extra]" >"$folder/install.log" 2>&1 || install_failed "$folder/install.log"
    printf '%s\n' "$stamp" >"$folder/trtdist-stamp"
}

# Why an environment of ours, $1, does not do for what is wanted now, $2.
why_anew() {
    local was=() now=() old
    old=$(cat "$1/trtdist-stamp")
    read -ra was <<<"$old"
    read -ra now <<<"$2"
    if [ -z "$old" ]; then
        printf '%s was never finished and is made anew\n' "$1"
    elif [ "${was[*]:0:4}" != "${now[*]:0:4}" ]; then
        printf '%s was made with %s (%s) and is made anew with %s (%s)\n' "$1" \
            "${was[0]}" "$(IFS=. && echo "${was[*]:1:3}")" "${now[0]}" "$(IFS=. && echo "${now[*]:1:3}")"
    elif [ "$old" != "$2" ]; then
        printf '%s is made anew, as pyproject.toml or the place of the checkout has changed\n' "$1"
    else
        printf '%s is made anew, as its Python does not start any more\n' "$1"
    fi
}

new_venv() {
    say "making the environment $2 with $("$1" -V)"
    "$1" -c 'import venv, ensurepip' 2>/dev/null ||
        give_up "$1 has no venv module; install it ('apt-get install python3-venv') or set PYTHON to another Python" 4
    rm -rf "$2" 2>/dev/null
    { mkdir -p "$(dirname "$2")" && "$1" -m venv "$2"; } ||
        give_up "cannot make $2; is there space? XDG_CACHE_HOME names another place than ~/.cache"
    # Whoever is stopped while pip installs leaves an environment that is not whole, and is known by this.
    : >"$2/trtdist-stamp"
}

install_failed() {
    tail -n 15 "$1" >&2
    give_up "pip could not install what is needed; its last words are above ($1). Does pip reach a package index (PIP_INDEX_URL, HTTPS_PROXY), and is there space?" 4
}
