#!/bin/sh
# A root of a few MiB (bash, busybox, an os-release), in a file system without partitions.
# Nothing can boot it; components run in it in the appliance.
#
# usage: tiny-base.sh FOLDER      makes FOLDER/tree and FOLDER/tiny.raw
set -eu
PATH=$PATH:/usr/sbin:/sbin
tree=$1/tree
mkdir -p "$tree"
cd "$tree"
mkdir -p bin dev etc proc root run sys tmp usr/sbin var/lib/dpkg
chmod 1777 tmp
printf 'ID=tiny\nVERSION_ID=1\nPRETTY_NAME="Tiny of the tests"\n' > etc/os-release
echo tiny-host > etc/hostname
: > etc/machine-id
echo root:x:0:0:root:/root:/bin/bash > etc/passwd
echo root:x:0: > etc/group
echo nameserver 192.0.2.1 > etc/resolv.conf
cp /bin/bash-static bin/bash
cp "$(command -v busybox)" bin/busybox
ln -s bash bin/sh
for applet in cat chroot dd grep head hostname id ls mkdir mkswap rm seq sleep swapon touch; do
    ln -s busybox bin/$applet
done
truncate -s 32M "$1/tiny.raw"
mke2fs -q -t ext4 -E root_owner=0:0 -d "$tree" "$1/tiny.raw"
