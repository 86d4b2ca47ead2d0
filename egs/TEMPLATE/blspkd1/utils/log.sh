# To be sourced: log lines that say when and where.
# shellcheck shell=bash

log() {  # 2026-01-31T12:00:00 (blspkd.sh:120:main) message
    local frame=0
    while [[ ${BASH_SOURCE[frame + 1]##*/} == stages.sh ]]; do frame=$((frame + 1)); done
    printf '%s (%s:%s:%s) %s\n' "$(date '+%Y-%m-%dT%H:%M:%S')" "${BASH_SOURCE[frame + 1]##*/}" \
        "${BASH_LINENO[frame]}" "${FUNCNAME[frame + 1]}" "$*"
}

die() {  # error: message
    printf 'error: %s\n' "$*" >&2
    exit 1
}
