#!/bin/bash
# install-bench.sh: the network-block servers and load generators that `npm run bench` measures beside nvmeferry; run
# again, it does nothing.
#
#   tools/install-bench.sh
#
# Packages of this machine's own Debian (or Ubuntu), by apt-get: needs root, or sudo. No service is started; the
# bench starts each server itself, on a loopback port, and stops it again.
set -euo pipefail

# program:package
PROGRAMS=(
  fio:fio                 # load generator, with its nbd engine (libnbd)
  qemu-nbd:qemu-utils     # NBD server
  nbdkit:nbdkit           # NBD server, memory plugin
  tgtd:tgt                # iSCSI target
  tgtadm:tgt
  iscsi-perf:libiscsi-bin # iSCSI load generator
  taskset:util-linux      # pins processes to cores
)

log() { printf 'install-bench: %s\n' "$*" >&2; }

main() {
  local entry missing=()
  for entry in "${PROGRAMS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" > /dev/null || missing+=("${entry#*:}")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    log 'up to date'
    return
  fi
  command -v apt-get > /dev/null || { log "no apt-get here; install by hand: ${missing[*]}"; exit 1; }
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || { log "not root, and no sudo: ask an administrator to install ${missing[*]}"; exit 1; }
    root=(sudo)
  fi
  log "installing ${missing[*]}"
  keep_services_down
  # lists that are there may do; fetch them only if they do not
  install_packages "${missing[@]}" || { "${root[@]}" apt-get -qq update && install_packages "${missing[@]}"; }
  log 'ready'
}

install_packages() {
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" > /dev/null
}

# Debian starts a package's daemon when it is installed unless this file says no; the tgt package has one.
keep_services_down() {
  local policy=/usr/sbin/policy-rc.d
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" > /dev/null
  "${root[@]}" chmod 755 "$policy"
  # shellcheck disable=SC2064
  trap "${root[*]} rm -f $policy" EXIT
}

main "$@"
