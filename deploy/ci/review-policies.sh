#!/usr/bin/env bash
# What CI runs on a change to a bundle, and what a reviewer reads.
#
#   review-policies.sh BASE [BUNDLE [RECORDS...]]
#
# BASE     the commit that the change is measured against: the target branch, or `HEAD^` after a merge
# BUNDLE   the folder of the bundle in this repository, `policies` where it is left out
# RECORDS  decision records of the last day, to be decided again; without any, nothing is replayed
#
# AUTHZ    how to call it, `authz` where it is not set. In a container:
#          AUTHZ="docker run --rm --network none -v $PWD:$PWD -v /tmp:/tmp -w $PWD --entrypoint authz IMAGE"
#
# Exit 0: a bundle that could go into force; what it changes is printed, for people to judge. Exit 1: it could not, or is not
# formatted. Exit 2: something could not run at all.
set -euo pipefail
read -ra authz <<<"${AUTHZ:-authz}"
base=${1:?expected the commit to compare with, such as origin/main}
bundle=${2:-policies}
records=("${@:3}")
[ -d "$bundle" ] || { echo "review-policies: $bundle: no such folder" >&2; exit 2; }

if ! git cat-file -e "$base:$bundle" 2>/dev/null; then
  git cat-file -e "$base^{commit}" || { echo "review-policies: $base: no such commit here: fetch it first" >&2; exit 2; }
  echo "$base has no $bundle: there is nothing to compare with"
  "${authz[@]}" check "$bundle"
  exec "${authz[@]}" fmt --check "$bundle"
fi

old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$base" "$bundle" | tar -x -C "$old"

# A review exits with 1 for whatever there is to look at, so the answer of CI is the check's own.
code=0
"${authz[@]}" review "$old/$bundle" "$bundle" ${records[@]+"${records[@]/#/--records=}"} || code=$?
[ "$code" -le 1 ] || exit 2
"${authz[@]}" check "$bundle" >/dev/null
"${authz[@]}" fmt --check "$bundle"
