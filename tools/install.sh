#!/usr/bin/env bash
# Makes the Python environment $VENV and installs blspkd into it; does nothing when that has been done already.
# Called by the Makefile, which explains the variables: PYTHON, VENV, TORCH_VERSION, EXTRAS, CONSTRAINTS.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${VENV:-${root}/tools/venv}
python=${PYTHON:-python3}
extras=${EXTRAS-test,mini,ark,pack,pretrained,serve}
torch_version=${TORCH_VERSION-}
constraints=${CONSTRAINTS-${root}/tools/constraints.txt}

fail() {
    echo "error: $*" >&2
    exit 1
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null
}

check_version() {
    local version
    version=$(version_of "$1") || fail "'$1' is not a Python that runs; name one with PYTHON=/path/to/python3"
    case ${version} in
        2.* | 3.[0-9]) fail "'$1' is Python ${version}; blspkd needs 3.10 or newer: name one with PYTHON=/path/to/python3" ;;
    esac
}

make_environment() {
    check_version "${python}"
    if [ -d "${venv}" ] && [ ! -e "${venv}/pyvenv.cfg" ] && [ -n "$(ls -A "${venv}")" ]; then
        fail "VENV=${venv} is a folder with other things in it; name a new folder or an environment"
    fi
    echo "making a Python $(version_of "${python}") environment in ${venv}"
    mkdir -p "${venv}"
    touch "${venv}/.made-by-blspkd"  # what \`make clean\` may remove
    "${python}" -m venv "${venv}" || fail "'${python} -m venv' failed; on Debian and Ubuntu the package python3-venv" \
        "is needed, elsewhere name another Python with PYTHON=/path/to/python3"
}

install() {
    "${venv}/bin/python" -m pip install --quiet --disable-pip-version-check "$@" \
        || fail "pip could not install all packages (see above). It needs its package index: check the network, the" \
            "proxy and pip's configuration, then run the same command again; what is there already is kept"
}

if [ ! -x "${venv}/bin/python" ] || ! "${venv}/bin/python" -m pip --version > /dev/null 2>&1; then
    make_environment
fi
check_version "${venv}/bin/python"
have=$(version_of "${venv}/bin/python")
if [ -n "${PYTHON:-}" ] && [ "$(version_of "${PYTHON}")" != "${have}" ]; then
    fail "PYTHON=${PYTHON} is Python $(version_of "${PYTHON}"), but ${venv} has ${have}; \`make -C tools clean\` first," \
        "or name another VENV"
fi

# All that decides what is installed. The stamp is written last: an installation that was cut short is done again.
stamp=${venv}/.blspkd-installed
constraints=${constraints:+$(realpath "${constraints}")}  # pip starts in ${root}
[ -z "${constraints}" ] || [ -f "${constraints}" ] || fail "CONSTRAINTS=${CONSTRAINTS}: there is no such file"
deciding=("${root}/setup.py" "${root}/pyproject.toml" ${constraints:+"${constraints}"})
wanted="setup $(cat "${deciding[@]}" | cksum), torch ${torch_version:-newest}, extras ${extras}, ${root}"
if [ -f "${stamp}" ] && [ "$(cat "${stamp}")" = "${wanted}" ]; then
    exit 0
fi
rm -f "${stamp}"

if [ -n "${torch_version}" ]; then
    torch="torch==${torch_version}"
    got=$("${venv}/bin/python" -c 'import importlib.metadata as m; print(m.version("torch").partition("+")[0])' 2> /dev/null || true)
else
    torch="torch"
    got=
fi
if [ -z "${got}" ] || [ "${got}" != "${torch_version%%+*}" ]; then
    echo "installing ${torch}: 0.2 GB to download for a CPU build, about 3 GB for the build with NVIDIA's libraries," \
        "which pip prefers on Linux; one to several minutes"
    install --upgrade "${torch}"
fi
echo "installing blspkd[${extras}] and the packages it needs: about 0.2 GB to download; a minute or two"
cd "${root}"
if [ -n "${constraints}" ]; then
    install --constraint "${constraints}" --editable ".[${extras}]"
else  # the newest of everything, but torch stays
    "${venv}/bin/python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > "${venv}/.torch"
    install --upgrade --upgrade-strategy eager --constraint "${venv}/.torch" --editable ".[${extras}]"
fi
echo "${wanted}" > "${stamp}"
echo "the environment is ready: ${venv}"
