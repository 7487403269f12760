use super::*;

const MS: Duration = Duration::from_millis(1);

/// One thread on which everything took 10 ms so far.
fn ground() -> (Admission, Instant) {
    let limits = Limits { threads: 1, queue_max: 50, wait_max: 200 * MS, wait_overload: 20 * MS };
    let (mut admission, now) = (Admission::new(limits), Instant::now());
    for _ in 0..200 {
        let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
        admission.start(ticket, now).unwrap();
        admission.finish(ticket, Some(10 * MS), now);
    }
    (admission, now)
}

fn ask(admission: &mut Admission, now: Instant, within: Duration) -> Result<Ticket, Refusal> {
    admission.arrive(Kind::Recommend, Some(now + within), now)
}

#[test]
fn what_cannot_be_done_in_time_is_refused_when_it_arrives() {
    let (mut admission, now) = ground();
    assert_eq!(ask(&mut admission, now, 5 * MS).unwrap_err(), Refusal::Deadline);
    let first = ask(&mut admission, now, 12 * MS).unwrap();
    admission.start(first, now).unwrap();
    // Behind one that is half done.
    assert_eq!(ask(&mut admission, now, 12 * MS).unwrap_err(), Refusal::Deadline);
    assert!(ask(&mut admission, now, 18 * MS).is_ok());
    assert_eq!(ask(&mut admission, now, 20 * MS).unwrap_err(), Refusal::Deadline);
    assert!(ask(&mut admission, now, 30 * MS).is_ok());
}

/// So many more as may wait.
fn fill(admission: &mut Admission, now: Instant) -> usize {
    let fits = (0..50).map_while(|_| admission.arrive(Kind::Recommend, None, now).ok()).count();
    assert_eq!(admission.arrive(Kind::Recommend, None, now).unwrap_err(), Refusal::Wait);
    fits
}

/// The one that runs ends after 10 ms and the next one begins.
fn work(admission: &mut Admission, ticket: Ticket, now: &mut Instant) {
    *now += 10 * MS;
    admission.finish(ticket, Some(10 * MS), *now);
    admission.start(ticket, *now).unwrap();
}

#[test]
fn a_burst_may_wait_and_lasting_overload_may_not() {
    let (mut admission, mut now) = ground();
    let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
    admission.start(ticket, now).unwrap();
    let burst = fill(&mut admission, now);
    assert!((18..=22).contains(&burst), "{burst} of 10 ms wait at most 200 ms");
    // The machine stood still: nothing was worked on, so that nothing is known of what it can do.
    now += 10 * OVERLOAD_AFTER;
    for _ in 0..24 {
        work(&mut admission, ticket, &mut now);
        assert_eq!(fill(&mut admission, now), 1, "what began has made room for another");
    }
    // 250 ms of work, and the queue is as long as before.
    for _ in 0..2 {
        work(&mut admission, ticket, &mut now);
    }
    while admission.waiting > 2 {
        assert_eq!(fill(&mut admission, now), 0, "{} wait, more than 30 ms", admission.waiting);
        work(&mut admission, ticket, &mut now);
    }
    // It lasts for as long as the wait is above the bound now and then.
    for _ in 0..50 {
        assert_eq!(fill(&mut admission, now), 1, "two wait, 25 ms");
        work(&mut admission, ticket, &mut now);
    }
    while admission.waiting > 0 {
        work(&mut admission, ticket, &mut now);
    }
    admission.finish(ticket, None, now);
    assert_eq!(fill(&mut admission, now), 4, "a free thread alone does not end it");
    now += OVERLOAD_AFTER;
    while admission.waiting > 0 {
        admission.leave(ticket);
    }
    assert!(fill(&mut admission, now) > 15, "that is a burst again");
}

#[test]
fn a_few_patient_callers_are_no_overload_however_slow_the_work_is() {
    let (mut admission, mut now) = ground();
    let mut tickets: Vec<Ticket> = (0..3).map(|_| admission.arrive(Kind::Recommend, None, now).unwrap()).collect();
    admission.start(tickets[0], now).unwrap();
    // Three callers, 30 ms of work: 45 ms, more than the bound and less than three of 30.
    for round in 0..300 {
        now += 30 * MS;
        admission.finish(tickets.remove(0), Some(30 * MS), now);
        admission.start(tickets[0], now).unwrap();
        let ticket = admission.arrive(Kind::Recommend, None, now);
        tickets.push(ticket.unwrap_or_else(|why| panic!("{why:?} in round {round}")));
    }
    assert!(!admission.is_overloaded && admission.above.is_none());
}

/// Numbers from 0 to 1, evenly (Knuth's MMIX generator).
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1_u64 << 53) as f64
}

/// Independent callers, two threads, 1 to 9 ms of work each; 200,000 calls, at a share of the 400 a second that the
/// threads can do. How many were refused, how many a second were answered within 50 ms.
fn simulate(load: f64) -> (usize, f64) {
    const CALLS: usize = 200_000;
    let limits = Limits { threads: 2, queue_max: 1_000, wait_max: 200 * MS, wait_overload: 10 * MS };
    let (mut admission, began, mut seed) = (Admission::new(limits), Instant::now(), 7);
    let mut waiting = std::collections::VecDeque::new();
    let mut running: Vec<(Instant, Ticket, Duration, Instant)> = Vec::new();
    let (mut now, mut refused, mut latencies) = (began, 0, Vec::new());
    for _ in 0..CALLS {
        let gap = -draw(&mut seed).max(1e-12).ln() * 0.005 / (2.0 * load);
        now += Duration::from_secs_f64(gap);
        let mut begin = |admission: &mut Admission, running: &mut Vec<_>, (ticket, arrived), at: Instant| {
            let took = Duration::from_secs_f64(0.001 + 0.008 * draw(&mut seed));
            admission.start(ticket, at).unwrap();
            running.push((at + took, ticket, took, arrived));
        };
        while let Some(first) = (0..running.len()).min_by_key(|at| running[*at].0)
            && running[first].0 <= now
        {
            let (ended, ticket, took, arrived) = running.swap_remove(first);
            admission.finish(ticket, Some(took), ended);
            latencies.push(ended - arrived);
            if let Some(next) = waiting.pop_front() {
                begin(&mut admission, &mut running, next, ended);
            }
        }
        match admission.arrive(Kind::Recommend, None, now) {
            Ok(ticket) if running.len() < limits.threads => begin(&mut admission, &mut running, (ticket, now), now),
            Ok(ticket) => waiting.push_back((ticket, now)),
            Err(_) => refused += 1,
        }
    }
    latencies.sort_unstable();
    let in_time = latencies.partition_point(|took| *took <= 50 * MS) as f64 / (now - began).as_secs_f64();
    let (share, p99) = (refused as f64 / CALLS as f64 * 100.0, latencies[latencies.len() * 99 / 100]);
    println!("load {load}: {share:.3} % refused, {in_time:.0} a second in time, p99 {:.0} ms", p99.as_secs_f64() * 1e3);
    (refused, in_time)
}

#[test]
fn chance_at_half_load_is_no_overload_and_overload_costs_no_answers() {
    assert_eq!(simulate(0.5).0, 0, "of 200,000 calls at half load");
    for load in [0.6, 0.7, 0.9] {
        let (refused, in_time) = simulate(load);
        assert!((refused as f64) < 200_000.0 * 0.05 && in_time > 400.0 * load * 0.95, "load {load}");
    }
    for load in [1.5, 3.0, 10.0] {
        let (refused, in_time) = simulate(load);
        assert!(refused > 50_000 && in_time > 380.0, "load {load}: {refused} refused, {in_time} a second in time");
    }
}

#[test]
fn what_was_let_in_is_done_unless_its_deadline_has_passed() {
    let (mut admission, now) = ground();
    let ticket = ask(&mut admission, now, 50 * MS).unwrap();
    assert_eq!(admission.start(ticket, now + 50 * MS).unwrap_err(), Refusal::Expired);
    let ticket = ask(&mut admission, now, 50 * MS).unwrap();
    assert!(admission.start(ticket, now + 49 * MS).is_ok());
    let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
    let _behind = admission.arrive(Kind::Recommend, None, now).unwrap();
    assert!(admission.start(ticket, now + 900 * MS).is_ok(), "a wrong estimate is not the caller's fault");
}

#[test]
fn the_queue_has_an_end() {
    let limits = Limits { threads: 1, queue_max: 2, wait_max: 200 * MS, wait_overload: 20 * MS };
    let (mut admission, now) = (Admission::new(limits), Instant::now());
    assert!(ask(&mut admission, now, MS).is_ok() && ask(&mut admission, now, MS).is_ok());
    assert_eq!(ask(&mut admission, now, MS).unwrap_err(), Refusal::QueueFull);
    assert_eq!(ask(&mut admission, now, Duration::ZERO).unwrap_err(), Refusal::Expired, "not for the queue's sake");
}

/// One after the other with such pauses, by callers who wait 50 ms: how many of `asked` were refused, and from the first
/// call on, for how long.
fn refused(
    admission: &mut Admission,
    now: &mut Instant,
    (asked, pause): (usize, Duration),
    took: Duration,
) -> (usize, Duration) {
    let (mut refused, began, mut last) = (0, *now, *now);
    for _ in 0..asked {
        *now += pause;
        match ask(admission, *now, 50 * MS) {
            Ok(ticket) => {
                admission.start(ticket, *now).unwrap();
                *now += took;
                admission.finish(ticket, Some(took), *now);
            }
            Err(why) => {
                assert_eq!(why, Refusal::Deadline);
                (refused, last) = (refused + 1, *now);
            }
        }
    }
    (refused, last - began)
}

#[test]
fn first_work_that_is_slow_refuses_for_seconds_at_most() {
    for (first, most) in
        [(60 * MS, 600 * MS), (500 * MS, 1_500 * MS), (2_000 * MS, 1_500 * MS), (60_000 * MS, 2_500 * MS)]
    {
        let limits = Limits { threads: 1, queue_max: 50, wait_max: 200 * MS, wait_overload: 20 * MS };
        let (mut admission, mut now) = (Admission::new(limits), Instant::now());
        assert_eq!(refused(&mut admission, &mut now, (1, MS), first).0, 0);
        let (refused_then, lasted) = refused(&mut admission, &mut now, (1_000, 5 * MS), 4 * MS);
        println!("first {first:?}: then {refused_then} refused, the last one after {lasted:?}");
        assert!(refused_then > 0 && lasted <= most, "{first:?}: {refused_then}, {lasted:?}");
        assert_eq!(refused(&mut admission, &mut now, (1_000, 5 * MS), 4 * MS).0, 0, "{first:?}");
    }
}

#[test]
fn threads_that_stood_still_together_say_nothing_and_work_that_has_become_slow_does() {
    for threads in [1, 2, 16] {
        let (mut admission, mut now) = ground();
        admission.limits.threads = threads;
        let stand_still = |admission: &mut Admission, now: &mut Instant, time: Duration| {
            let tickets = (0..threads).map(|_| ask(admission, *now, 50 * MS).unwrap());
            let tickets: Vec<Ticket> = tickets.collect();
            tickets.iter().for_each(|ticket| admission.start(*ticket, *now).unwrap());
            *now += time;
            for ticket in tickets {
                admission.finish(ticket, Some(time), *now);
                *now += MS;
            }
        };
        stand_still(&mut admission, &mut now, 2_000 * MS);
        assert_eq!(refused(&mut admission, &mut now, (30, 10 * MS), 10 * MS).0, 0, "{threads} threads");
        // So soon again it counts, and once.
        stand_still(&mut admission, &mut now, 300 * MS);
        let mean = admission.took[Kind::Recommend as usize].mean;
        assert!((0.02..0.04).contains(&mean), "{threads} threads: {mean}");
        let of_thirty = refused(&mut admission, &mut now, (30, 10 * MS), 100 * MS).0;
        assert!(of_thirty > 15, "{of_thirty} of 30 that take 100 ms, {threads} threads");
    }
}

#[test]
fn what_often_takes_long_is_counted() {
    for threads in [1, 2, 4, 16] {
        let (mut took, began, mut seed, mut sum) = (Moving::default(), Instant::now(), 7, 0.0);
        let mut running = vec![(began, 0); threads];
        for _ in 0..100_000 {
            let first = (0..threads).min_by_key(|at| running[*at].0).unwrap();
            let (ended, milliseconds) = running[first];
            took.add(f64::from(milliseconds) / 1e3, ended);
            sum += took.mean;
            let milliseconds = if draw(&mut seed) < 0.05 { 300 } else { 3 };
            running[first] = (ended + milliseconds * MS, milliseconds);
        }
        // A twentieth takes 300 ms and the rest 3: 17.85 ms.
        let mean_ms = sum / 100_000.0 * 1e3;
        println!("{threads} threads: {mean_ms:.1} of 17.85 ms");
        assert!((8.5..18.5).contains(&mean_ms), "{threads} threads: {mean_ms}");
    }
}

#[test]
fn a_wrong_estimate_mends_beside_other_work() {
    let (mut admission, mut now) = ground();
    refused(&mut admission, &mut now, (100, PROBE_AFTER), Duration::from_secs(60));
    assert!(admission.took[Kind::Recommend as usize].mean > 10.0);
    // The thread works on another kind all the while, so that only the second counts.
    let other = admission.arrive(Kind::Rank, None, now).unwrap();
    admission.start(other, now).unwrap();
    let probe = ask(&mut admission, now, 50 * MS).unwrap();
    admission.start(probe, now).unwrap();
    admission.finish(probe, Some(10 * MS), now);
    let mut seconds = 0;
    while let Err(why) = ask(&mut admission, now, 50 * MS) {
        assert_eq!(why, Refusal::Deadline);
        seconds += 1;
        now += PROBE_AFTER - MS;
        assert!(ask(&mut admission, now, 50 * MS).is_err(), "second {seconds}");
        now += MS;
        assert_eq!(ask(&mut admission, now, Duration::ZERO).unwrap_err(), Refusal::Expired, "no use as a probe");
        let probe = ask(&mut admission, now, 50 * MS).unwrap();
        admission.start(probe, now).unwrap();
        admission.finish(probe, Some(10 * MS), now);
    }
    assert!((100..150).contains(&seconds), "{seconds}");
}

#[test]
fn what_is_asked_in_vain_costs_a_fifth_of_an_idle_thread_at_most() {
    let (mut admission, mut now) = ground();
    // Work of 100 ms for callers who wait 50; asked 1,000 times a second, for a minute.
    refused(&mut admission, &mut now, (100, PROBE_AFTER), 100 * MS);
    let (began, mut worked) = (now, Duration::ZERO);
    while now < began + Duration::from_secs(60) {
        now += MS;
        if let Ok(ticket) = ask(&mut admission, now, 50 * MS) {
            admission.start(ticket, now).unwrap();
            now += 100 * MS;
            worked += 100 * MS;
            admission.finish(ticket, Some(100 * MS), now);
        }
    }
    let share = worked.as_secs_f64() / (now - began).as_secs_f64();
    assert!((0.15..0.201).contains(&share), "{share}");
}

#[test]
fn a_busy_thread_beside_an_idle_one_does_not_keep_an_estimate_from_mending() {
    let (mut admission, mut now) = ground();
    refused(&mut admission, &mut now, (30, PROBE_AFTER), 100 * MS);
    admission.limits.threads = 2;
    let other = admission.arrive(Kind::Rank, None, now).unwrap();
    admission.start(other, now).unwrap();
    let (refused_then, lasted) = refused(&mut admission, &mut now, (1_000, 5 * MS), 5 * MS);
    assert!(refused_then > 0 && lasted < 2_000 * MS, "{refused_then}, {lasted:?}");
}

#[test]
fn idle_threads_make_nobody_wait() {
    let (admission, _) = ground();
    assert_eq!(admission.expected_wait(), Duration::ZERO);
}
