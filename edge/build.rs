//! Compiles the BPF programs of `ebpf/` with clang into objects that the crate embeds.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each becomes an object of its own.
const PROGRAMS: [&str; 2] = ["access.bpf", "steer.bpf"];
const HEADERS: [&str; 2] = ["parse.h", "layout.h"];
const PACKAGES: &str = "on Debian and Ubuntu: apt install clang libbpf-dev linux-libc-dev\n\
    on Fedora: dnf install clang libbpf-devel kernel-headers";

fn main() {
    println!("cargo:rerun-if-env-changed=CLANG");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let ebpf = manifest.join("../ebpf");
    for header in HEADERS {
        println!("cargo:rerun-if-changed={}", ebpf.join(header).display());
    }
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    for program in PROGRAMS {
        let source = ebpf.join(program).with_added_extension("c");
        println!("cargo:rerun-if-changed={}", source.display());
        let object = out.join(program).with_added_extension("o");
        if let Err(fault) = compile(&clang, &ebpf, &source, &object) {
            eprintln!("error: {fault}");
            std::process::exit(1);
        }
    }
}

fn compile(clang: &str, ebpf: &Path, source: &Path, object: &Path) -> Result<(), String> {
    let mut command = Command::new(clang);
    command
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror"])
        // The object is the same wherever the tree lies.
        .arg(format!("-ffile-prefix-map={}=ebpf", ebpf.display()))
        .arg("-fdebug-compilation-dir=.");
    // asm/types.h lies in a directory of its own where several architectures share a system.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let headers = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&headers).is_dir() {
        command.arg(format!("-I{headers}"));
    }
    command.arg("-c").arg(source).arg("-o").arg(object);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "{clang} could not compile {} ({status}); if it missed a header,\n{PACKAGES}",
            source.display()
        )),
        Err(fault) if fault.kind() == ErrorKind::NotFound => Err(format!(
            "{clang} is needed to compile the BPF programs in ebpf/ and is not installed;\n{PACKAGES}\n\
             (or name another clang in the environment variable CLANG)"
        )),
        Err(fault) => Err(format!("{clang} could not be run: {fault}")),
    }
}
