// SPDX-License-Identifier: Apache-2.0
//! Plot: the growth of each cost, as small panels in one SVG file.

use std::error::Error;
use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::Circle;
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{Color, IntoFont, RGBColor, TextStyle};

use crate::growth::{Curve, With};

/// Size of a panel, in pixels.
const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;
const COLUMNS: u32 = 3;

/// Dark on light, readable on a page of any colour.
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(36, 41, 47);
const GRID: RGBColor = RGBColor(225, 228, 232);
const LINE: RGBColor = RGBColor(9, 105, 218);

/// Draws a column for each abscissa.
pub(crate) fn draw(curves: &[Curve], to: &Path) -> Result<(), Box<dyn Error>> {
    let rows = u32::try_from(curves.len())?.div_ceil(COLUMNS);
    let paper = SVGBackend::new(to, (WIDTH * COLUMNS, HEIGHT * rows)).into_drawing_area();
    paper.fill(&PAPER)?;
    let panels = paper.split_evenly((rows as usize, COLUMNS as usize));
    let columns = [With::Clients, With::InFlight, With::Ticks];
    for (column, with) in columns.into_iter().enumerate() {
        let along = curves.iter().filter(|curve| curve.with == with);
        for (row, curve) in along.enumerate() {
            panel(&panels[row * COLUMNS as usize + column], curve)?;
        }
    }
    paper.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    curve: &Curve,
) -> Result<(), Box<dyn Error>> {
    let font = |size: u32| TextStyle::from(("sans-serif", size).into_font()).color(&INK);
    let title = match curve.over_line() {
        Ok(over) => format!("{} ({:.2} of linear)", curve.cost.name(), over.median()),
        Err(reason) => format!("{}: NOT MEASURED, {reason}", curve.cost.name()),
    };
    // Commands in flight double from point to point.
    let is_doubling = curve.with == With::InFlight;
    let along = |x: f64| if is_doubling { x.log2() } else { x };
    let points = curve.points.as_deref().unwrap_or_default();
    let points: Vec<_> = points.iter().map(|(x, y)| (along(*x), *y)).collect();
    let most = |figures: &mut dyn Iterator<Item = f64>| figures.fold(1e-9, f64::max);
    let right = most(&mut points.iter().map(|(x, _)| *x)) * 1.04;
    let top = most(&mut points.iter().map(|(_, y)| *y)) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, font(13))
        .x_label_area_size(36)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_labels(6)
        .max_light_lines(1)
        .y_labels(5)
        .x_desc(curve.with.name())
        .label_style(font(11))
        .axis_desc_style(font(12))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(PAPER)
        .x_label_formatter(&|x| format!("{:.0}", if is_doubling { x.exp2() } else { *x }))
        .y_label_formatter(&|y| if top < 20.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), LINE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, LINE.filled())))?;
    Ok(())
}
