//! The inner parts in nanoseconds, by criterion: the cases of `meridian-bench instructions`. Times are of this machine at
//! this hour; what is recorded and compared in review are instructions.

use std::time::Duration;

use criterion::Criterion;
use meridian_bench::instructions;

/// Samples of a case. Cases that need a state to work on make it for each sample.
const SAMPLES: usize = 20;
const WARM_UP: Duration = Duration::from_millis(300);
const LENGTH: Duration = Duration::from_secs(1);

fn main() {
    let criterion = Criterion::default().sample_size(SAMPLES).warm_up_time(WARM_UP).measurement_time(LENGTH);
    let mut criterion = criterion.configure_from_args();
    for case in instructions::cases() {
        let timed = |times| match instructions::time(&case, times) {
            Ok(spent) => spent,
            Err(why) => panic!("{} failed: {why}", case.name),
        };
        criterion.bench_function(case.name, |bencher| bencher.iter_custom(timed));
    }
    criterion.final_summary();
}
