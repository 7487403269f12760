//! The generator against the statistics that it imitates.

use super::real::{GENRES, RATING_SHARES};
use super::*;

const ITEMS: usize = 3_000;
const USERS: usize = 1_500;

fn made() -> Synthetic {
    Synthetic::new(ITEMS, USERS, 3)
}

/// Events by item, most first.
fn counts(made: &Synthetic) -> Vec<usize> {
    let mut counts = vec![0; made.catalogue.len()];
    made.people.events.iter().for_each(|event| counts[event.item as usize] += 1);
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

#[test]
fn the_same_seed_gives_the_same_files_and_another_one_others() {
    let written = |seed| {
        let (folder, made) = (tempfile::tempdir().unwrap(), Synthetic::new(200, 60, seed));
        files::write(&made, folder.path()).unwrap();
        made.write_models(&folder.path().join("models"), &mut |_| {}).unwrap();
        let names =
            ["import/items.jsonl", "import/events.csv", "models/similar.safetensors", "models/content.safetensors"];
        names.map(|name| std::fs::read(folder.path().join(name)).unwrap())
    };
    let first = written(1);
    assert!(first == written(1));
    written(2).iter().zip(&first).for_each(|(a, b)| assert!(a != b));
}

#[test]
fn few_items_have_most_of_the_events() {
    let counts = counts(&made());
    let events: usize = counts.iter().sum();
    let share = |part: usize| counts[..ITEMS / part].iter().sum::<usize>() as f64 / events as f64;
    // MovieLens 0.16 and 0.60, MovieTweetings 0.41 and 0.74.
    assert!((0.15..0.42).contains(&share(100)), "the hundredth part of the items has {:.2}", share(100));
    assert!((0.50..0.78).contains(&share(10)), "the tenth part of the items has {:.2}", share(10));
}

#[test]
fn ratings_and_histories_are_as_real_ones() {
    let made = made();
    let events = made.people.events.len() as f64;
    for (at, wanted) in RATING_SHARES.into_iter().enumerate() {
        let found = made.people.events.iter().filter(|event| usize::from(event.half_stars) == at + 1).count() as f64;
        assert!((found / events - wanted).abs() < 0.03, "{} half stars: {:.3}, {wanted}", at + 1, found / events);
    }
    let mut lengths: Vec<usize> = (0..made.people.len()).map(|user| made.people.history(user).len()).collect();
    lengths.sort_unstable();
    assert!((1..=4).contains(&lengths[USERS / 3]), "visitors: {}", lengths[USERS / 3]);
    // The median of those with 20 events or more.
    let members: Vec<usize> = lengths.into_iter().filter(|length| *length >= 20).collect();
    assert!((45..90).contains(&members[members.len() / 2]), "members: {}", members[members.len() / 2]);
    for user in 0..made.people.len() {
        assert!(made.people.history(user).windows(2).all(|pair| pair[0].time_ms <= pair[1].time_ms));
    }
}

#[test]
fn items_that_go_together_are_met_together_about_as_often_as_real_ones() {
    let made = Synthetic::new(2_000, 2_000, 4);
    let members: Vec<usize> = (0..made.people.len()).filter(|user| made.people.history(*user).len() >= 20).collect();
    let mut users: Vec<std::collections::HashSet<usize>> = vec![Default::default(); 2_000];
    for &user in &members {
        for event in made.people.history(user) {
            users[event.item as usize].insert(user);
        }
    }
    let popular: Vec<usize> = (0..2_000).filter(|&item| users[item].len() * 12 >= members.len()).collect();
    let lift = |a: usize, b: usize| {
        let both = users[a].intersection(&users[b]).count();
        (both * members.len()) as f64 / (users[a].len() * users[b].len()) as f64
    };
    let top_ten = |&a: &usize| {
        let mut lifts: Vec<f64> = popular.iter().filter(|b| **b != a).map(|&b| lift(a, b)).collect();
        lifts.sort_unstable_by(|a, b| b.total_cmp(a));
        lifts[..10].iter().sum::<f64>() / 10.0
    };
    let mean = popular.iter().map(top_ten).sum::<f64>() / popular.len() as f64;
    // MovieLens: 4.0 over the items that a twelfth of the users rated.
    assert!((2.5..6.0).contains(&mean), "{mean:.2} over {} items", popular.len());
}

#[test]
fn tastes_differ_from_each_other_as_much_as_real_ones() {
    let made = made();
    let mut all = [0.0; GENRES.len()];
    let of = |events: &[Rated], sums: &mut [f64; GENRES.len()]| {
        for event in events {
            let bits = made.catalogue.genres[event.item as usize];
            (0..GENRES.len()).filter(|genre| bits & (1 << genre) != 0).for_each(|genre| sums[genre] += 1.0);
        }
        let total: f64 = sums.iter().sum();
        sums.iter_mut().for_each(|sum| *sum /= total);
    };
    of(&made.people.events, &mut all);
    let mut divergences: Vec<f64> = (0..made.people.len())
        .filter(|user| made.people.history(*user).len() > 60)
        .map(|user| {
            let mut own = [0.0; GENRES.len()];
            of(made.people.history(user), &mut own);
            own.iter().zip(&all).filter(|(own, _)| **own > 0.0).map(|(own, all)| own * (own / all).ln()).sum()
        })
        .collect();
    divergences.sort_unstable_by(f64::total_cmp);
    let median = divergences[divergences.len() / 2];
    // MovieLens: 0.10 over users with more than a hundred genre marks.
    assert!((0.05..0.2).contains(&median), "{median:.3}");
}

#[test]
fn the_numbers_of_threads_change_nothing() {
    assert_eq!(parallel(1_000, |at| at * 2), (0..1_000).map(|at| at * 2).collect::<Vec<_>>());
}
