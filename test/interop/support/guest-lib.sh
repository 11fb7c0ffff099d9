# Shell functions for scripts that run in the guest (guest-vm.ts puts this file there).

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "gave up waiting for: $*" >&2
      return 1
    fi
    sleep 0.1
  done
}

# says FILE TEXT: the first line of the file is that. No process is started: under emulation that takes as long as all the rest.
says() {
  local line
  read -r line 2> /dev/null < "$1" && [ "$line" = "$2" ]
}

# quietly COMMAND...: what it says is for whoever reads the failure
quietly() {
  local said
  said=$("$@" 2>&1) || {
    local status=$?
    printf '%s\n' "exit status $status of: $*" "$said" >&2
    return $status
  }
}

# ---- the Linux host

# controllers_of NQN: names of its controllers, such as nvme0
controllers_of() {
  local folder
  for folder in /sys/class/nvme/*; do
    if says "$folder/subsysnqn" "$1"; then echo "${folder##*/}"; fi
  done
}

# namespace_of NQN NSID: its block device. /dev/nvmeXnY is not the NSID; nvmeXcYnZ is one path of a shared namespace.
namespace_of() {
  local folder
  for folder in /sys/class/block/nvme*n*; do
    case ${folder##*/} in *c*n* | *p*) continue ;; esac
    if says "$folder/nsid" "$2" && says "$folder/device/subsysnqn" "$1"; then
      echo "/dev/${folder##*/}"
      return 0
    fi
  done
  return 1
}

has_namespace() { [ -b "$(namespace_of "$1" "$2" 2> /dev/null)" ]; }

# connect_to ADDRESS PORT NQN [OPTION...]: nvme connect with patient time-outs, until namespace 1 is there; prints its device
connect_to() {
  local address=$1 port=$2 nqn=$3
  shift 3
  modprobe nvme-tcp
  quietly nvme connect -t tcp -a "$address" -s "$port" -n "$nqn" --keep-alive-tmo=30 --reconnect-delay=1 --ctrl-loss-tmo=120 "$@"
  wait_for 90 has_namespace "$nqn" 1
  namespace_of "$nqn" 1
}

# add_controller ADDRESS PORT NQN [OPTION...]: connects by the kernel's own interface; OPTIONs are the kernel's, such as hdr_digest. nvme connect
# first looks at every controller that there is, and can fail for one that goes meanwhile: where several come and go at once it is no use.
add_controller() {
  local options="transport=tcp,traddr=$1,trsvcid=$2,nqn=$3,hostnqn=$(< /etc/nvme/hostnqn),hostid=$(< /etc/nvme/hostid)" option
  shift 3
  for option; do options+=,$option; done
  printf '%s' "$options" > /dev/nvme-fabrics
}

# remove_controllers NQN: disconnects in the same way. One that goes by itself meanwhile is as good.
remove_controllers() {
  local name
  for name in $(controllers_of "$1"); do { echo 1 > "/sys/class/nvme/$name/delete_controller"; } 2> /dev/null || true; done
  wait_for 90 no_controllers "$1"
}

no_controllers() { [ -z "$(controllers_of "$1")" ]; }

disconnect_from() {
  quietly nvme disconnect -n "$1"
  wait_for 90 no_controllers "$1"
}

all_live() {
  local name
  [ -n "$(controllers_of "$1")" ] || return 1
  for name in $(controllers_of "$1"); do says "/sys/class/nvme/$name/state" live || return 1; done
}

# ---- the Linux target

nvmet=/sys/kernel/config/nvmet

# nvmet_subsystem NQN DEVICE...: a subsystem for any host whose namespaces 1, 2, ... are these block devices
nvmet_subsystem() {
  local folder=$nvmet/subsystems/$1 device nsid=0
  shift
  modprobe -a nvmet nvmet-tcp
  mkdir -p "$folder"
  echo 1 > "$folder/attr_allow_any_host"
  for device; do
    nsid=$((nsid + 1))
    mkdir -p "$folder/namespaces/$nsid"
    echo -n "$device" > "$folder/namespaces/$nsid/device_path"
    echo 1 > "$folder/namespaces/$nsid/enable"
  done
}

# nvmet_passthru NQN CONTROLLER: a subsystem that hands its commands to a local controller, such as /dev/nvme0
nvmet_passthru() {
  local folder=$nvmet/subsystems/$1
  modprobe -a nvmet nvmet-tcp
  mkdir -p "$folder"
  echo 1 > "$folder/attr_allow_any_host"
  echo -n "$2" > "$folder/passthru/device_path"
  echo 1 > "$folder/passthru/enable"
}

# nvmet_port ID ADDRESS PORT NQN...: listen there for these subsystems
nvmet_port() {
  local folder=$nvmet/ports/$1 nqn
  mkdir -p "$folder"
  echo tcp > "$folder/addr_trtype"
  echo ipv4 > "$folder/addr_adrfam"
  echo "$2" > "$folder/addr_traddr"
  echo "$3" > "$folder/addr_trsvcid"
  shift 3
  for nqn; do ln -s "$nvmet/subsystems/$nqn" "$folder/subsystems/$nqn"; done
}

# nvmet_referral ID NAME ADDRESS PORT: a referral in the discovery log of port ID
nvmet_referral() {
  local folder=$nvmet/ports/$1/referrals/$2
  mkdir -p "$folder"
  echo tcp > "$folder/addr_trtype"
  echo ipv4 > "$folder/addr_adrfam"
  echo "$3" > "$folder/addr_traddr"
  echo "$4" > "$folder/addr_trsvcid"
  echo 1 > "$folder/enable"
}

# ---- discovery

# nvme_udevd: the device manager
nvme_udevd() {
  [ ! -e /run/udev/control ] || return 0
  /usr/lib/systemd/systemd-udevd --daemon
  wait_for 90 test -e /run/udev/control
}

discovery_controller() {
  local folder
  for folder in /sys/class/nvme/*; do
    if says "$folder/cntrltype" discovery; then echo "${folder##*/}"; fi
  done
}

discovery_controller_nqn() { cat "/sys/class/nvme/$(discovery_controller)/subsysnqn"; }

# start_stas ADDRESS PORT: nvme-stas' two daemons, following that Discovery controller. They say what they do in /run/sta?d.log.
start_stas() {
  mkdir -p /run/dbus /var/lib/dbus /etc/stas /run/stafd /run/stacd
  cp /etc/machine-id /var/lib/dbus/
  [ -e /run/dbus/system_bus_socket ] || dbus-daemon --system --fork
  printf '[Host]\nnqn=file:///etc/nvme/hostnqn\nid=file:///etc/nvme/hostid\n' > /etc/stas/sys.conf
  # where no multicast DNS daemon is; every other setting is the default
  printf '[Service Discovery]\nzeroconf=disabled\n[Controllers]\ncontroller=transport=tcp;traddr=%s;trsvcid=%s\n' "$1" "$2" > /etc/stas/stafd.conf
  local daemon
  for daemon in stafd stacd; do
    PYTHONUNBUFFERED=1 nohup "$daemon" -f "/etc/stas/$daemon.conf" > "/run/$daemon.log" 2>&1 &
    echo $! > "/run/$daemon.pid"
  done
}

stop_stas() {
  local daemon
  for daemon in stacd stafd; do
    kill "$(cat "/run/$daemon.pid")"
    wait_for 90 process_ended "$(cat "/run/$daemon.pid")"
  done
}

process_ended() { [ ! -e "/proc/$1" ]; }
