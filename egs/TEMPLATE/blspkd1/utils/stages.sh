# To be sourced: which stages run, and which of their steps are done already.
#
# The script that sources this has set `stages`, the names in order, and the options stage, stop_stage, skip_stages
# and python. A step is a piece of a stage with outputs of its own. Its marker, written last, records what it was made
# from (see stage_marker.py); a step is skipped only on a marker that says the same.
# shellcheck shell=bash disable=SC2154

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then set +u; fi  # there, an empty array counts as unset
export BLSPKD_PID=$$  # run.py stops when this process is gone

_utils=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_open_steps=()  # markers of the steps that are running
_open_locks=()
_stage=

stage_number() {  # NAME-OR-NUMBER [OPTION]
    local number=1 name listed=""
    for name in ${stages}; do
        if [[ $1 == "${name}" ]]; then echo "${number}"; return; fi
        listed+=" ${number} ${name},"
        number=$((number + 1))
    done
    if ! [[ $1 =~ ^[0-9]{1,9}$ ]] || ((10#$1 < 1 || 10#$1 >= number)); then
        die "--$2 '$1': there is no such stage; the stages are${listed%,}"
    fi
    echo "$((10#$1))"
}

choose_stages() {  # check --stage, --stop_stage and --skip_stages, and make numbers of them
    local name numbers=""
    stage=$(stage_number "${stage}" stage) || exit 1
    stop_stage=$(stage_number "${stop_stage}" stop_stage) || exit 1
    for name in ${skip_stages}; do
        numbers+=" $(stage_number "${name}" skip_stages)" || exit 1
    done
    skip_stages="${numbers} "
    ((stage <= stop_stage)) || die "--stage ${stage} comes after --stop_stage ${stop_stage}: nothing to do"
}

stage() {  # NAME: is this stage to run?
    _stage="$(stage_number "$1" stage) $1"
    local number=${_stage% *}
    if ((number < stage || number > stop_stage)) || [[ ${skip_stages} == *" ${number} "* ]]; then return 1; fi
    log "stage ${number}: $1"
}

needs() {  # PATH REMEDY: an input that must be there
    [[ -e $1 ]] || die "$1: not there; $2"
}

step() {  # MARKER [what it is made from: see stage_marker.py]: are this step's commands to run?
    local marker=$1 status=0 lock
    shift
    mkdir -p "$(dirname "${marker}")"
    if command -v flock > /dev/null; then  # the kernel lifts this lock when the last of our processes is gone
        exec {lock}> "${marker}.lock"
        if ! flock -n "${lock}"; then
            log "another run is working on ${marker}; waiting for its end"
            flock "${lock}"
        fi
    fi
    rm -f "${marker}.tmp-"*  # of a run that was killed
    "${python}" "${_utils}/stage_marker.py" check "${marker}" --stage "${_stage}" "$@" || status=$?
    if [[ ${status} -eq 10 ]]; then
        if [[ ${#_open_steps[@]} -eq 0 ]]; then
            SECONDS=0
            export BLSPKD_PEAK_FILE="${marker}.peak"
            touch "${BLSPKD_PEAK_FILE}"  # it may hold what an attempt that was killed has seen
        fi
        _open_steps+=("${marker}")
        _open_locks+=("${lock:-}")
        return 0
    fi
    if [[ -n ${lock:-} ]]; then exec {lock}>&-; fi
    if [[ ${status} -ne 0 ]]; then exit 1; fi
    return 1
}

only_one() {  # LOCK-FILE: stop if another run holds it; the kernel lifts the lock when we end
    local lock
    if command -v flock > /dev/null; then
        exec {lock}> "$1"
        flock -n "${lock}" || die "another run is working here already ($1)"
    fi
}

steps_done() {  # the commands of all open steps have succeeded
    local lock
    "${python}" "${_utils}/stage_marker.py" finish --seconds "${SECONDS}" --peak_file "${BLSPKD_PEAK_FILE}" \
        "${_open_steps[@]}" || exit 1
    rm -f "${BLSPKD_PEAK_FILE}"
    unset BLSPKD_PEAK_FILE
    for lock in "${_open_locks[@]}"; do
        if [[ -n ${lock} ]]; then exec {lock}>&-; fi
    done
    _open_steps=()
    _open_locks=()
}

stage_times() {  # FILE MARKER-FOLDER ...: time and memory of every stage, from the markers
    "${python}" "${_utils}/stage_marker.py" times --output "$@"
}

split_words() {  # OPTION ...: the words of x_args or x_opts fill the array x_words; quotes keep them as in a shell
    local option words
    for option in "$@"; do
        words=$("${python}" "${_utils}/split_words.py" "${!option}") || die "--${option}: cannot split into words"
        eval "${option%_*}_words=(${words})"  # quoted by split_words.py: nothing is expanded
    done
}

unique_words() {  # TEXT: its words, each once
    xargs -n 1 <<< "$1" | awk '!seen[$0]++' | xargs
}

# The tables utt2<what> of a data directory that only data operations read.
side_tables() { find -L "$1" -maxdepth 1 -name 'utt2*' ! -name utt2spk ! -name utt2dur -printf '%f\n'; }
