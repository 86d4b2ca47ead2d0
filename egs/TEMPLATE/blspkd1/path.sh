# To be sourced: the environment of a recipe. Returns with a status other than 0 when blspkd cannot be used.
# shellcheck shell=bash

_root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd) || return 1
_venv=${VENV:-${_root}/tools/venv}
if [ -x "${_venv}/bin/python" ]; then  # else the environment that is active now
    export VIRTUAL_ENV=${_venv}
    case ":${PATH}:" in
        *":${_venv}/bin:"*) ;;
        *) export PATH="${_venv}/bin:${PATH}" ;;
    esac
fi
case ":${PYTHONPATH:-}:" in
    *":${_root}:"*) ;;
    *) export PYTHONPATH="${_root}${PYTHONPATH:+:${PYTHONPATH}}" ;;
esac
export LC_ALL=C  # sorted means sorted by bytes
export PYTHONIOENCODING=UTF-8
export PYTHONUTF8=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}

if ! "${python:-python}" -c 'import blspkd.config, importlib.util as i; assert i.find_spec("torch")' > /dev/null 2>&1
then
    echo "path.sh: '${python:-python}' cannot import blspkd or torch; \`make -C ${_root}/tools\` makes an environment" \
        "in tools/venv, and \`python ${_root}/tools/check_install.py\` says what is missing" >&2
    unset _root _venv
    return 1
fi
unset _root _venv
