#!/bin/bash
# prebuild.sh: prebuilt addons for packages, into native/prebuilds, where node-gyp-build finds them. Each is loaded once before it counts.
#
#   tools/prebuild.sh          for this machine: its architecture and C library
#   tools/prebuild.sh --all    x64 and arm64, glibc and musl, each in a container; needs docker, and binfmt for the architecture that this is not
#
# One file serves every Node from 20.19 on (Node-API 8). A glibc build runs on that glibc and newer ones, so it is made on an old one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# platform, image (a pinned Node with npm), what it takes to build there
MATRIX=(
  'linux/amd64 node:20-bullseye true'
  'linux/arm64 node:20-bullseye true'
  'linux/amd64 node:20-alpine apk add --no-cache bash g++ make python3'
  'linux/arm64 node:20-alpine apk add --no-cache bash g++ make python3'
)

# prebuilds live beside a build of this machine, which the tool would delete
here() {
  local copy
  copy=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$copy'" EXIT
  cp -r package.json native dist "$copy"
  rm -rf "$copy/native/build" "$copy/native/prebuilds"
  ln -s "$PWD/node_modules" "$copy/node_modules"
  (
    cd "$copy"
    headers=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
    # headers that came with this Node need no download
    if [ -f "$headers/include/node/node_api.h" ]; then export npm_config_nodedir=$headers; fi
    npm run --silent prebuildify
    rm -rf native/build
    node --input-type=module -e "
      const { nativeBinding, nativeMissingReason } = await import('$copy/dist/native/load.js');
      if (nativeBinding() === undefined) throw new Error(nativeMissingReason());"
  )
  mkdir -p native/prebuilds
  cp -r "$copy/native/prebuilds/." native/prebuilds/
  find native/prebuilds -name '*.node'
}

in_container() {
  local platform=$1 image=$2
  shift 2
  # the checkout stays as it is: a container has modules for its own platform
  docker run --rm --platform "$platform" -v "$PWD:/source:ro" -v "$PWD/native/prebuilds:/prebuilds" "$image" sh -euc "
    $*
    mkdir /build && cd /source
    tar -c --exclude=node_modules --exclude=native/build --exclude=.git --exclude=.cache . | tar -x -C /build
    cd /build
    npm ci --no-audit --no-fund
    bash tools/prebuild.sh
    cp -r native/prebuilds/. /prebuilds/"
}

case "${1:-}" in
  '') [ -f dist/native/load.js ] || npm run --silent build; here ;;
  --all)
    mkdir -p native/prebuilds
    for entry in "${MATRIX[@]}"; do
      # shellcheck disable=SC2086
      in_container $entry
    done
    find native/prebuilds -name '*.node'
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
