//! Moments as people write them.

use marquee_engine::types::TimeMs;

/// Milliseconds of "2024-05-01T18:30:00.250+02:00"; a space may stand for the T. `None` for anything else.
pub fn rfc3339_ms(text: &str) -> Option<TimeMs> {
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
    };
    let at = |index: usize, any: &str| text.get(index..=index).filter(|found| any.contains(found)).map(|_| ());
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    at(4, "-").and(at(7, "-")).and(at(10, "Tt ")).and(at(13, ":")).and(at(16, ":"))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let right =
        (1..=12).contains(&month) && (1..=days_in_month).contains(&day) && hour < 24 && minute < 60 && second < 61;
    let (millis, rest) = fraction(text.get(19..)?)?;
    let offset_minutes = offset(rest)?;
    // Days since 1970 of the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1 - 719_468;
    right.then_some((((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second) * 1_000 + millis)
}

/// ".25Z" is 250 and "Z".
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(after) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = after.find(|c: char| !c.is_ascii_digit()).filter(|end| (1..=9).contains(end))?;
    let millis = format!("{:0<3}", &after[..end]);
    Some((millis[..3].parse().ok()?, &after[end..]))
}

/// "Z", "+02:00".
fn offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * (i64::from(hours) * 60 + i64::from(minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_rfc_3339() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29 12:00:00.5Z", Some(951_825_600_500)),
            ("2024-05-01T18:30:00+02:00", Some(1_714_581_000_000)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-05-01", None),
            ("2024-05-01T18:30:00", None),
            ("2024-05-0é1T18:30:00Z", None),
        ] {
            assert_eq!(rfc3339_ms(text), ms, "{text}");
        }
    }
}
