mod handoff;

fn main() {}
