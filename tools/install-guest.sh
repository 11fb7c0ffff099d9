#!/bin/bash
# install-guest.sh: everything the guest suites (test/interop) need, unpacked into one folder; run again, it does nothing.
#
#   tools/install-guest.sh             install what is missing or out of date
#   tools/install-guest.sh --upgrade   fetch the newest packages and build again
#
# The folder is $NVMEFERRY_GUEST_HOME (default ~/.cache/nvmeferry-guest; about 1 GB, safe to delete or to keep in a CI
# cache). What ends up in it:
#
#   bin/             qemu-system-x86_64, qemu-img, tshark, dumpcap: wrappers that run the programs of host/
#   host/            QEMU 11 and tshark with the loader and libraries they were built for
#   guest/root.ext4  root file system of the test guest: nvme-cli, fio, tcpdump, node, and the modules of both kernels
#   guest/6.12/      vmlinux, initrd.cpio, config, version of the kernel of Debian 13 (the stable base)
#   guest/7.x/       the same of its newest backported kernel
#
# The packages come from the Debian mirror that apt already uses here, through a private set of apt lists; nothing is
# installed on this machine, and its own apt and dpkg state is only read. A kernel other than the newest can be named:
# NVMEFERRY_KERNEL_6_12=linux-image-6.12.48+deb13-cloud-amd64, likewise NVMEFERRY_KERNEL_7_X.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
GUEST_HOME=${NVMEFERRY_GUEST_HOME:-$HOME/.cache/nvmeferry-guest}
HOST_TREE=$GUEST_HOME/host
GUEST=$GUEST_HOME/guest
APT=$GUEST_HOME/apt
BUILD=$GUEST_HOME/build

# Run on this machine: the emulator, the dissector, and what building the guest takes.
HOST_PACKAGES=(
  base-files qemu-system-x86 qemu-utils tshark
  busybox-static e2fsprogs kmod xz-utils zstd
)

# Run in the guest.
GUEST_PACKAGES=(
  # a small Debian
  base-files bash bsdextrautils coreutils debianutils diffutils findutils gawk grep gzip hostname kmod less libc-bin
  mount procps psmisc sed tar util-linux busybox-static
  # NVMe, block devices, file systems
  nvme-cli fio e2fsprogs xfsprogs gdisk parted pciutils udev nbd-client
  # network, TLS keys
  iproute2 iputils-ping ethtool nftables tcpdump openssl keyutils ktls-utils
  # the daemons that follow discovery services, and the message bus they live on (they bring a full python3)
  nvme-stas dbus
  # looking inside; the C++ library is for node
  jq strace python3-minimal libstdc++6
)

main() {
  local upgrade=no
  case "${1:-}" in
    '') ;;
    --upgrade) upgrade=yes ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
  command -v node > /dev/null || die 'node is needed: it goes into the guest'
  [ "$(dpkg --print-architecture)" = amd64 ] || die "the guest's QEMU is built for amd64, this machine is $(dpkg --print-architecture)"

  mkdir -p "$GUEST_HOME"
  exec 9> "$GUEST_HOME/.lock"
  flock 9 # two test runs may start this at once
  [ "$upgrade" = no ] || rm -f "$HOST_TREE/.stamp" "$GUEST/.stamp"

  local host_key guest_key
  host_key=$(stamp_key "${HOST_PACKAGES[@]}")
  guest_key=$(stamp_key "${GUEST_PACKAGES[@]}" "${NVMEFERRY_KERNEL_6_12:-}" "${NVMEFERRY_KERNEL_7_X:-}")
  if is_current "$HOST_TREE" "$host_key" && is_current "$GUEST" "$guest_key"; then
    log "up to date: $GUEST_HOME"
    return
  fi

  rm -rf "$BUILD"
  mkdir -p "$BUILD"
  set_up_apt
  is_current "$HOST_TREE" "$host_key" || install_host_tree "$host_key"
  is_current "$GUEST" "$guest_key" || build_guest "$guest_key"
  rm -rf "$BUILD"
  log "ready: $GUEST_HOME ($(du -sh "$GUEST_HOME" | cut -f1))"
}

log() { printf 'install-guest: [%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() { log "$*"; exit 1; }

# ---- stamps: a result is current when it was made by these scripts from these package names

stamp_key() { { cat "${BASH_SOURCE[0]}" "$HERE"/guest/*; printf '%s\n' "$@"; } | sha256sum | cut -c1-16; }
is_current() { [ -f "$1/.stamp" ] && [ "$(cat "$1/.stamp")" = "$2" ]; }

# replace_folder NEW OLD KEY: put a finished folder into its place, stamped
replace_folder() {
  echo "$3" > "$1/.stamp"
  [ ! -e "$2" ] || mv "$2" "$1.old"
  mv "$1" "$2"
  rm -rf "$1.old"
}

# ---- a private apt world: the newest Debian release whatever this machine runs, and an empty dpkg status, so that every
# ---- download is a complete set of dependencies. Proxies and credentials of this machine's own configuration apply.

set_up_apt() {
  local codename mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/$codename/main/binary-.*|\1|p" | sed -n 1p)
  [ -n "$mirror" ] || die "apt has no source of Debian $codename main: see sources.list(5)"
  [ -f "$keyring" ] || die "no $keyring: install the package debian-archive-keyring"

  mkdir -p "$APT/state/lists/partial" "$APT/cache/archives/partial" "$APT/log" "$APT/empty"
  : > "$APT/state/status"
  local suite
  for suite in trixie trixie-backports; do echo "deb [signed-by=$keyring] $mirror $suite main"; done > "$APT/sources.list"
  cat > "$APT/apt.conf" <<CONF
Dir::State "$APT/state";
Dir::State::status "$APT/state/status";
Dir::Cache "$APT/cache";
Dir::Log "$APT/log";
Dir::Etc::sourcelist "$APT/sources.list";
Dir::Etc::sourceparts "$APT/empty";
Dir::Etc::preferences "$APT/empty/preferences";
Dir::Etc::preferencesparts "$APT/empty";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Default-Release "trixie";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "5";
CONF
  log "package lists from apt's own mirror"
  private_apt apt-get -qq update
}

private_apt() { APT_CONFIG=$APT/apt.conf "$@"; }

# unpack_closure TREE RELEASE PACKAGE...: packages and all they depend on, unpacked; no maintainer script runs
unpack_closure() {
  local tree=$1 release=$2 archives=$BUILD/archives
  shift 2
  rm -rf "$archives"
  mkdir -p "$archives/partial" "$tree"
  private_apt apt-get -qq install --download-only --yes -t "$release" -o "Dir::Cache::archives=$archives" "$@" > /dev/null
  unpack_archives "$archives" "$tree"
  log "$(basename "$tree"): $(find "$archives" -name '*.deb' | wc -l) packages unpacked"
  rm -rf "$archives"
}

unpack_archives() {
  local archive
  # base-files first: it has the links (lib -> usr/lib) that the others unpack through
  for archive in "$1"/base-files_*.deb "$1"/*.deb; do
    [ ! -f "$archive" ] || dpkg-deb -x "$archive" "$2"
  done
}

# ---- host/ and bin/

install_host_tree() {
  local tree=$BUILD/host name
  unpack_closure "$tree" trixie-backports "${HOST_PACKAGES[@]}"
  rm -rf "$tree"/usr/share/{doc,man,info,locale}
  replace_folder "$tree" "$HOST_TREE" "$1"
  rm -rf "$GUEST_HOME/bin"
  mkdir -p "$GUEST_HOME/bin"
  install -m 755 "$HERE/guest/run-host-program" "$GUEST_HOME/bin/"
  for name in qemu-system-x86_64 qemu-img tshark dumpcap; do ln -s run-host-program "$GUEST_HOME/bin/$name"; done
  log "QEMU: $("$GUEST_HOME/bin/qemu-system-x86_64" --version | sed -n 1p)"
  log "tshark: $("$GUEST_HOME/bin/tshark" --version 2> /dev/null | sed -n 1p)"
}

# host_program NAME ARGUMENT...: a program of host/
host_program() { "$GUEST_HOME/bin/run-host-program" "$@"; }

# ---- guest/

build_guest() {
  local root=$BUILD/root out=$BUILD/guest
  mkdir -p "$out"
  unpack_closure "$root" trixie "${GUEST_PACKAGES[@]}"
  finish_root "$root"
  add_kernel 6.12 "${NVMEFERRY_KERNEL_6_12:-$(newest_kernel trixie)}" "$root" "$out"
  add_kernel 7.x "${NVMEFERRY_KERNEL_7_X:-$(newest_kernel trixie-backports)}" "$root" "$out"
  host_program mke2fs -q -t ext4 -O '^has_journal,^metadata_csum,^64bit' -m 0 -E lazy_itable_init=1,root_owner=0:0 \
    -d "$root" "$out/root.ext4" 1500M
  log "root file system: $(du -h "$out/root.ext4" | cut -f1) of $(du -h --apparent-size "$out/root.ext4" | cut -f1)"
  replace_folder "$out" "$GUEST" "$1"
}

# What maintainer scripts would have done, as far as the guest needs it, and our own programs.
finish_root() {
  local root=$1 uuid=6e766d65-6665-4272-8279-677565737430
  rm -rf "$root"/usr/share/{doc,locale,man,info,lintian,bug,zoneinfo,i18n,icons} "$root"/usr/lib/x86_64-linux-gnu/gconv "$root"/var/cache/*
  mkdir -p "$root"/{proc,sys,dev,run,tmp,mnt,root,etc/nvme,usr/local/bin}
  [ -e "$root/usr/bin/awk" ] || ln -s gawk "$root/usr/bin/awk"
  [ -e "$root/usr/bin/sh" ] || ln -s bash "$root/usr/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/bash\nmessagebus:x:100:100::/run/dbus:/usr/sbin/nologin\n' > "$root/etc/passwd"
  printf 'root:x:0:\ntty:x:5:\ndisk:x:6:\nmessagebus:x:100:\n' > "$root/etc/group"
  printf '127.0.0.1 localhost guest\n10.0.2.2 host\n' > "$root/etc/hosts"
  echo guest > "$root/etc/hostname"
  echo "nqn.2014-08.org.nvmexpress:uuid:$uuid" > "$root/etc/nvme/hostnqn"
  echo "$uuid" > "$root/etc/nvme/hostid"
  echo "${uuid//-/}" > "$root/etc/machine-id"
  install -m 755 "$HERE/guest/init" "$HERE/guest/agent" "$root/usr/local/bin/"
  install -m 755 "$(readlink -f "$(command -v node)")" "$root/usr/local/bin/node"
  compile_python "$root"
}

# Compiles all Python modules with the guest's own interpreter, on this machine: under emulation, compiling takes a daemon
# of nvme-stas minutes to start, every time, because no guest keeps what it writes.
compile_python() {
  local root=$1 lib=$1/usr/lib/x86_64-linux-gnu
  PYTHONHOME=$root/usr "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$root/usr/bin/python3" -s -S \
    -m compileall -q -s "$root" -p / --invalidation-mode unchecked-hash "$root"/usr/lib/python3*
}

# newest_kernel RELEASE: the package that the release's cloud kernel metapackage depends on
newest_kernel() {
  private_apt apt-cache show --no-all-versions "linux-image-cloud-amd64/$1" \
    | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | sed -n 1p
}

# add_kernel NAME PACKAGE ROOT OUT: modules into ROOT, kernel and initial file system into OUT/NAME
add_kernel() {
  local name=$1 package=$2 root=$3 out=$4/$1 tree=$BUILD/kernel archives=$BUILD/archives
  [ -n "$package" ] || die "no kernel package for $name"
  local version=${package#linux-image-}
  rm -rf "$tree" "$archives"
  mkdir -p "$tree/usr/lib" "$archives" "$out"
  ln -s usr/lib "$tree/lib"

  # newer kernels come in several packages
  local part packages=("$package")
  for part in base modules binary; do
    if private_apt apt-cache show "linux-$part-$version" > /dev/null 2>&1; then packages+=("linux-$part-$version"); fi
  done
  (cd "$archives" && private_apt apt-get -qq download "${packages[@]}")
  unpack_archives "$archives" "$tree"

  # uncompressed modules load faster under emulation
  local modules=$tree/usr/lib/modules/$version
  find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r "$GUEST_HOME/bin/run-host-program" xz -d
  mkdir -p "$root/usr/lib/modules"
  cp -a "$modules" "$root/usr/lib/modules/"
  rm -f "$root/usr/lib/modules/$version"/{vmlinuz,System.map,config}
  host_program depmod -b "$root" "$version"

  extract_vmlinux "$(find "$tree" -name 'vmlinuz*' -type f | sed -n 1p)" "$out/vmlinux"
  cp "$(find "$tree" \( -name config -o -name 'config-*' \) -type f | sed -n 1p)" "$out/config"
  echo "$version" > "$out/version"
  make_initrd "$root" "$version" "$out/initrd.cpio"
  log "kernel $name: $version"
  rm -rf "$tree" "$archives"
}

# extract_vmlinux BZIMAGE OUT: the ELF kernel inside. QEMU enters it directly, which spares every boot the decompression
# under emulation. Offsets: Documentation/arch/x86/boot.rst of Linux (setup_sects, payload_offset, payload_length).
extract_vmlinux() {
  local image=$1 out=$2 sectors offset length
  sectors=$(number_at "$image" 0x1f1 1)
  offset=$(((sectors + 1) * 512 + $(number_at "$image" 0x248 4)))
  length=$(($(number_at "$image" 0x24c 4) - 4)) # the last four bytes are the size of the result
  dd if="$image" of="$BUILD/payload" bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$length" status=none
  case $(number_at "$BUILD/payload" 0 4) in
    4247762216) host_program zstd -q -d -c "$BUILD/payload" > "$out" ;; # FD2FB528h, zstd's magic number
    *) host_program xz -q -d -c --single-stream < "$BUILD/payload" > "$out" ;;
  esac
  rm "$BUILD/payload"
}

number_at() { od -An "-tu$3" "-j$(($2))" "-N$3" "$1" | tr -d ' '; }

# make_initrd ROOT VERSION OUT: busybox, and the modules it takes to mount the root disk
make_initrd() {
  local root=$1 version=$2 out=$3 tree=$BUILD/initrd module
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,dev,modules,newroot}
  cp "$HOST_TREE/usr/bin/busybox" "$tree/bin/"
  ln -s busybox "$tree/bin/sh"
  host_program modprobe -d "$root" -S "$version" -a --show-depends virtio_blk ext4 \
    | sed -n 's/^insmod \([^ ]*\).*/\1/p' | while read -r module; do
      [ ! -e "$tree/modules/${module##*/}" ] || continue
      cp "$module" "$tree/modules/"
      echo "${module##*/}" >> "$tree/modules/order"
    done
  install -m 755 "$HERE/guest/initrd-init" "$tree/init"
  (cd "$tree" && find . | host_program busybox cpio -o -H newc > "$out" 2> /dev/null)
}

main "$@"
