//! A plot for each workload: what each way to trace adds to an operation.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    aims,
    document::whole,
    figures::Figures,
    modes::{BARE, MODES, Whose},
    workloads::WORKLOADS,
};
use crate::workspace;

/// Pixels: the whole width, a bar with the room around it, and what is above and below the bars.
const WIDTH: u32 = 900;
const BAR: u32 = 30;
const FRAME: u32 = 110;
/// What the names have to the left of the bars.
const NAMES: u32 = 170;

/// The file of a workload's plot, beside the document.
pub fn name(workload: &str) -> String {
    format!("performance-{workload}.svg")
}

/// Draws all of them.
pub fn write(cells: &[Figures]) -> Result<()> {
    for workload in WORKLOADS {
        let bars = bars(cells, workload.name);
        if !bars.is_empty() {
            let path = workspace::root().join("docs").join(name(workload.name));
            let title = format!("Instructions added to each {} (logarithmic)", workload.operation);
            draw(&path, &title, &bars).with_context(|| format!("cannot draw {}", path.display()))?;
        }
    }
    Ok(())
}

/// A bar: the mode, whose it is, its length.
type Bar = (&'static str, Whose, f64);

fn bars(cells: &[Figures], workload: &str) -> Vec<Bar> {
    MODES
        .iter()
        .filter(|mode| mode.name != BARE)
        .filter_map(|mode| Some((mode.name, mode.whose, aims::added(cells, aims::find(cells, workload, mode.name)?)?)))
        .collect()
}

fn draw(path: &PathBuf, title: &str, bars: &[Bar]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let size = (WIDTH, FRAME + BAR * bars.len() as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let most = bars.iter().map(|bar| bar.2).fold(1000.0, f64::max) * 4.0;
    let count = bars.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((10.0..most).log_scale(), 0.0..count)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|value| whole(*value))
        .x_label_style(("sans-serif", 16))
        .max_light_lines(0)
        .draw()
        .map_err(|e| failed(&e))?;
    for (index, (name, whose, added)) in bars.iter().enumerate() {
        let from_top = count - index as f64;
        let colour = match whose {
            Whose::Ours => RGBColor(31, 119, 180),
            Whose::Floor => RGBColor(120, 120, 120),
            Whose::Others | Whose::Nobody => RGBColor(214, 120, 30),
        };
        let length = added.max(11.0);
        let bar = Rectangle::new([(10.0, from_top - 0.82), (length, from_top - 0.18)], colour.filled());
        let middle = from_top - 0.5;
        let style = |position| ("sans-serif", 18).into_text_style(&root).pos(position);
        chart.draw_series(std::iter::once(bar)).map_err(|e| failed(&e))?;
        // Beside the bar, in pixels: SVG drops spaces.
        let (end, y) = chart.backend_coord(&(length, middle));
        let value = Text::new(whole(*added), (end + 6, y), style(Pos::new(HPos::Left, VPos::Center)));
        root.draw(&value).map_err(|e| failed(&e))?;
        let place = (NAMES as i32 + 4, y);
        root.draw(&Text::new(*name, place, style(Pos::new(HPos::Right, VPos::Center)))).map_err(|e| failed(&e))?;
    }
    root.present().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_each_mode_and_its_figure_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        draw(&path, "Title", &[("floor", Whose::Floor, 2345.0), ("trace", Whose::Ours, 34_567.0)]).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for words in ["Title", "floor", "2,345", "trace", "34,567"] {
            assert!(svg.contains(words), "no {words} in {svg}");
        }
    }
}
