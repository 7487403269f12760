//! `make bench-whole`: a whole ranked request beside the sum of its parts, each alone on the same inputs, in one run.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, Meter, median, print, thread_cpu_ns};

/// Microseconds of CPU: each user's median of three, and of them the mean. Means add up, and a server's CPU over all requests
/// can be divided by them; medians of skewed numbers can not.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Parts {
    /// `recommend`.
    pub whole_us: f64,
    /// All sources in turn, what they share computed once.
    pub retrieval_us: f64,
    /// Every source alone, each with all that it needs, added up.
    pub alone_us: f64,
    /// The ranker alone.
    pub model_us: f64,
    /// The median over users of whole / (retrieval + model).
    pub ratio: f64,
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

impl Bench {
    /// Three times over all users with each part by itself: one user after the other, as a server is asked, so that nobody
    /// finds in a cache what was just read for the same user.
    ///
    /// # Errors
    /// The model fails, or there is none.
    pub fn parts(&mut self) -> Result<Parts> {
        let people = 0..self.people.len();
        let rows = people.clone().map(|person| self.recorded(person).rows.context("no rows were recorded"));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let mut meter = Meter::cpu();
        let taken_us = |meter: &mut Meter| meter.take().iter().map(|(_, ns)| *ns as f64 / 1000.0).sum::<f64>();
        let mut of_part: [Vec<Vec<f64>>; 4] = std::array::from_fn(|_| vec![Vec::new(); people.len()]);
        let [whole, retrieval, alone, model] = &mut of_part;
        for _ in 0..3 {
            for (person, whole) in whole.iter_mut().enumerate() {
                let began = thread_cpu_ns();
                let slate = self.recommend(person);
                whole.push((thread_cpu_ns() - began) as f64 / 1000.0);
                ensure!(slate.ranked, "the slate was not ranked: {:?}", slate.degraded);
            }
            for (person, retrieval) in retrieval.iter_mut().enumerate() {
                self.retrieval(person, &mut meter);
                retrieval.push(taken_us(&mut meter));
            }
            for (rows, model) in rows.iter().zip(&mut *model) {
                self.rank(rows, &mut meter)?;
                model.push(taken_us(&mut meter));
            }
            for (person, alone) in alone.iter_mut().enumerate() {
                self.sources(person, &mut meter);
                alone.push(taken_us(&mut meter));
            }
        }
        let [whole, retrieval, alone, model] = of_part.map(|users| users.into_iter().map(median).collect::<Vec<f64>>());
        let ratio = people.map(|at| whole[at] / (retrieval[at] + model[at]));
        Ok(Parts {
            ratio: median(ratio),
            whole_us: mean(&whole),
            retrieval_us: mean(&retrieval),
            alone_us: mean(&alone),
            model_us: mean(&model),
        })
    }

    /// Three runs and their median, printed.
    ///
    /// # Errors
    /// As [`Bench::parts`].
    pub fn whole(&mut self) -> Result<Value> {
        self.recommend(0);
        let runs = (0..3).map(|_| self.parts()).collect::<Result<Vec<Parts>>>()?;
        let candidates = median((0..self.people.len()).map(|at| f64::from(self.recommend(at).funnel.ranked)));
        let columns = marquee_engine::Engine::columns().len();
        print(&format!(
            "{} items, {} users, {candidates} candidates, {columns} columns",
            self.items(),
            self.people.len()
        ));
        print("  run   whole us  sources us  (each alone)  model us  whole / (sources + model)");
        for (at, run) in runs.iter().enumerate() {
            let Parts { whole_us, retrieval_us, alone_us, model_us, ratio } = run;
            print(&format!(
                "  {:>3} {whole_us:>10.1} {retrieval_us:>11.1} {alone_us:>13.1} {model_us:>9.1} {ratio:>10.3}",
                at + 1
            ));
        }
        let ratio = median(runs.iter().map(|run| run.ratio));
        print(&format!("  median of three: {ratio:.3}"));
        let funnel = self.recommend(0).funnel;
        ensure!(funnel.ranked > 0, "nothing was ranked");
        Ok(json!({"items": self.items(), "candidates": candidates, "columns": columns, "runs": runs, "ratio": ratio}))
    }
}
