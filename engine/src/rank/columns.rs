//! What networks do to each column before their first layer: fill what is unknown, subtract, divide.
//!
//! Answers: the columns after these steps. Must not know tract, nor where the numbers come from. Each step is the plain
//! operation of the model, one value at a time, so that no bit differs from what the model says.

/// One step; each holds a number for every column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// In the place of NaN.
    Fill(Vec<f32>),
    Add(Vec<f32>),
    Subtract(Vec<f32>),
    Multiply(Vec<f32>),
    Divide(Vec<f32>),
}

impl Step {
    fn run(&self, row: &mut [f32]) {
        let each = |numbers: &[f32], row: &mut [f32], step: fn(f32, f32) -> f32| {
            row.iter_mut().zip(numbers).for_each(|(value, number)| *value = step(*value, *number));
        };
        match self {
            Step::Fill(numbers) => each(numbers, row, |value, number| if value.is_nan() { number } else { value }),
            Step::Add(numbers) => each(numbers, row, |value, number| value + number),
            Step::Subtract(numbers) => each(numbers, row, |value, number| value - number),
            Step::Multiply(numbers) => each(numbers, row, |value, number| value * number),
            Step::Divide(numbers) => each(numbers, row, |value, number| value / number),
        }
    }
}

/// Steps in order, over rows of `width` columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    width: usize,
    steps: Vec<Step>,
}

impl Columns {
    /// One step; `None` unless it holds a number for each of `width` columns.
    pub(super) fn new(step: Step, width: usize) -> Option<Columns> {
        let (Step::Fill(numbers)
        | Step::Add(numbers)
        | Step::Subtract(numbers)
        | Step::Multiply(numbers)
        | Step::Divide(numbers)) = &step;
        (width > 0 && numbers.len() == width).then(|| Columns { width, steps: vec![step] })
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// These steps, then those.
    pub(super) fn then(&self, next: &Columns) -> Columns {
        Columns { width: self.width, steps: self.steps.iter().chain(&next.steps).cloned().collect() }
    }

    /// Changes row-major rows in place.
    pub(super) fn run(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.width) {
            self.steps.iter().for_each(|step| step.run(row));
        }
    }
}
