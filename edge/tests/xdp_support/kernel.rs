//! The real program, run on one frame at a time with BPF_PROG_TEST_RUN.

use super::model::Verdict;
use aya::TestRunOptions;
use aya::programs::TestRun as _;
use edge_proto::config::Config;
use sip_edge::access::{CounterRows, Filter, MediaGuard, Reason, Tables};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

pub struct Kernel {
    pub filter: Filter,
    pub guard: MediaGuard,
    rows: CounterRows,
    counted: Vec<u64>,
}

impl Kernel {
    pub fn load(config: &Config) -> Kernel {
        let mut rows = CounterRows::new();
        let tables = Tables::build(config, &config.media, &mut rows).unwrap();
        let mut filter = Filter::load(&tables).unwrap_or_else(|e| panic!("{e}: {e:?}"));
        filter.switch(&tables).unwrap();
        let guard = filter.media_guard().unwrap();
        let mut kernel = Kernel {
            filter,
            guard,
            rows,
            counted: Vec::new(),
        };
        kernel.counted = kernel.counters();
        kernel
    }

    pub fn apply(&mut self, config: &Config) {
        let tables = Tables::build(config, &config.media, &mut self.rows).unwrap();
        self.filter.switch(&tables).unwrap();
        self.counted = self.counters();
    }

    /// What the program does with `frame`, and what it counts: exactly one drop where it drops, nothing where it passes.
    pub fn verdict(&mut self, frame: &[u8]) -> Verdict {
        let program = self.filter.program().unwrap();
        let run = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ..TestRunOptions::new()
            })
            .unwrap();
        match run.return_value {
            // Had it been counted, the next drop would show two.
            XDP_PASS => Verdict::Pass,
            XDP_DROP => {
                let (row, reason) = self.counted_once();
                Verdict::Drop(self.rows.names()[row].clone(), reason)
            }
            other => panic!("no verdict of the program's: {other}"),
        }
    }

    /// The one counter that went up by one since the last time.
    fn counted_once(&mut self) -> (usize, Reason) {
        let counted = self.counters();
        let before = std::mem::replace(&mut self.counted, counted);
        let changes: Vec<_> = before
            .iter()
            .zip(&self.counted)
            .enumerate()
            .filter(|(_, (before, after))| before != after)
            .collect();
        let [(at, (before, after))] = changes.as_slice() else {
            panic!("one drop changed the counters {changes:?}");
        };
        assert_eq!(*after - *before, 1);
        (at / Reason::ALL.len(), Reason::ALL[at % Reason::ALL.len()])
    }

    fn counters(&self) -> Vec<u64> {
        let rows = 0..u32::try_from(self.rows.names().len()).unwrap();
        rows.flat_map(|row| Reason::ALL.map(|reason| self.filter.drops(row, reason).unwrap()))
            .collect()
    }
}
