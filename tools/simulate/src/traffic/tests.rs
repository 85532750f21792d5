use std::collections::HashMap;

use super::Traffic;

fn traffic() -> Traffic {
    Traffic {
        requests: 60_000,
        minutes: 6,
        callers: 500,
        hot: 4,
        edge: 2,
        spread: 1,
        floods: 1,
        regions: 3,
        isolates: 4,
        limit: 100,
        window: 60_000,
        seed: 5,
    }
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    let trace = traffic().trace().unwrap();
    assert_eq!(trace, traffic().trace().unwrap());
    let other = Traffic {
        seed: 6,
        ..traffic()
    };
    assert_ne!(trace, other.trace().unwrap());
}

#[test]
fn a_trace_has_the_requested_number_of_requests_sorted_by_arrival() {
    let trace = traffic().trace().unwrap();
    assert_eq!(trace.requests.len(), 60_000);
    assert!(trace.requests.is_sorted_by_key(|request| request.at));
    let span = trace.requests[59_999].at - trace.requests[0].at;
    assert!(span < 360_000);
    let mut per_region = [0; 3];
    let mut per_caller: HashMap<u32, u32> = HashMap::new();
    for request in &trace.requests {
        per_region[usize::from(request.region)] += 1;
        assert!(request.isolate < 4);
        *per_caller.entry(request.caller).or_default() += 1;
    }
    assert!(per_region[0] > per_region[1] && per_region[1] > per_region[2]);
    // Eight other callers come before the first ordinary one. By Zipf's law it sends twice as much as the second.
    let (first, second) = (per_caller[&8], per_caller[&9]);
    assert!(
        first > second * 3 / 2 && first < second * 3,
        "{first} and {second}"
    );
}

#[test]
fn too_few_requests_for_the_attackers_are_an_error() {
    let small = Traffic {
        requests: 100,
        ..traffic()
    };
    let failure = small.trace().unwrap_err();
    assert!(failure.0.contains("give more --requests"), "{failure}");
}
