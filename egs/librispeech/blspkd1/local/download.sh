#!/usr/bin/env bash
# Fetch parts of LibriSpeech from openslr.org (resource 12, CC BY 4.0, see LICENSE.TXT there), check and unpack them:
#   local/download.sh [--url URL] downloads/LibriSpeech dev-clean test-clean
# Makes <folder>/<part>. A part that is there is left alone, and a fetch that was interrupted continues.
set -euo pipefail

url=https://www.openslr.org/resources/12  # folder of the archives

. utils/log.sh
. utils/parse_options.sh
[ $# -ge 2 ] || die "usage: local/download.sh [--url URL] FOLDER PART ..."

declare -A mb=([dev-clean]=337 [dev-other]=314 [test-clean]=346 [test-other]=328
               [train-clean-100]=6390 [train-clean-360]=23100 [train-other-500]=30600)  # of the archive, rounded
checksums=$(realpath local/md5sum.txt)  # the official ones
mkdir -p "$1"
cd "$1"
shift

whole() {  # PART: is its archive here, byte for byte?
    [ -f "$1.tar.gz" ] && grep " $1.tar.gz\$" "${checksums}" | md5sum --check --status
}

missing=()
needed=0 largest=0  # MB; every archive goes when it is unpacked
for part in "$@"; do
    [ -n "${mb[${part}]:-}" ] || die "LibriSpeech has no part '${part}'; its parts are ${!mb[*]}"
    if [ -d "${part}" ]; then continue; fi
    missing+=("${part}")
    have=$(stat -c %s "${part}.tar.gz" 2> /dev/null || echo 0)
    needed=$((needed + mb[${part}] - have / 1000000))
    largest=$((mb[${part}] > largest ? mb[${part}] : largest))
done
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
needed=$(((needed + largest) * 21 / 20))
free=$(df -P -B 1000000 . | awk 'NR == 2 { print $4 }')
echo "to fetch: ${missing[*]}; this needs ${needed} MB in ${PWD}, where ${free} MB are free"
((free >= needed)) || die "${PWD}: ${free} MB are free, and ${needed} MB are needed; free some space, choose another" \
    "folder (LIBRISPEECH in db.sh), or fewer parts (local/data.sh --help)"

for part in "${missing[@]}"; do
    archive=${part}.tar.gz
    whole "${part}" || wget --continue --tries 5 --timeout 60 --progress bar:force:noscroll "${url}/${archive}" ||
        die "${url}/${archive}: cannot be fetched (see above); start the same command again to continue, or name a" \
            "mirror (--local_data_opts \"--download true --url URL\")"
    whole "${part}" || die "${PWD}/${archive}: is not the official archive (its MD5 sum differs from" \
        "local/md5sum.txt); remove it and start the same command again"
    echo "${part}: fetched and checked; unpacking"
    unpacked=.unpack-${part}
    rm -rf "${unpacked}"
    mkdir "${unpacked}"
    tar -xzf "${archive}" -C "${unpacked}" || die "${PWD}/${archive}: cannot be unpacked, see above; start the same" \
        "command again"
    mv "${unpacked}"/LibriSpeech/* .  # the part, licence, readers, books
    rm -r "${unpacked}" "${archive}"
done
