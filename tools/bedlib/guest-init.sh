#!/bin/bash
# First process of a guest after the RAM disk: mounts, network, SoftRoCE, SSH, the agent.
# The bed's folder is at /run/bed; `node` comes from the kernel's command line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/home/root LANG=C.UTF-8
# checkout, build, data_net, management_net
. /run/bed/settings

fail() {
  echo "starling-bed: failed: $*" >/dev/console
  sleep 1
  echo o >/proc/sysrq-trigger
  sleep 60
}

mount -t tmpfs -o mode=1777,size=80% tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 none /sys/fs/cgroup || fail "mounting cgroup2"
for controller in cpuset cpu io memory pids; do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || fail "controller $controller"
done
mount -t tracefs none /sys/kernel/tracing 2>/dev/null
ulimit -l unlimited
# As systemd has it. A high soft limit is dear: dropbear closes every number below it.
ulimit -Hn 524288
ulimit -Sn 1024

hostname "node$node"
echo "node$node" >/etc/hostname
cp /run/bed/hosts /etc/hosts
grep -q '^starling:' /etc/group || echo 'starling:x:980:' >>/etc/group
# The host's root has settings of its own (a .bashrc that takes seconds, say): not for guests.
sed -i "s|^root:.*|root:x:0:0:root:$HOME:/bin/sh|" /etc/passwd
# Kernel modules that something asks for later, on their usual path.
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/$(uname -r)"

# The checkout at its own path, wherever that is (it may lie below one of the mounts above).
mkdir -p "$checkout"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap,ro checkout "$checkout" ||
  fail "mounting the checkout"
mkdir -p /shared /var/lib/starling /var/log/starling
mount -t virtiofs shared /shared || fail "mounting the shared folder"
mount -t ext4 /dev/vda /var/lib/starling || fail "mounting the node's disk"

name_device() { # MAC NAME
  local path current
  for path in /sys/class/net/*; do
    current=${path##*/}
    [[ $(<"$path/address") == "$1" && $current != lo ]] || continue
    [[ $current == "$2" ]] || ip link set "$current" name "$2"
    return
  done
  fail "no network device has the address $1"
}
name_device "$(printf '52:54:00:77:00:%02x' "$node")" eth0
name_device "$(printf '52:54:00:78:00:%02x' "$node")" mgmt0
ip link set lo up
ip addr add "$data_net.$node/24" brd + dev eth0
ip link set eth0 mtu 9000 up
ip addr add "$management_net.$node/24" brd + dev mgmt0
ip link set mgmt0 up
rdma link add rxe0 type rxe netdev eth0 || fail "adding rxe0"

mkdir -p "$HOME/.ssh" /etc/starling
cp /run/bed/authorized_keys "$HOME/.ssh/authorized_keys"
chmod -R go= "$HOME"
cat >/etc/bed-environment <<ENVIRONMENT
export PATH=$build/bin:$PATH HOME=$HOME LANG=C.UTF-8 STARLING_BED=1
ulimit -l unlimited
ENVIRONMENT
cp "/run/bed/node$node.toml" /etc/starling/starlingd.toml
if [ -e "/run/bed/node$node.crt" ]; then
  cp /run/bed/authority.crt "/run/bed/node$node.crt" /etc/starling/
  install -m 600 "/run/bed/node$node.key" /etc/starling/
fi

dropbear -E -s -m -P /run/dropbear.pid -r /run/bed/host_key -p "$management_net.$node:22" ||
  fail "starting SSH"
mkdir /run/bed-agent
mkfifo /run/bed-agent/wake
echo "$build/bin/starlingd" >/run/bed-agent/program
setsid bash /run/bed/supervisor.sh </dev/null >>/var/log/starling/supervisor.log 2>&1 &
# A node is up when its agent answers; one that does not start is for its log to explain.
if [[ -x $build/bin/starlingd ]]; then
  for ((i = 0; i < 300; i++)); do
    [[ -S /run/starling/starlingd.sock ]] && break
    sleep 0.1
  done
fi
echo "starling-bed: ready" >/dev/console

# This process only has to reap from here on.
while :; do
  sleep infinity &
  wait $!
done
