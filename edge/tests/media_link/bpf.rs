//! BPF programs that let everything pass, where bpf(2) attaches them.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// Where packets pass an interface (`BPF_TCX_*`, linux/bpf.h).
pub const TCX_INGRESS: u32 = 46;
pub const TCX_EGRESS: u32 = 47;
/// Where packets leave a socket of a control group.
pub const EGRESS_OF_GROUP: u32 = 1;

const SCHED_CLS: u32 = 3;
const CGROUP_SKB: u32 = 8;

/// A program where it was attached; taken off when dropped.
pub struct Attached {
    _link: OwnedFd,
}

impl Attached {
    pub fn to_interface(interface: u32, place: u32) -> io::Result<Attached> {
        const NEXT: i32 = -1;
        let program = load(SCHED_CLS, place, NEXT)?;
        Attached::link(&program, interface, place)
    }

    pub fn to_group(group: &Path, place: u32) -> io::Result<Attached> {
        const PASS: i32 = 1;
        let program = load(CGROUP_SKB, place, PASS)?;
        let group = std::fs::File::open(group)?;
        let group = group.as_raw_fd().cast_unsigned();
        Attached::link(&program, group, place)
    }

    fn link(program: &OwnedFd, target: u32, place: u32) -> io::Result<Attached> {
        let program = program.as_raw_fd().cast_unsigned();
        let mut attributes = [0; 32];
        attributes[..3].copy_from_slice(&[program, target, place]);
        Ok(Attached {
            _link: bpf(LINK_CREATE, &mut attributes)?,
        })
    }
}

/// A program that returns a number.
fn load(kind: u32, place: u32, answer: i32) -> io::Result<OwnedFd> {
    // r0 = answer; exit
    let [a0, a1, a2, a3] = answer.to_le_bytes();
    let code = [0xb7, 0, 0, 0, a0, a1, a2, a3, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let licence = c"Dual MIT/GPL";
    let words = |address: usize| [address as u32, (address as u64 >> 32) as u32];
    let mut attributes = [0; 32];
    attributes[0] = kind;
    attributes[1] = code.len() as u32 / 8;
    attributes[2..4].copy_from_slice(&words(code.as_ptr().addr()));
    attributes[4..6].copy_from_slice(&words(licence.as_ptr().addr()));
    // What expects to be attached there (expected_attach_type).
    attributes[17] = place;
    bpf(PROG_LOAD, &mut attributes)
}

fn bpf(command: libc::c_long, attributes: &mut [u32; 32]) -> io::Result<OwnedFd> {
    // SAFETY: what the attributes point to lives until the call returns, and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    match i32::try_from(result) {
        // SAFETY: it has just been made, and is nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
