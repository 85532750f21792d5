//! `cargo bench --manifest-path bench/core/Cargo.toml [-- FILTER]`: measures the cases with criterion.

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edge_limiter_bench::Case;

/// The sizes with which a case is measured.
fn sizes(case: Case) -> &'static [u32] {
    match case {
        Case::SlidingAllowed | Case::SlidingDenied | Case::StateText => &[1, 15, 30, 60],
        Case::BucketAllowed | Case::BucketDenied | Case::FixedAllowed | Case::FixedDenied => &[1],
        Case::MemoryHeld
        | Case::MemoryEvicting
        | Case::MemoryExpiring
        | Case::Denial
        | Case::Gate => &[1, 100, 10_000, 200_000],
        Case::MemoryQuotas => &[1, 2, 4, 8],
        _ => &[1, 10, 100, 1000],
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this runs natively, and time is what it measures"
)]
fn core(criterion: &mut Criterion) {
    for case in Case::ALL {
        let mut group = criterion.benchmark_group(format!("{case:?}"));
        for size in sizes(case) {
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                let mut run = case.prepare(*size);
                bencher.iter_custom(|rounds| {
                    let started = Instant::now();
                    for part in (0..rounds).step_by(1 << 20) {
                        let rounds = (rounds - part).min(1 << 20);
                        std::hint::black_box(run(u32::try_from(rounds).unwrap_or(u32::MAX)));
                    }
                    started.elapsed()
                });
            });
        }
    }
}

criterion_group!(benches, core);
criterion_main!(benches);
