#!/usr/bin/env bash
# Make a new recipe: egs/TEMPLATE/blspkd1/setup.sh egs/mycorpus/blspkd1
# Then write local/data.sh there and start ./run.sh.
set -euo pipefail

die() { echo "setup.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: $0 RECIPE-DIR   (for example egs/mycorpus/blspkd1)"
case $1 in -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; -*) die "unknown option $1" ;; esac
[ ! -e "$1" ] || die "$1 is there already; remove it or choose another name"

template=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
root=$(cd "${template}/../../.." && pwd)
mkdir -p "$(dirname "$1")"
recipe=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir "${recipe}"

for shared in blspkd.sh path.sh utils; do
    case ${recipe} in
        "${root}"/*) ln -sr "${template}/${shared}" "${recipe}/${shared}" ;;  # moves with the repository
        *) ln -s "${template}/${shared}" "${recipe}/${shared}" ;;
    esac
done
cp "${template}"/{cmd.sh,db.sh,run.sh} "${recipe}"
cp -r "${template}"/{conf,local} "${recipe}"

echo "Made ${recipe}. Now
  1. write local/data.sh: it makes data/train, data/valid and data/test
  2. choose the models and the names of the sets in run.sh, the tasks in conf/decode.yaml
  3. ./run.sh"
