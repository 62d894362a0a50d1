//! What somebody with bpftool could do to the daemon's attachments.

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use sip_edge::access::{OBJECT, PASS_PROGRAM, interface};

const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The program attached to an interface.
pub fn program(name: &str) -> Option<u32> {
    let found = interface::query(name).unwrap();
    found.native.or(found.generic)
}

/// The link that holds the program on an interface.
pub fn link(name: &str) -> u32 {
    let program = program(name).expect("a program is attached");
    let links = aya::programs::loaded_links().filter_map(Result::ok);
    let mut ours = links.filter(|link| link.program_id() == program);
    ours.next().expect("a link holds the program").id()
}

/// Takes the program off an interface, whoever attached it.
pub fn detach(name: &str) {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, link(name));
    bpf(BPF_LINK_DETACH, u32::try_from(fd).unwrap());
    // SAFETY: the descriptor was made above and is nobody else's.
    unsafe { libc::close(fd) };
    assert_eq!(program(name), None);
}

/// Somebody else's XDP program on an interface; taken off when dropped.
pub struct Occupied {
    program: u32,
    _ebpf: Ebpf,
}

impl Occupied {
    /// Puts a program on `name` that passes everything, and makes sure that it is there.
    pub fn new(name: &str, mode: XdpMode) -> Occupied {
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let pass: &mut Xdp = ebpf.program_mut(PASS_PROGRAM).unwrap().try_into().unwrap();
        pass.load().unwrap();
        pass.attach(name, mode).unwrap();
        let occupied = Occupied {
            program: pass.info().unwrap().id(),
            _ebpf: ebpf,
        };
        assert!(occupied.is_alone_on(name));
        occupied
    }

    /// Whether the interface runs this program and no other.
    pub fn is_alone_on(&self, name: &str) -> bool {
        let found = interface::query(name).unwrap();
        [found.native, found.generic]
            .into_iter()
            .flatten()
            .eq([self.program])
    }
}

fn bpf(command: libc::c_int, argument: u32) -> libc::c_int {
    let mut attributes = [0u32; 32];
    attributes[0] = argument;
    // SAFETY: both commands read the first word of the attributes and no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    assert!(
        result >= 0,
        "bpf({command}): {}",
        std::io::Error::last_os_error()
    );
    libc::c_int::try_from(result).unwrap()
}
