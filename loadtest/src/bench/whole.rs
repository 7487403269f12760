//! `make bench-whole`: a whole ranked request beside the sum of its parts, each alone on the same inputs, in one run.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, Meter, median, print, thread_cpu_ns};

/// Microseconds of CPU, medians over users.
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

impl Bench {
    /// Once over all users; each is asked whole and in parts in turn.
    ///
    /// # Errors
    /// The model fails, or there is none.
    pub fn parts(&mut self) -> Result<Parts> {
        let (mut whole, mut retrieval, mut alone, mut model, mut ratio) = <[Vec<f64>; 5]>::default().into();
        for person in 0..self.people.len() {
            let rows = self.recorded(person).rows.context("no rows were recorded")?;
            let (mut wholes, mut sources, mut alones, mut models) = <[Vec<f64>; 4]>::default().into();
            for _ in 0..3 {
                let began = thread_cpu_ns();
                let slate = self.recommend(person);
                wholes.push((thread_cpu_ns() - began) as f64 / 1000.0);
                ensure!(slate.ranked, "the slate was not ranked: {:?}", slate.degraded);
                let mut meter = Meter::cpu();
                let taken_us = |meter: &mut Meter| meter.take().iter().map(|(_, ns)| *ns as f64 / 1000.0).sum::<f64>();
                self.retrieval(person, &mut meter);
                sources.push(taken_us(&mut meter));
                self.rank(&rows, &mut meter)?;
                models.push(taken_us(&mut meter));
                self.sources(person, &mut meter);
                alones.push(taken_us(&mut meter));
            }
            let (a, b, c) = (median(wholes), median(sources), median(models));
            whole.push(a);
            retrieval.push(b);
            alone.push(median(alones));
            model.push(c);
            ratio.push(a / (b + c));
        }
        Ok(Parts {
            whole_us: median(whole),
            retrieval_us: median(retrieval),
            alone_us: median(alone),
            model_us: median(model),
            ratio: median(ratio),
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
