#!/bin/bash
# Create .venv and install what constraints.txt names; `make` calls this where something has changed.
#   tools/setup.sh [PYTHON]    an interpreter to take; without one, the first that is Python 3.12 or 3.11
# While packages are unpacked, .venv/.installing exists: a set-up that was cut off then starts afresh.
set -o pipefail

wanted=$1
python=.venv/bin/python
log=.venv/install.log

is_fit() {  # a working Python of the right version, with venv and pip
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

find_python() {
    local candidates=("$wanted") candidate
    if [ -z "$wanted" ]; then
        mapfile -t candidates < <(type -ap python3.12 python3.11 python3 python)
    fi
    for candidate in "${candidates[@]}"; do
        if is_fit "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No working Python 3.12 or 3.11 with venv found${wanted:+ at $wanted}." \
         "Install one (Debian, Ubuntu: apt install python3 python3-venv)" \
         "or name it: make PYTHON=/path/to/python3.12" >&2
    return 1
}

create() {
    local found
    found=$(find_python) || exit 1
    echo "Creating .venv with $found ($("$found" -V))"
    "$found" -m venv --clear .venv || exit 1
}

show_progress() {  # pip's output, as one line that changes on a terminal and some lines elsewhere
    local packages=0 end='\n' every=60 what name rest
    if [ -t 1 ]; then
        end='\033[K\r'
        every=1
    fi
    while read -r what name rest; do
        name=${name##*/}
        case $what in
        Collecting|Processing)
            packages=$((packages + 1))
            if [ $((packages % every)) -eq 0 ]; then
                printf "  %3d packages found, now %s$end" $packages "${name%%[=<>~!;]*}"
            fi;;
        Installing)
            if [ "$name" = collected ] && [ $packages -gt 0 ]; then
                printf '  unpacking %s packages, about a minute\033[K\n' $packages
            fi;;
        esac
    done
}

install() {
    PYTHONUNBUFFERED=1 $python -m pip install --disable-pip-version-check --progress-bar off \
        -c constraints.txt -e '.[dev]' 2>&1 | tee $log | show_progress
}

report_failure() {
    # before anything was unpacked, the environment is still whole
    grep -q '^Installing collected' $log || rm -f .venv/.installing
    echo "The installation failed; its last lines (all of them: $log; rm -rf .venv starts afresh):" >&2
    grep -v '^WARNING' $log | tail -n 8 | cut -c1-200 >&2
    exit 1
}

if [ -e .venv/.installing ] || ! is_fit $python; then
    create
fi
rm -f .venv/.ready
touch .venv/.installing
echo "Installing what constraints.txt names (the first time: 2-3 minutes, 6.5 GB)"
install || report_failure
rm -f .venv/.installing
printf '%s' "$(pwd -P)" > .venv/.ready
