#!/bin/sh
# Init of the micro appliance: mount the disk, unpack the job, run its scripts in a chroot, power off.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /mnt
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /order); do $b insmod "/m/$m"; done
i=0
while [ ! -b /dev/vda1 ] && [ $i -lt 200 ]; do
  $b usleep 20000
  i=$((i + 1))
done
say() { echo "$*" > /dev/ttyS0; }
$b mount -t ext4 -o discard /dev/vda1 /mnt || say no root file system
$b mount -t proc proc /mnt/proc
$b mount --bind /dev /mnt/dev
$b mount -t sysfs sys /mnt/sys
$b mount -t tmpfs tmpfs /mnt/run
$b mount -t tmpfs tmpfs /mnt/tmp
$b ip link set lo up
$b mkdir -p /mnt/var/tmp/j
$b tar -C /mnt/var/tmp/j -xf /dev/vdb
if [ -d /mnt/var/tmp/j/tree ]; then
  $b mv /mnt/var/tmp/j/tree /mnt/opt/app
  $b mv /mnt/var/tmp/j/debs /mnt/var/tmp/debs
fi
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
printf '#!/bin/sh\nexit 101\n' > /mnt/usr/sbin/policy-rc.d
$b chmod 755 /mnt/usr/sbin/policy-rc.d
result=0
scripts=$($b sed -n 's/.*scripts=\([^ ]*\).*/\1/p' /proc/cmdline | $b tr , ' ')
for script in $scripts; do
  $b chroot /mnt /bin/bash /var/tmp/j/$script.sh > /log 2>&1 || {
    result=$script
    $b cat /log > /dev/ttyS0
    break
  }
done
$b rm -rf /mnt/var/tmp/j /mnt/usr/sbin/policy-rc.d
: > /mnt/etc/machine-id
for part in tmp run sys dev proc; do $b umount /mnt/$part; done
$b umount /mnt && say "RESULT $result"
$b poweroff -f
