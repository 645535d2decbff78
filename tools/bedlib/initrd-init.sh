#!/bin/busybox sh
# First process of a guest: loads modules, mounts the host's userland, hands over to guest-init.sh.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev

trial=
for word in $($B cat /proc/cmdline); do
  case $word in
    starling.trial) trial=1 ;;
    starling.node=*) node=${word#*=} ;;
  esac
done

while read -r module; do
  $B insmod "/modules/$module" || echo "starling-bed: cannot load $module"
done </modules/order

if [ -n "$trial" ]; then
  echo "starling-bed: trial passed"
  $B poweroff -f
fi

fail() {
  echo "starling-bed: failed: $*"
  $B sleep 1
  $B poweroff -f
}

# 9p's loose cache is right for the host's userland, which does not change under a running bed.
nine=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o "$nine,cache=loose,ro" host /lower || fail "mounting the host's userland"
$B mount -t tmpfs -o size=90% tmpfs /upper
$B mkdir -p /upper/u /upper/w
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay /newroot ||
  fail "mounting the overlay"
for folder in proc sys dev; do
  $B mkdir -p "/newroot/$folder"
  $B mount --move "/$folder" "/newroot/$folder"
done
$B mkdir -p /newroot/run /newroot/tmp
$B mount -t tmpfs -o mode=755 tmpfs /newroot/run
$B mkdir /newroot/run/bed
$B mount -t 9p -o "$nine,ro" bed /newroot/run/bed || fail "mounting the bed's folder"
export node
exec $B switch_root /newroot /bin/bash /run/bed/guest-init.sh
