#!/bin/sh
# boot.sh ROOT: boots systemd in ROOT. Run it as process 1 of new pid, mount, network, IPC, UTS and cgroup namespaces.
set -eu
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf -o mode=0700
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p .outside
pivot_root . .outside
umount -l .outside
# systemd hands credentials over through mounts that it makes in namespaces of their own.
mount --make-rshared /
exec env -i container=smoke PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init systemd.unit=multi-user.target
