//! Why a media thread could not start, or had to end.

use std::io;
use thiserror::Error;

/// The oldest kernel with everything the media thread needs (DEFER_TASKRUN is what came last).
pub const KERNEL_FLOOR: &str = "6.1";

#[derive(Debug, Error)]
pub enum MediaError {
    #[error(
        "this kernel has no io_uring, or a seccomp filter forbids it; Linux {KERNEL_FLOOR} or newer is needed"
    )]
    Missing,
    #[error(
        "io_uring is disabled for this process: kernel.io_uring_disabled is {sysctl}, it must be 0"
    )]
    Disabled { sysctl: String },
    #[error("this kernel's io_uring has no {missing}; Linux {KERNEL_FLOOR} or newer is needed")]
    TooOld { missing: &'static str },
    #[error("no memory for the ring; where RLIMIT_MEMLOCK is in force it may be too low")]
    Memory,
    #[error("no socket may be opened: RLIMIT_NOFILE allows {limit} files")]
    Files { limit: u64 },
    #[error("{doing}: {error}")]
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl MediaError {
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> MediaError {
        move |error| MediaError::System { doing, error }
    }

    /// Names what a failed io_uring_setup(2) means.
    pub(super) fn setup(error: io::Error, sysctl: Option<String>) -> MediaError {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => MediaError::Missing,
            Some(libc::EPERM) => match sysctl {
                Some(sysctl) if sysctl != "0" => MediaError::Disabled { sysctl },
                // A seccomp filter, as container runtimes install.
                _ => MediaError::Missing,
            },
            Some(libc::EINVAL) => MediaError::TooOld {
                missing: "DEFER_TASKRUN",
            },
            Some(libc::ENOMEM) => MediaError::Memory,
            _ => MediaError::System {
                doing: "setting up io_uring",
                error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_setup_is_told_by_what_is_missing() {
        let text = |errno, sysctl: Option<&str>| {
            let error = io::Error::from_raw_os_error(errno);
            MediaError::setup(error, sysctl.map(str::to_owned)).to_string()
        };
        assert!(text(libc::ENOSYS, None).contains("has no io_uring"));
        assert!(text(libc::EPERM, Some("2")).contains("kernel.io_uring_disabled is 2"));
        assert!(text(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(text(libc::EPERM, None).contains("seccomp"));
        assert!(text(libc::EINVAL, None).contains("DEFER_TASKRUN"));
        assert!(text(libc::ENOMEM, None).contains("RLIMIT_MEMLOCK"));
        assert!(text(libc::EMFILE, None).contains("setting up io_uring"));
    }
}
