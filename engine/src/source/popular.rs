//! Popularity, decayed over time: what stands in where nothing is known of a user.

use super::{Answer, Evidence, RANKS_MAX, ROWS_AHEAD};
use crate::index::Hit;
use crate::moment::Moment;
use crate::types::Row;
use crate::world::{AllPopularities, Popularity, WEEK};

/// On the request's surface, with a half-life of a week; a surface without events has all surfaces' popularity.
pub(super) fn on_surface<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    let surface = moment.world.surface(&moment.query.surface);
    ask(moment, surface.map_or(Popularity::HalfLife(WEEK), Popularity::Surface))
}

/// With a half-life of a day.
pub(super) fn day<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, Popularity::HalfLife(0))
}

/// With a half-life of three days.
pub(super) fn days<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, Popularity::HalfLife(1))
}

/// With a half-life of a month.
pub(super) fn month<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, Popularity::HalfLife(3))
}

/// Without decay.
pub(super) fn ever<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, Popularity::Ever)
}

fn ask<'m>(moment: &'m Moment<'m>, by: Popularity) -> Option<Answer<'m>> {
    let list = moment.world.popular(by).iter().filter(|(row, _)| moment.is_open(*row)).take(RANKS_MAX);
    let ranked = list.map(|&(row, score)| Hit { row, score }).collect();
    Some(Answer { ranked, evidence: Box::new(Popular { moment, by }) })
}

/// The rows that were asked for last: each source is asked for the same ones.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    rows: Vec<Row>,
    of_rows: Vec<AllPopularities>,
}

impl Asked {
    fn ask(&mut self, moment: &Moment<'_>, rows: &[Row]) {
        let world = moment.world;
        let popularity = world.all_popularities(world.surface(&moment.query.surface));
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        self.of_rows.clear();
        self.of_rows.extend(rows.iter().enumerate().map(|(at, &row)| {
            rows.get(at + ROWS_AHEAD).into_iter().for_each(|&ahead| world.prefetch_stats(ahead));
            popularity(row)
        }));
    }
}

struct Popular<'m> {
    moment: &'m Moment<'m>,
    by: Popularity,
}

impl Evidence for Popular<'_> {
    fn score(&self, row: Row) -> f32 {
        self.moment.world.popularity(row, self.by)
    }

    fn scores(&self, rows: &[Row], out: &mut [f32]) {
        let mut asked = self.moment.popularities.borrow_mut();
        if asked.rows != rows {
            asked.ask(self.moment, rows);
        }
        for (score, all) in out.iter_mut().zip(&asked.of_rows) {
            *score = match self.by {
                Popularity::Surface(_) => all.on_surface,
                Popularity::HalfLife(at) => all.by_half_life[at],
                Popularity::Ever => all.ever,
            };
        }
    }

    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        let world = self.moment.world;
        let list = world.popular(self.by);
        let found = list.iter().filter(|(row, _)| accept(*row)).take(count);
        let found: Vec<Hit> = found.map(|&(row, score)| Hit { row, score }).collect();
        if found.len() == count || list.len() == world.rows() {
            return found;
        }
        // The list is bounded, and items without a positive event are not in it: a narrow filter looks at all that
        // it lets through, which are found once for all sources.
        let all = self.moment.eligible().iter().copied().filter(|&row| accept(row));
        super::dense::best(all.map(|row| Hit { row, score: self.score(row) }).collect(), count)
    }
}
