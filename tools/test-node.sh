#!/usr/bin/env bash
# test-node.sh VERSION...: `npm ci`, the demo and the tests of the last commit with other versions of Node (tools/test-node.sh 22 24), which come
# as npm packages with their headers. In a clone that is removed again; exit status 1 if anything fails.
set -uo pipefail
if [ $# -eq 0 ]; then
  echo 'test-node.sh: which versions of Node? e.g. tools/test-node.sh 22 24' >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
case $(uname -m) in
  x86_64) arch=x64 ;;
  aarch64) arch=arm64 ;;
  *)
    echo "test-node.sh: no Node comes as a package for $(uname -m)" >&2
    exit 2
    ;;
esac
folder=$(mktemp -d)
chmod 755 "$folder" # a test runs the command as somebody else
trap 'rm -rf "$folder"' EXIT
failed=0

# with VERSION: in a clone of its own, with that Node in front
with() {
  local node=$folder/$1/node/node_modules/node-linux-$arch
  npm install --silent --prefix "$folder/$1/node" "node-linux-$arch@$1" || return 1
  git clone --quiet "$root" "$folder/$1/clone" && cd "$folder/$1/clone" || return 1
  export PATH=$node/bin:$PATH npm_config_nodedir=$node
  printf '==== Node %s\n' "$(node --version)"
  npm ci --no-audit --no-fund && npm run --silent demo && npm test
}

for version in "$@"; do
  (with "$version") || {
    printf '==== Node %s FAILED\n' "$version"
    failed=1
  }
done
exit $failed
