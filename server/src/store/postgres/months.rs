//! The log's partitions: one for each month in which something was received, made when its first row comes.
//!
//! A partition is made by itself and then attached: that locks out neither readers nor other writers.

use std::collections::BTreeSet;

use marquee_engine::types::TimeMs;
use sqlx::PgConnection;

use super::session::failed;
use crate::error::Result;

const DAY_MS: TimeMs = 86_400_000;
/// Months that partitions are made for: 1970 to 2199. What lies outside has partitions from the first migration.
const MONTHS: std::ops::Range<i64> = 0..230 * 12;

/// A month, counted from January 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Month(i64);

impl Month {
    /// The month of a moment; `None` for one outside of [`MONTHS`].
    fn of(at_ms: TimeMs) -> Option<Month> {
        // Civil date of a day of the proleptic Gregorian calendar, years beginning in March.
        let day = at_ms.div_euclid(DAY_MS) + 719_468;
        let era = day.div_euclid(146_097);
        let day_of_era = day.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let months = (era * 400 + year_of_era) * 12 + from_march + 2 - 1_970 * 12;
        MONTHS.contains(&months).then_some(Month(months))
    }

    fn start_ms(self) -> TimeMs {
        let (year, month) = (1_970 + self.0.div_euclid(12), self.0.rem_euclid(12) + 1);
        let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 - 719_468;
        days * DAY_MS
    }

    fn table(self) -> String {
        format!("log_{}_{:02}", 1_970 + self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

/// The months whose partitions are known to be there.
#[derive(Debug, Default)]
pub(super) struct Months {
    known: BTreeSet<Month>,
    /// Made by the running transaction: not there if it fails.
    made: BTreeSet<Month>,
}

impl Months {
    /// Makes what is missing for rows that were received at these moments.
    pub(super) async fn prepare(
        &mut self,
        sql: &mut PgConnection,
        received_ms: impl Iterator<Item = TimeMs>,
    ) -> Result<()> {
        let mut last = None;
        for at in received_ms {
            let month = Month::of(at);
            if month == last {
                continue;
            }
            last = month;
            if let Some(month) = month.filter(|month| !self.known.contains(month) && !self.made.contains(month)) {
                make(sql, month).await?;
                self.made.insert(month);
            }
        }
        Ok(())
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {
        self.known.append(&mut self.made);
    }
}

async fn make(sql: &mut PgConnection, month: Month) -> Result<()> {
    let name = month.table();
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&name)
        .fetch_one(&mut *sql)
        .await
        .map_err(failed("looking for a partition of the log"))?;
    if is_there {
        return Ok(());
    }
    let (from, until) = (month.start_ms(), Month(month.0 + 1).start_ms());
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE TABLE {name} (LIKE log); ALTER TABLE log ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({until})"
    )))
    .execute(sql)
    .await
    .map(|_| ())
    .map_err(failed("making a partition of the log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (at_ms, table) in [
            (0, Some("log_1970_01")),
            (31 * DAY_MS - 1, Some("log_1970_01")),
            (31 * DAY_MS, Some("log_1970_02")),
            (951_782_400_000, Some("log_2000_02")), // 29 February
            (951_868_800_000, Some("log_2000_03")),
            (1_767_225_599_999, Some("log_2025_12")),
            (1_767_225_600_000, Some("log_2026_01")),
            (7_258_118_399_999, Some("log_2199_12")),
            (7_258_118_400_000, None),
            (-1, None),
            (i64::MIN, None),
            (i64::MAX, None),
        ] {
            assert_eq!(Month::of(at_ms).map(Month::table).as_deref(), table, "{at_ms}");
        }
    }

    #[test]
    fn months_cover_all_time_without_gaps() {
        assert_eq!(Month(0).start_ms(), 0);
        assert_eq!(Month(MONTHS.end).start_ms(), 7_258_118_400_000);
        for number in MONTHS {
            let (start, end) = (Month(number).start_ms(), Month(number + 1).start_ms());
            assert!((28..=31).contains(&((end - start) / DAY_MS)));
            assert_eq!((Month::of(start), Month::of(end - 1)), (Some(Month(number)), Some(Month(number))));
        }
    }
}
