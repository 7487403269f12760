//! Where a value lies on an axis, and which values are written there.

/// An axis.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    Linear {
        from: f64,
        to: f64,
    },
    /// Both ends above 0.
    Log {
        from: f64,
        to: f64,
    },
}

impl Scale {
    /// From 0 to a round number above the largest.
    pub(super) fn linear(largest: f64) -> Scale {
        let step = step(largest.max(1e-9), 5);
        Scale::Linear { from: 0.0, to: (largest / step).ceil().max(1.0) * step }
    }

    /// From a round number below the smallest to one above the largest.
    pub(super) fn log(smallest: f64, largest: f64) -> Scale {
        let smallest = smallest.max(1e-9);
        let (from, to) = (round_log(smallest, false), round_log(largest.max(smallest * 1.01), true));
        Scale::Log { from, to: if to > from { to } else { from * 10.0 } }
    }

    /// 0 at the beginning of the axis, 1 at its end; not beyond them.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match *self {
            Scale::Linear { from, to } => (value - from) / (to - from),
            Scale::Log { from, to } => (value.max(1e-12) / from).ln() / (to / from).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Values with a line and a label.
    pub(super) fn ticks(&self) -> Vec<f64> {
        match *self {
            Scale::Linear { from, to } => {
                let step = step(to - from, 5);
                (0..=((to - from) / step).round() as usize).map(|at| from + at as f64 * step).collect()
            }
            Scale::Log { from, to } => {
                let digits: &[f64] = if (to / from).log10() > 3.2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
                let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
                all.filter(|tick| *tick >= from * 0.999 && *tick <= to * 1.001).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that about `count` of them make `range`.
fn step(range: f64, count: usize) -> f64 {
    let rough = range / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= rough * 0.999).unwrap_or(10.0);
    digit * power
}

fn round_log(value: f64, up: bool) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let digits = [1.0, 2.0, 5.0, 10.0];
    let found = if up {
        digits.into_iter().find(|digit| digit * power >= value * 0.999)
    } else {
        digits.into_iter().rev().find(|digit| digit * power <= value * 1.001)
    };
    found.unwrap_or(1.0) * power
}

/// A number as short as it can be said: 0.25, 12, 1,500, 20k.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let size = value.abs();
    if size >= 1e6 {
        return format!("{}M", trimmed(value / 1e6, 1));
    }
    if size >= 10_000.0 {
        return format!("{}k", trimmed(value / 1e3, 1));
    }
    if size >= 1_000.0 {
        let whole = value.round() as i64;
        return format!("{},{:03}", whole / 1_000, (whole % 1_000).abs());
    }
    let decimals = if size >= 100.0 || size == 0.0 { 0 } else { (2.0 - size.log10().floor()).clamp(0.0, 4.0) as usize };
    trimmed(value, decimals)
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(Scale::linear(87.0).ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Scale::log(0.7, 30.0).ticks(), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        let long = Scale::log(0.01, 9_000.0).ticks();
        assert_eq!(long.len(), 7, "{long:?}");
        assert!((Scale::log(1.0, 100.0).place(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(Scale::linear(10.0).place(20.0), 1.0, "what lies beyond is drawn at the end");
    }

    #[test]
    fn numbers_are_short() {
        let told: Vec<String> = [0.0, 0.05, 0.25, 1.5, 12.0, 87.31, 950.0, 1_500.0, 20_000.0, 1.25e6].map(short).into();
        assert_eq!(told, ["0", "0.05", "0.25", "1.5", "12", "87.3", "950", "1,500", "20k", "1.2M"]);
    }
}
