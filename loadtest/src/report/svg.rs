//! A chart in SVG: axes with labels and units, and what is drawn between them.

use std::fmt::Write;

use super::scale::{Scale, short};

/// The colours of charts, light and dark; the page uses them, too.
pub(super) const STYLE: &str = include_str!("chart.css");

const WIDTH: f64 = 760.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 44.0;

/// What an axis says.
pub(super) struct Axis {
    pub(super) scale: Scale,
    /// Name and unit.
    pub(super) name: &'static str,
    /// Other labels than the values themselves.
    pub(super) label: fn(f64) -> String,
}

impl Axis {
    pub(super) fn new(scale: Scale, name: &'static str) -> Axis {
        Axis { scale, name, label: short }
    }
}

/// A chart that is being drawn.
pub(super) struct Chart {
    text: String,
    height: f64,
    x: Scale,
    y: Scale,
    title: String,
    legend_x: f64,
}

impl Chart {
    /// An empty one with its grid.
    pub(super) fn new(title: &str, height: f64, x: &Axis, y: &Axis) -> Chart {
        let mut chart = Chart {
            text: String::new(),
            height,
            x: x.scale,
            y: y.scale,
            title: title.to_owned(),
            legend_x: WIDTH - RIGHT,
        };
        for tick in y.scale.ticks() {
            let at = chart.y(tick);
            chart.push(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.0}\"/>", WIDTH - RIGHT));
            chart.label(LEFT - 8.0, at + 4.0, "end", &(y.label)(tick));
        }
        let (bottom, ticks) = (height - BOTTOM, x.scale.ticks());
        for tick in ticks {
            let at = chart.x(tick);
            chart.push(format_args!("<path class=\"tick\" d=\"M{at:.1} {bottom:.0}v5\"/>"));
            chart.label(at, bottom + 19.0, "middle", &(x.label)(tick));
        }
        chart.push(format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom:.0}H{:.0}\"/>", WIDTH - RIGHT));
        chart.label(WIDTH - RIGHT, height - 6.0, "end", x.name);
        chart.label(0.0, TOP - 16.0, "start", y.name);
        chart
    }

    /// Across, in pixels.
    pub(super) fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    /// Down, in pixels.
    pub(super) fn y(&self, value: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - self.y.place(value) * (bottom - TOP)
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (number, (x, y)) in points.into_iter().enumerate() {
            let letter = if number == 0 { 'M' } else { 'L' };
            let _written = write!(path, "{letter}{:.1} {:.1}", self.x(x), self.y(y));
        }
        self.push(format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// A point; what it says when it is pointed at. Hollow: it does not count.
    pub(super) fn dot(&mut self, class: &str, x: f64, y: f64, is_hollow: bool, told: &str) {
        let (x, y, hollow) = (self.x(x), self.y(y), if is_hollow { " hollow" } else { "" });
        let told = escape(told);
        self.push(format_args!(
            "<circle class=\"dot {class}{hollow}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{told}</title></circle>"
        ));
    }

    /// A line across at a value, with its name at the left end.
    pub(super) fn limit(&mut self, y: f64, name: &str) {
        let at = self.y(y);
        self.push(format_args!("<path class=\"limit\" d=\"M{LEFT} {at:.1}H{:.0}\"/>", WIDTH - RIGHT));
        let name = escape(name);
        self.push(format_args!(
            "<text class=\"limit-name\" x=\"{:.0}\" y=\"{:.1}\">{name}</text>",
            LEFT + 6.0,
            at - 6.0
        ));
    }

    /// A line down at a value, with its name beside it.
    pub(super) fn mark(&mut self, x: f64, name: &str) {
        let (at, bottom, name) = (self.x(x), self.height - BOTTOM, escape(name));
        let (anchor, beside) = if at > WIDTH / 2.0 { ("end", at - 6.0) } else { ("start", at + 6.0) };
        self.push(format_args!("<path class=\"mark\" d=\"M{at:.1} {TOP:.0}V{bottom:.0}\"/>"));
        self.push(format_args!(
            "<text class=\"mark-name\" x=\"{beside:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{name}</text>",
            bottom - 8.0
        ));
    }

    /// Rectangles of one kind in one path: x from and to, y from and to.
    pub(super) fn boxes(&mut self, class: &str, opacity: f64, boxes: impl IntoIterator<Item = [f64; 4]>) {
        let mut path = String::new();
        for [from, to, low, high] in boxes {
            let (left, right, bottom, top) = (self.x(from), self.x(to), self.y(low), self.y(high));
            let _written = write!(path, "M{left:.1} {bottom:.1}V{top:.1}H{right:.1}V{bottom:.1}z");
        }
        if !path.is_empty() {
            self.push(format_args!("<path class=\"box {class}\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>"));
        }
    }

    /// A name in the upper right, from right to left.
    pub(super) fn legend(&mut self, class: &str, name: &str) {
        // About the width of the letters: there is nobody to ask for the true one.
        let width = name.chars().count() as f64 * 6.6 + 24.0;
        self.legend_x -= width;
        let (x, y, name) = (self.legend_x, TOP - 20.0, escape(name));
        self.push(format_args!(
            "<rect class=\"swatch {class}\" x=\"{x:.0}\" y=\"{:.0}\" width=\"11\" height=\"11\" rx=\"2\"/>",
            y - 5.0
        ));
        self.label(x + 16.0, y + 4.0, "start", &name);
    }

    /// As a part of the page.
    pub(super) fn inline(&self) -> String {
        let (height, title, text) = (self.height, escape(&self.title), &self.text);
        format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">{text}</svg>"
        )
    }

    /// As a file of its own, with its title.
    pub(super) fn standalone(&self) -> String {
        let (height, title, text) = (self.height + 34.0, escape(&self.title), &self.text);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"-14 -34 {:.0} {:.0}\" width=\"{:.0}\" height=\"{:.0}\" role=\"img\" aria-label=\"{title}\">\
             <style>{STYLE}</style><rect class=\"ground\" x=\"-14\" y=\"-34\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\"/>\
             <text class=\"title\" x=\"0\" y=\"-8\">{title}</text>{text}</svg>\n",
            WIDTH + 28.0,
            height + 8.0,
            WIDTH + 28.0,
            height + 8.0,
            WIDTH + 28.0,
            height + 8.0
        )
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    fn push(&mut self, part: std::fmt::Arguments) {
        let _written = self.text.write_fmt(part);
    }
}

/// Text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
