//! Which CPUs the edge runs on, and what the process may have open.

use crate::config::Cores;
use edge_proto::id::CoreId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Why the configured cores cannot be used.
#[derive(thiserror::Error, PartialEq, Eq, Debug)]
pub enum CoresError {
    #[error("edge.cores: CPU {cpu} is not one that this process may run on ({available})")]
    NotAvailable { cpu: usize, available: String },
    #[error(
        "edge.cores: {wanted} cores, at most {} can be used",
        CoreId::MAX_CORES
    )]
    TooMany { wanted: usize },
    #[error("cannot find out which CPUs this process may run on: {0}")]
    Unknown(String),
}

/// The CPUs of the edge's cores: [`CoreId`] n is pinned to the n-th. Never empty.
pub fn cpus(cores: &Cores) -> Result<Vec<usize>, CoresError> {
    let allowed =
        sched_getaffinity(None).map_err(|error| CoresError::Unknown(error.to_string()))?;
    let available: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    choose(cores, &available)
}

fn choose(cores: &Cores, available: &[usize]) -> Result<Vec<usize>, CoresError> {
    let most = usize::from(CoreId::MAX_CORES);
    match cores {
        Cores::Auto => Ok(available.iter().copied().take(most).collect()),
        Cores::List(list) if list.len() > most => Err(CoresError::TooMany { wanted: list.len() }),
        Cores::List(list) => match list.iter().find(|cpu| !available.contains(cpu)) {
            None => Ok(list.clone()),
            Some(&cpu) => Err(CoresError::NotAvailable {
                cpu,
                available: available
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        },
    }
}

/// Keeps the calling thread on one CPU. A failure costs speed, not correctness.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the limit of open files to what the process may have; returns it (`None`: unlimited).
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(limit.maximum)
}

/// Keeps the kernel from joining this process's pages into huge ones. The allocator asks for those, and where calls have ended the
/// kernel would fill with them, minutes later, the holes that it gave back: memory would not return to what it was.
pub fn keep_pages_small() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_those_the_process_may_use() {
        assert_eq!(choose(&Cores::Auto, &[2, 3, 7]), Ok(vec![2, 3, 7]));
        assert_eq!(choose(&Cores::List(vec![7, 2]), &[2, 3, 7]), Ok(vec![7, 2]));
        let error = choose(&Cores::List(vec![2, 4]), &[2, 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "edge.cores: CPU 4 is not one that this process may run on (2, 3)"
        );
        let many: Vec<usize> = (0..100).collect();
        assert_eq!(choose(&Cores::Auto, &many).unwrap().len(), 64);
        assert_eq!(
            choose(&Cores::List(many.clone()), &many),
            Err(CoresError::TooMany { wanted: 100 })
        );
    }

    #[test]
    fn a_pinned_thread_stays_where_it_was_put() {
        let cpus = cpus(&Cores::Auto).unwrap();
        for cpu in cpus {
            let seen = std::thread::spawn(move || {
                pin(cpu).unwrap();
                rustix::thread::sched_getcpu()
            });
            assert_eq!(seen.join().unwrap(), cpu);
        }
    }

    #[test]
    fn the_limit_of_open_files_is_the_hard_one_afterwards() {
        let hard = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }

    #[test]
    fn pages_stay_small_in_the_whole_process() {
        keep_pages_small().unwrap();
        let seen = std::thread::spawn(rustix::thread::transparent_huge_pages_are_disabled);
        assert!(seen.join().unwrap().unwrap());
    }
}
