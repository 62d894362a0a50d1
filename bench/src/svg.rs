//! Bar charts as SVG.

use std::fmt::Write as _;

/// A bar with the range of what it is the median of.
#[derive(Clone, Debug)]
pub struct Bar {
    pub name: &'static str,
    pub value: f64,
    pub least: f64,
    pub most: f64,
}

#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

const HEIGHT: f64 = 300.0;
const BAR: f64 = 46.0;
const GAP: f64 = 34.0;
const LEFT: f64 = 16.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 44.0;
/// By the order of the bars in their group; distinct without colour sight too.
const COLOURS: [&str; 3] = ["#0b6e99", "#8a8f98", "#d08c3c"];

/// Groups of bars beside each other. Titles and names must be plain text without markup characters.
pub fn bars(title: &str, groups: &[Group]) -> String {
    let count: usize = groups.iter().map(|group| group.bars.len()).sum();
    let width = (LEFT * 2.0 + count as f64 * BAR + groups.len() as f64 * GAP).max(420.0);
    let all = groups.iter().flat_map(|group| &group.bars);
    let top = all.map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (HEIGHT - TOP - BOTTOM) / top;
    let base = HEIGHT - BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{HEIGHT:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    legend(&mut svg, groups);
    let mut x = LEFT;
    for group in groups {
        let middle = x + group.bars.len() as f64 * BAR / 2.0;
        for (bar, colour) in group.bars.iter().zip(COLOURS) {
            let (height, centre) = (bar.value * scale, x + BAR / 2.0 - 3.0);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n\
                 <line x1=\"{centre:.1}\" x2=\"{centre:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\n\
                 <text x=\"{centre:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                base - height,
                BAR - 6.0,
                base - bar.least * scale,
                base - bar.most * scale,
                base - bar.most * scale - 4.0,
                number(bar.value),
            );
            x += BAR;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            base + 18.0,
            group.name
        );
        x += GAP;
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base}\" y2=\"{base}\" stroke=\"black\"/>\n</svg>",
        width - LEFT
    );
    svg
}

fn legend(svg: &mut String, groups: &[Group]) {
    let Some(group) = groups.iter().max_by_key(|group| group.bars.len()) else {
        return;
    };
    for (place, (bar, colour)) in group.bars.iter().zip(COLOURS).enumerate() {
        let x = LEFT + place as f64 * 110.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"37\">{}</text>",
            x + 14.0,
            bar.name
        );
    }
}

fn number(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_drawn_within_the_picture() {
        let bar = |value| Bar {
            name: "x",
            value,
            least: value / 2.0,
            most: value * 2.0,
        };
        let groups = [1.0, 500.0].map(|value| Group {
            name: "group".to_owned(),
            bars: vec![bar(value), bar(value)],
        });
        let svg = bars("title", &groups);
        assert_eq!(svg.matches("fill=\"#").count(), 4 + 2);
        assert!(!svg.contains("=\"-"), "{svg}");
    }
}
