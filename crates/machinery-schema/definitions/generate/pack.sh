#!/bin/sh
# Packs OpenAPI documents, a file NAME.json each, into one archive: pack.sh DIRECTORY > ../openapi.zst
#
# A line each, the name before a tab; the smallest first, so that what is read most is found soon. Most of a document is in another as
# well: with a window over all of them they take a fifth of what they take one by one.
set -eu
cd "$1"
for file in $(ls -Sr -- *.json); do
    printf '%s\t' "${file%.json}"
    cat "$file"
    echo
done | zstd --ultra -22 --zstd=wlog=23 -c
