# Become the command in a mount namespace of its own: launch ROOT ours|new COMMAND...
# With a ROOT, that is what is found at /, and nothing of our file system is left but /proc (ours, or new for a new pid
# namespace) and /dev.
set -e
root=$1 procfs=$2
shift 2
mount --make-rprivate /
if [ -z "$root" ]; then
	mount -t proc proc /proc
	exec "$@"
fi
mount --rbind "$root" "$root"
if [ "$procfs" = new ]; then
	mount -t proc proc "$root/proc"
else
	mount --rbind /proc "$root/proc"
fi
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
# The old root ends up mounted over the new one, and is taken away there.
pivot_root . .
umount -l .
cd /
exec "$@"
