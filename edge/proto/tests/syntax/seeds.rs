//! The fuzz seeds, found failures among them, without a fuzzer.

use crate::fuzz;
use std::path::Path;

type Target = fn(&[u8]);

#[test]
fn every_seed_holds() {
    let targets: [(&str, Target); 3] = [
        ("message", fuzz::message),
        ("uri", fuzz::uri),
        ("name_addr", fuzz::name_addr),
    ];
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    for (name, target) in targets {
        let mut files: Vec<_> = std::fs::read_dir(seeds.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(files.len() >= 10, "{name} lost its seeds");
        for file in files {
            eprintln!("{}", file.display()); // shown for the one that fails
            target(&std::fs::read(&file).unwrap());
        }
    }
}
