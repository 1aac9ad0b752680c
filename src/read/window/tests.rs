//! What the window promises, read by read; and against a simulated server.
#![allow(clippy::single_range_in_vec_init)] // plans of one range

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const WINDOW_MAX: u64 = 64 * MIB;

/// Reads at the same instant.
fn read(window: &mut Window, range: Range<u64>) -> Plan {
    window.on_read(range, GIB, WINDOW_MAX, Instant::now())
}

/// Bytes that a plan asks for beyond what was asked for before.
fn fetch(fetched: &mut Vec<Range<u64>>, plan: &Plan) -> u64 {
    let mut new = 0;
    for range in &plan.ranges {
        let mut at = range.start;
        while at < range.end {
            match fetched.iter().find(|f| f.contains(&at)) {
                Some(known) => at = known.end,
                None => {
                    let next = fetched.iter().map(|f| f.start).filter(|s| *s > at).min();
                    let end = next.map_or(range.end, |s| s.min(range.end));
                    fetched.push(at..end);
                    new += end - at;
                    at = end;
                }
            }
        }
    }
    new
}

#[test]
fn jumps_are_given_exactly_what_they_ask_for() {
    let mut window = Window::default();
    let mut seed = 1u64;
    for _ in 0..1000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let start = (seed >> 20) % (GIB / 4096) * 4096;
        if start == 0 {
            continue;
        }
        assert_eq!(read(&mut window, start..start + 4096).ranges, [start..start + 4096]);
    }
}

#[test]
fn a_run_from_the_start_is_fetched_ahead_at_once_and_more_as_it_goes_on() {
    let mut window = Window::default();
    assert_eq!(read(&mut window, 0..128 * KIB).ranges, [0..MIB]);
    let mut ahead = 0;
    for n in 1..128 {
        let plan = read(&mut window, n * 128 * KIB..(n + 1) * 128 * KIB);
        ahead = plan.ranges[0].end - (n + 1) * 128 * KIB;
        assert!(ahead <= WINDOW_BYTES_EASY);
    }
    assert!(ahead >= WINDOW_BYTES_EASY - 2 * MIB, "{ahead}");
}

#[test]
fn pieces_arriving_out_of_order_are_still_one_run() {
    let mut window = Window::default();
    let mut order: Vec<u64> = (0..64).collect();
    for pair in order.chunks_mut(2) {
        pair.swap(0, 1);
    }
    order.swap(0, 1); // the first read is at 0
    for n in order {
        read(&mut window, n * 128 * KIB..(n + 1) * 128 * KIB);
    }
    assert_eq!(window.runs.len(), 1);
    assert_eq!(window.runs[0].bytes, 8 * MIB);
}

#[test]
fn interleaved_scans_keep_a_window_each() {
    let mut window = Window::default();
    let mut ahead = BTreeMap::new();
    read(&mut window, GIB - 64 * KIB..GIB); // a footer
    for n in 0..64 {
        for scan in [100 * MIB, 300 * MIB, 500 * MIB] {
            let start = scan + n * 128 * KIB;
            let plan = read(&mut window, start..start + 128 * KIB);
            ahead.insert(scan, plan.ranges[0].end - start - 128 * KIB);
        }
    }
    assert!(ahead.values().all(|ahead| *ahead >= 7 * MIB), "{ahead:?}");
}

#[test]
fn the_run_that_was_idle_longest_is_forgotten() {
    let mut window = Window::default();
    for n in 0..20 {
        read(&mut window, (n * n + 1) * 30 * MIB % GIB..(n * n + 1) * 30 * MIB % GIB + 4096);
        assert!(window.runs.len() <= RUNS_MAX);
    }
}

#[test]
fn a_strided_scan_is_fetched_ahead() {
    let mut window = Window::default();
    let (mut fetched, mut late) = (Vec::new(), 0);
    for n in 1..200 {
        let start = n * 5 * MIB;
        let known = fetched.iter().any(|f: &Range<u64>| f.contains(&start));
        late += u32::from(!known);
        let plan = read(&mut window, start..start + 64 * KIB);
        fetch(&mut fetched, &plan);
    }
    assert!(late <= 4, "{late}");
    let bytes: u64 = fetched.iter().map(|f| f.end - f.start).sum();
    assert!(bytes <= (200 + STRIDES_MAX) * 64 * KIB, "only what it reads: {bytes}");
}

#[test]
fn a_backward_scan_is_fetched_ahead_in_large_requests() {
    let mut window = Window::default();
    let mut fetched = Vec::new();
    let mut requests = 0;
    for n in (1..=2048).rev() {
        let start = n * 16 * KIB;
        let plan = read(&mut window, start..start + 16 * KIB);
        requests += usize::from(fetch(&mut fetched, &plan) > 0);
    }
    assert!(requests < 40, "{requests} for 32 MiB");
}

#[test]
fn a_small_object_is_fetched_whole_on_its_second_read() {
    let mut window = Window::default();
    let mut plan = |range: Range<u64>| window.on_read(range, 300 * KIB, WINDOW_MAX, Instant::now()).ranges;
    assert_eq!(plan(200 * KIB..204 * KIB), [200 * KIB..204 * KIB]);
    assert_eq!(plan(40 * KIB..44 * KIB), [0..300 * KIB]);
}

/// A reader that takes up to `reader` bytes a second, of a server that answers after `first_byte`, each
/// connection carrying `connection` and all of them `line` bytes a second. Answers the window it comes to
/// and the bytes a second at its end.
fn simulate(first_byte: Duration, connection: f64, line: f64, reader: f64) -> (u64, f64) {
    const READ: u64 = 256 * KIB;
    let began = Instant::now();
    let mut window = Window::default();
    // When each piece that was asked for is there.
    let mut arrives: BTreeMap<u64, (u64, f64)> = BTreeMap::new();
    let (mut now, mut line_free, mut asked_to, mut half) = (0.0f64, 0.0f64, 0u64, 0.0f64);
    let reads = 4 * GIB / READ;
    for n in 0..reads {
        let range = n * READ..(n + 1) * READ;
        let plan = window.on_read(range.clone(), 4 * GIB, WINDOW_MAX, began + Duration::from_secs_f64(now));
        for piece in pieces(asked_to..plan.ranges[0].end.max(asked_to), plan.piece_bytes) {
            let bytes = (piece.end - piece.start) as f64;
            let alone = bytes / connection.min(line);
            line_free = line_free.max(now + first_byte.as_secs_f64()) + bytes / line;
            let at = line_free.max(now + first_byte.as_secs_f64() + alone);
            arrives.insert(piece.start, (piece.end, at));
            asked_to = piece.end;
        }
        for (_, (_, at)) in arrives.range(..range.end).filter(|(_, (end, _))| *end > range.start) {
            now = now.max(*at);
        }
        arrives.retain(|_, (end, _)| *end > range.end);
        now += READ as f64 / reader;
        if n == reads / 2 {
            half = now;
        }
    }
    (window.bytes(), (2 * GIB) as f64 / (now - half))
}

#[test]
fn the_window_grows_to_bandwidth_times_latency_and_no_further() {
    let ms = Duration::from_millis;
    let (mb, none) = (1e6, 1e12);
    // S3 as it is: the window is what limits, so it grows.
    let (window, rate) = simulate(ms(20), 90.0 * mb, none, none);
    assert!(window >= 32 * MIB && rate > 1000.0 * mb, "{window} {rate}");
    // Where something else is, larger ones are tried, and given up again. A line of 100 MB/s:
    let (window, rate) = simulate(ms(20), 90.0 * mb, 100.0 * mb, none);
    assert!(window <= 2 * WINDOW_BYTES_EASY && rate > 95.0 * mb, "{window} {rate}");
    // A program that takes 20 MB/s.
    let (window, rate) = simulate(ms(20), 90.0 * mb, none, 20.0 * mb);
    assert!(window <= 2 * WINDOW_BYTES_EASY && rate > 19.0 * mb, "{window} {rate}");
    // A server next door.
    let (window, rate) = simulate(Duration::from_micros(300), 2000.0 * mb, none, 1500.0 * mb);
    assert!(window <= 2 * WINDOW_BYTES_EASY && rate > 1300.0 * mb, "{window} {rate}");
}

proptest! {
    #[test]
    fn a_plan_covers_the_read_and_stays_within_object_and_window(
        reads in prop::collection::vec((0u64..1 << 28, 1u64..MIB), 1..50),
        object in 1u64..1 << 28,
    ) {
        let (mut window, now) = (Window::default(), Instant::now());
        for (start, len) in reads {
            let start = start % object;
            let range = start..(start + len).min(object);
            let plan = window.on_read(range.clone(), object, WINDOW_MAX, now);
            prop_assert!(plan.ranges[0].start <= range.start && plan.ranges[0].end >= range.end);
            for ahead in &plan.ranges {
                prop_assert!(ahead.start < ahead.end && ahead.end <= object, "{:?}", plan);
            }
            prop_assert!(plan.ranges[0].end - range.end <= WINDOW_MAX + SLACK_BYTES_MAX);
            let bytes: u64 = plan.ranges[1..].iter().map(|r| r.end - r.start).sum();
            prop_assert!(bytes <= 2 * STRIDES_BYTES_MAX, "{:?}", plan);
            prop_assert!(plan.piece_bytes <= PIECE_BYTES_MAX && plan.piece_bytes > 0);
            prop_assert!(plan.passed.end <= range.start.max(plan.passed.start));
            prop_assert!(window.runs.len() <= RUNS_MAX);
        }
    }

    /// Whatever the pattern: what does not begin at the object's start never costs much more than it reads.
    #[test]
    fn little_is_fetched_that_is_not_read(
        reads in prop::collection::vec((1u64..1 << 18, 1u64..4), 1..200),
    ) {
        let mut window = Window::default();
        let mut fetched = Vec::new();
        let (mut read_bytes, mut fetched_bytes) = (0, 0);
        for (page, pages) in reads {
            let range = page * 4096..((page + pages) * 4096).min(GIB);
            read_bytes += range.end - range.start;
            fetched_bytes += fetch(&mut fetched, &read(&mut window, range));
        }
        prop_assert!(fetched_bytes <= 2 * read_bytes + 64 * KIB, "{} for {}", fetched_bytes, read_bytes);
    }

    #[test]
    fn pieces_tile_and_end_at_multiples(start in 0u64..1000, len in 0u64..1000, piece in 1u64..100) {
        let mut at = start;
        for p in pieces(start..start + len, piece) {
            prop_assert_eq!(p.start, at);
            prop_assert!(p.end > p.start && p.end - p.start <= piece);
            prop_assert!(p.end % piece == 0 || p.end == start + len);
            at = p.end;
        }
        prop_assert_eq!(at, start + len);
    }
}
