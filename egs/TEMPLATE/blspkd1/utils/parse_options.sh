# To be sourced: `. utils/parse_options.sh` reads the options of the script that sources it.
#
# An option is a line `name=default  # what it is` that stands, unindented, above the line that sources this file.
# `--name value`, `--name=value` and, for some_name, `--some-name value` set it. A default of true or false takes true
# or false only; a whole number takes whole numbers only. `--help` prints the script's first comment and these lines.
# What is left after the options stays in "$@".
# shellcheck shell=bash

_option_names=()
declare -A _option_help _option_kind

_declared_options() {  # SCRIPT: fill the arrays from its lines
    local line
    while IFS= read -r line; do
        if [[ ${line} =~ ^(\.|source)\ .*parse_options\.sh ]]; then break; fi
        if [[ ${line} =~ ^([a-zA-Z_][a-zA-Z0-9_]*)=.*[[:space:]]\#[[:space:]]+(.*)$ ]]; then
            local name=${BASH_REMATCH[1]}
            _option_names+=("${name}")
            _option_help[${name}]=${BASH_REMATCH[2]}
            case ${!name} in
                true | false) _option_kind[${name}]=truth ;;
                *[!0-9]* | "") _option_kind[${name}]=text ;;
                *) _option_kind[${name}]=number ;;
            esac
        fi
    done < "$1"
}

_print_help() {  # SCRIPT
    sed -n -e '1{/^#!/d}' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$1"
    printf '\nOptions, with their present values:\n'
    local name
    for name in "${_option_names[@]}"; do
        printf '  --%-20s %s [%s]\n' "${name}" "${_option_help[${name}]}" "${!name}"
    done
}

_option_error() {  # MESSAGE
    printf 'error: %s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

_unknown_option() {  # NAME
    local nearest
    nearest=$(python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], n=1))' \
        "$1" "${_option_names[@]}" 2> /dev/null || true)
    _option_error "unknown option --$1${nearest:+; did you mean --${nearest}?}"$'\n'"known options:$(
        printf ' --%s' "${_option_names[@]}" help)"
}

_set_option() {  # NAME VALUE
    case ${_option_kind[$1]} in
        truth) [[ $2 == true || $2 == false ]] || _option_error "--$1 '$2': give true or false" ;;
        number)
            [[ $2 =~ ^[0-9]{1,18}$ ]] || _option_error "--$1 '$2': give a whole number"
            printf -v "$1" '%d' "$((10#$2))"  # 08 is no octal number
            return ;;
    esac
    printf -v "$1" '%s' "$2"
}

at_least() {  # NUMBER NAME ...: these options must not be smaller
    local smallest=$1 name
    shift
    for name in "$@"; do
        ((${!name} >= smallest)) || _option_error "--${name} ${!name}: give a whole number from ${smallest} up"
    done
}

_declared_options "${BASH_SOURCE[1]}"

while [[ $# -gt 0 && $1 == -* ]]; do
    if [[ $1 == --help || $1 == -h ]]; then
        _print_help "${BASH_SOURCE[1]}"
        exit 0
    fi
    if [[ $1 != --* ]]; then _option_error "'$1': options start with --"; fi
    _name=${1#--}
    _name=${_name%%=*}
    _name=${_name//-/_}
    if [[ -z ${_option_kind[${_name}]+x} ]]; then _unknown_option "${_name}"; fi
    if [[ $1 == *=* ]]; then
        _set_option "${_name}" "${1#*=}"
        shift
        continue
    fi
    if [[ $# -lt 2 ]]; then _option_error "--${_name} needs a value"; fi
    _value=${2#--}
    if [[ $2 == --* && -n ${_option_kind[${_value//-/_}]+x} ]]; then
        _option_error "--${_name} needs a value; found the option $2 (--${_name}=$2 if that is the value)"
    fi
    _set_option "${_name}" "$2"
    shift 2
done
unset _name _value
