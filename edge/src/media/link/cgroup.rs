//! BPF programs that see what the sockets of a control group send (`BPF_CGROUP_INET_EGRESS`): they count it, or drop it, as systemd has them do
//! for `IPAccounting=` and `IPAddressDeny=` (systemd.resource-control(5)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// cgroups(7): where the thread is, and where that is mounted.
const MEMBERSHIP: &str = "/proc/thread-self/cgroup";
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// bpf(2).
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// The beginning of `union bpf_attr` for `BPF_PROG_QUERY` (linux/bpf.h).
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    /// Where the programs' numbers would be put; zero: nowhere.
    numbers: u64,
    count: u32,
    padding: u32,
}

/// How many programs see what a control group sends: its own, and those of the groups that it is in. Needs CAP_NET_ADMIN.
pub fn egress_programs(group: &Path) -> io::Result<u32> {
    let directory = File::open(group)?;
    let mut query = Query {
        target: directory.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_INET_EGRESS,
        flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        numbers: 0,
        count: 0,
        padding: 0,
    };
    // SAFETY: the kernel reads and writes the structure, whose size it is told, and no pointer in it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    match result {
        0 => Ok(query.count),
        _ => match io::Error::last_os_error() {
            // A kernel without (CONFIG_CGROUP_BPF).
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
            error => Err(error),
        },
    }
}

/// The control group of the calling thread, and so of the sockets that it makes. `None`: it is in none that may have programs, as before
/// version 2 of control groups.
pub fn own() -> io::Result<Option<PathBuf>> {
    let membership = std::fs::read(MEMBERSHIP)?;
    let Some(group) = group(&String::from_utf8_lossy(&membership)) else {
        return Ok(None);
    };
    let mounts = std::fs::read(MOUNTS)?;
    // One may be hidden below another.
    let directory = directories(&String::from_utf8_lossy(&mounts), &group).find(|one| one.is_dir());
    let why = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "its file system is not mounted here",
        )
    };
    directory.ok_or_else(why).map(Some)
}

/// The path of the group in the text of [`MEMBERSHIP`].
fn group(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(path))
}

/// Where a group is, or would be if nothing hid it, by the text of [`MOUNTS`] (proc(5)), which may show a part of the tree alone.
fn directories<'t>(text: &'t str, group: &'t Path) -> impl Iterator<Item = PathBuf> + 't {
    text.lines().filter_map(move |line| {
        let (mount, system) = line.split_once(" - ")?;
        if system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A group outside what is shown has no path that begins so.
        let inside = group.strip_prefix(root).ok()?;
        Some(Path::new(point).join(inside))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_group_is_found_where_it_is_mounted() {
        let group = |text: &str| group(text).map(|path| path.display().to_string());
        assert_eq!(group("0::/\n").as_deref(), Some("/"));
        let both = "4:memory:/a\n1:name=systemd:/b\n0::/system.slice/x.service\n";
        assert_eq!(group(both).as_deref(), Some("/system.slice/x.service"));
        assert_eq!(group("4:memory:/a\n"), None);
        assert_eq!(group(""), None);

        let mounts = "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
                      30 22 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let directory = |text: &str, group: &str| {
            let mut found = directories(text, Path::new(group));
            found.next().map(|path| path.display().to_string())
        };
        let found = directory(mounts, "/system.slice/x.service");
        assert_eq!(
            found.as_deref(),
            Some("/sys/fs/cgroup/system.slice/x.service")
        );
        assert_eq!(directory(mounts, "/").as_deref(), Some("/sys/fs/cgroup/"));
        // A container sees its own part.
        let part = mounts.replace("0:26 /", "0:26 /pod/one");
        assert_eq!(
            directory(&part, "/pod/one/x").as_deref(),
            Some("/sys/fs/cgroup/x")
        );
        assert_eq!(directory(&part, "/pod/two"), None);
        assert_eq!(directory("22 1 0:20 / /proc rw - proc proc rw", "/"), None);
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_files(text in ".{0,200}") {
            directories(&text, Path::new("/a")).for_each(drop);
            directories(&format!("1 2 0:1 {text} - cgroup2 x"), Path::new("/a")).for_each(drop);
            let _ = group(&text);
        }
    }
}
